"""Datasets for tests, written from documents."""

from flamingo_jax.data import record
from flamingo_jax.data.document import encode


def write(directory, documents, shards=1, report=None):
    """Writes documents as ``shards`` files of about equal size. Returns the manifest."""
    documents, files = list(documents), {}
    directory.mkdir(parents=True)
    for i in range(shards):
        part = documents[i * len(documents) // shards : (i + 1) * len(documents) // shards]
        name = f"{i:05d}-of-{shards:05d}.array_record"
        files[name] = record.write_file(f"{directory}/{name}", map(encode, part))
    return record.write_manifest(directory, files, report or {})
