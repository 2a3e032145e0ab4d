"""Folders of public files, written by the tests themselves, and the way through the converter and back."""

import pytest
from public import encode

from flamingo_jax.data.benchmarks import convert
from flamingo_jax.evaluation import benchmark


@pytest.fixture
def put(tmp_path):
    """Writes files {name: content} into source/; what is neither text nor bytes becomes JSON, and media are empty."""

    def put(files, media=()):
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        for name, content in {**files, **dict.fromkeys(media, b"")}.items():
            path = source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(content))
        return source

    return put


@pytest.fixture
def converted(tmp_path, put):
    """Converts files and media and reads them back: (benchmark, report)."""

    def converted(name, files, media=(), **options):
        report = convert(name, put(files, media), tmp_path / "target", **options)
        return benchmark.read(tmp_path / "target", name), report

    return converted
