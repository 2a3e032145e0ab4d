"""Text alone, in every container."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared import run

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data.formats import lines
from flamingo_jax.data.prepare import prepare


def jsonl(*texts, name="text"):
    return "\n".join(json.dumps({name: text, "meta": {}}) for text in texts).encode()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, pa.Codec("zstd").compress], ids=["plain", "gzip", "zstd"])
def test_json_lines_packed_or_not(tmp_path, pack):
    (tmp_path / "a.jsonl.x").write_bytes(pack(jsonl(" one\ntwo ", "three")))
    report, documents = run("text", tmp_path / "a*", tmp_path / "set")
    assert [(d.key, d.text, d.media) for d in documents] == [
        ("a.jsonl.x:1", "one\ntwo", ()),
        ("a.jsonl.x:2", "three", ()),
    ]


def test_parts_of_gzip_files_follow_one_another(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(jsonl("one") + b"\n") + gzip.compress(jsonl("two")))
    assert [d.text for d in run("text", tmp_path / "a.gz", tmp_path / "set")[1]] == ["one", "two"]


@pytest.mark.parametrize("name", ["text", "Content"])
def test_parquet(tmp_path, name):
    pq.write_table(pa.table({"id": [1, 2, 3, 4], name: [" one", None, " ", "two"]}), tmp_path / "a.parquet")
    report, documents = run("text", tmp_path / "a.parquet", tmp_path / "set")
    assert [(d.key, d.text) for d in documents] == [("a.parquet:0", "one"), ("a.parquet:3", "two")]
    assert report["drops"] == {"line without text": 2} and report["bad"] == 0


def test_the_column_may_have_any_name(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl("one", name="body"))
    pq.write_table(pa.table({"body": ["two"], "text": [1]}), tmp_path / "b.parquet")
    documents = run("text", tmp_path / "*", tmp_path / "set", columns={"text": "body"})[1]
    assert [d.text for d in documents] == ["one", "two"]


def test_wrong_columns_are_named(tmp_path):
    pq.write_table(pa.table({"body": ["two"]}), tmp_path / "b.parquet")
    for columns, message in (
        ({}, r"b\.parquet has the columns body, but no text \(text or content or document\); say .*\"text\": \.\.\."),
        ({"text": "txt"}, "has the columns body, but no 'txt'"),
        ({"txt": "body"}, "columns names 'txt', which is not there; did you mean 'text'"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(CorpusConfig(format="text", source=f"{tmp_path}/*.parquet", columns=columns), tmp_path / "set")


def test_long_lines_are_passed_over_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE", 100)
    (tmp_path / "a.jsonl").write_bytes(jsonl("one", "x" * 1000, "two") + b"\n" + b"y" * 350)
    report, documents = run("text", tmp_path / "a.jsonl", tmp_path / "set")
    assert [d.text for d in documents] == ["one", "two"] and report["drops"] == {"line too long": 2}


def test_what_comes_before_a_cut_is_kept(tmp_path):
    rng = np.random.default_rng(0)
    data = gzip.compress(jsonl(*[rng.bytes(200).hex() for _ in range(2000)]))
    (tmp_path / "a.gz").write_bytes(data[: len(data) // 2])
    report, documents = run("text", tmp_path / "a.gz", tmp_path / "set")
    assert 500 < len(documents) < 1000 and report["drops"].get("file damaged") == 1
    assert [d.key for d in documents[:2]] == ["a.gz:1", "a.gz:2"]
