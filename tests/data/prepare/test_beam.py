"""Apache Beam's driver does what the local one does."""

import functools
import json

import pytest

from flamingo_jax.config import CorpusConfig, DuplicateRules
from flamingo_jax.data import record
from flamingo_jax.data.prepare import beam, prepare

pytest.importorskip("apache_beam", reason="pip install 'flamingo_jax[beam]'")
DIRECT = functools.partial(beam.run, arguments=["--runner=DirectRunner"])


def test_both_drivers_give_the_same_files(tmp_path):
    for i in range(6):
        lines = [json.dumps({"text": f"file {i} line {j}"}) for j in range(20)] + ["damaged"]
        (tmp_path / f"{i}.jsonl").write_text("\n".join(lines))
    options = CorpusConfig(format="text", source=f"{tmp_path}/*.jsonl", shards=3, duplicates=DuplicateRules(pages=True))
    local = prepare(options, tmp_path / "local", workers=2)
    assert prepare(options, tmp_path / "beam", driver=DIRECT) == local
    assert record.read_manifest(tmp_path / "beam") == record.read_manifest(tmp_path / "local")
    files = sorted(path.name for path in (tmp_path / "local").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "beam").iterdir()) and len(files) == 7
    assert all((tmp_path / "local" / f).read_bytes() == (tmp_path / "beam" / f).read_bytes() for f in files)


def test_an_error_of_the_work_comes_through(tmp_path):
    (tmp_path / "a.jsonl").write_text("{\n" * 2000)
    options = CorpusConfig(format="text", source=f"{tmp_path}/a.jsonl", max_bad=0.1)
    with pytest.raises(Exception, match="documents and media are damaged, more than max_bad=0.1"):
        prepare(options, tmp_path / "set", driver=DIRECT)
