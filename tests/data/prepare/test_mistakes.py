"""What a preparation says to the person who asked for something that cannot be."""

import os

import pytest
from prepared import picture, run

from flamingo_jax.config import DuplicateRules, TextRules
from flamingo_jax.data.prepare import shard


def test_a_table_without_the_columns_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("what,where\n")
    with pytest.raises(
        ValueError, match=r"t\.csv has the columns what, where, but no media .* and no caption .*say what"
    ):
        run("table", f"{tmp_path}/t.csv", tmp_path / "set")


def test_mistakes_are_named_and_leave_nothing(tmp_path):
    target = tmp_path / "out" / "set"
    (tmp_path / "a.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match=r"No file matches source='.*missing/\*\.html'"):
        run("html", f"{tmp_path}/missing/*.html", target)
    with pytest.raises(ValueError, match="format='pdf' is unknown; .*html, .*tar, .*text"):
        run("pdf", f"{tmp_path}/*", target)
    with pytest.raises(ValueError, match=r"No document came out of '.*a\.jsonl': 1 x line not JSON \(first: a.jsonl:1"):
        run("text", f"{tmp_path}/a.jsonl", target)
    os.symlink(tmp_path / "nowhere", tmp_path / "b.jsonl")
    with pytest.raises(OSError, match="Cannot read .*b.jsonl: No such file"):
        run("text", f"{tmp_path}/*.jsonl", target)
    assert not target.exists()


def test_a_mended_mistake_is_no_other_preparation(tmp_path):
    (tmp_path / "a.tsv").write_text("a caption\thttps://x.example/0\n")
    (tmp_path / "0.png").write_bytes(picture(50))
    (tmp_path / "index.csv").write_text("url,file\nhttps://x.example/0,0.png\n")
    (tmp_path / "bad.csv").write_text("address\nx\n")
    raw = ("cc3m", f"{tmp_path}/a.tsv", tmp_path / "set")
    with pytest.raises(ValueError, match="No file matches images='nowhere'"):
        run(*raw, images="nowhere")
    with pytest.raises(ValueError, match="No file matches duplicates.evaluation='nowhere"):
        run(*raw, duplicates=DuplicateRules(evaluation="nowhere/*.jpg"))
    with pytest.raises(ValueError, match="must have the columns url and file"):
        run(*raw, images=f"{tmp_path}/bad.csv")
    assert run(*raw, images=f"{tmp_path}/index.csv")[0]["documents"] == 1


def test_a_dataset_among_its_raw_files(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n')
    raw = ("text", f"{tmp_path}/**/*", tmp_path / "set")
    assert run(*raw) == run(*raw)
    with pytest.raises(ValueError, match="but for those of the dataset"):
        run("text", f"{tmp_path}/set/*", tmp_path / "set")


def test_places_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(OSError, match="a.jsonl: it is no regular file"):
        run("text", f"{tmp_path}/a.jsonl", tmp_path / "set")
    with pytest.raises(ValueError, match="it is a folder: name files, such as"):
        run("text", str(tmp_path), tmp_path / "set")
    (tmp_path / "b.jsonl").write_text('{"text": "good"}\n')
    with pytest.raises(ValueError, match="b.jsonl is a file; name another place"):
        run("text", f"{tmp_path}/b.jsonl", tmp_path / "b.jsonl")


def test_text_rules_of_an_unknown_format(tmp_path):
    with pytest.raises(ValueError, match=r"text.formats has 'htlm', which is unknown; did you mean 'html'"):
        run("html", f"{tmp_path}/*", tmp_path / "set", text=TextRules(formats=("htlm",)))


def test_two_preparations_of_one_dataset(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n')
    raw = ("text", f"{tmp_path}/a.jsonl", tmp_path / "set")

    def write(*arguments, write=shard.write_shard):
        with pytest.raises(ValueError, match="Another process prepares .*set; wait for it"):
            run(*raw)
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shard, "write_shard", write)
        report, documents = run(*raw)
    assert report["documents"] == 1 and run(*raw) == (report, documents)
