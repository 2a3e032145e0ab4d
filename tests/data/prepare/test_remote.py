"""Raw files and datasets at addresses such as gs://, with a file system in memory in the place of a bucket."""

import json

import fsspec
import pytest
from archives import picture
from fsspec.implementations.memory import MemoryFileSystem

from flamingo_jax.config import CorpusConfig, TextRules
from flamingo_jax.data.prepare import is_prepared, prepare


class Bucket(MemoryFileSystem):
    """A bucket's names have no slash before them."""

    protocol, store, pseudo_dirs = ("gs", "gcs"), {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("gs://").strip("/")

    def glob(self, path, **options):
        return [found.lstrip("/") for found in super().glob(path, **options)]


@pytest.fixture
def bucket():
    before = {name: fsspec.registry.get(name) for name in Bucket.protocol}
    for name in Bucket.protocol:
        fsspec.register_implementation(name, Bucket, clobber=True)
    yield Bucket()
    for name, cls in before.items():
        if cls is not None:
            fsspec.register_implementation(name, cls, clobber=True)


def test_files_of_a_bucket(bucket, tmp_path):
    lines = "\n".join(json.dumps({"text": f"line {i}"}) for i in range(50))
    for i in range(4):
        bucket.pipe(f"/corpus/raw/{i}.jsonl", lines.encode())
        (tmp_path / f"{i}.jsonl").write_text(lines)
    remote = CorpusConfig(format="text", source="gs://corpus/raw/*.jsonl", shards=2)
    local = CorpusConfig(format="text", source=f"{tmp_path}/*.jsonl", shards=2)
    report = prepare(remote, "gs://corpus/set", workers=1)
    assert report["documents"] == 200 and is_prepared("gs://corpus/set")
    prepare(local, tmp_path / "set", workers=1)
    names = sorted(path.name for path in (tmp_path / "set").glob("*.array_record"))
    assert [bucket.cat(f"/corpus/set/{n}") for n in names] == [(tmp_path / "set" / n).read_bytes() for n in names]
    assert prepare(remote, "gs://corpus/set", workers=1) == report
    assert not [name for name in bucket.ls("/corpus/set", detail=False) if name.endswith((".json", ".npy"))][1:]


def test_pages_and_images_of_a_bucket(bucket, tmp_path):
    """Images are found in a folder, and through an index of addresses, there too."""
    bucket.pipe("/corpus/pages/a.html", b"<img src='images/x.png'><p>one<img src='https://x.example/y.png'><p>two")
    bucket.pipe("/corpus/pages/images/x.png", picture(0))
    bucket.pipe("/corpus/map/urls.csv", b"url,file\nhttps://x.example/y.png,files/y.png\n")
    bucket.pipe("/corpus/map/files/y.png", picture(1))
    options = dict(format="html", source="gs://corpus/pages/*.html", text=TextRules(formats=()))
    report = prepare(CorpusConfig(**options), "gs://corpus/a", workers=1)
    assert (report["documents"], report["media"], report["drops"]) == (1, 1, {"medium elsewhere": 1})
    report = prepare(CorpusConfig(**options, images="gs://corpus/map/*.csv"), tmp_path / "b", workers=1)
    assert (report["documents"], report["media"], report["drops"]) == (1, 2, {})
