import json
import pickle
import subprocess
import sys
import textwrap

import pytest
from written import write

from flamingo_jax.data import record
from flamingo_jax.data.document import Document, encode


def documents(count):
    return [Document(str(i), f"text {i}", (0,), ((bytes([i % 256]) * 100,),), "s") for i in range(count)]


@pytest.mark.parametrize("shards", [1, 3])
def test_written_documents_are_read_back(tmp_path, shards):
    manifest = write(tmp_path / "a" / "set", documents(10), shards, {"note": 1})
    source = pickle.loads(pickle.dumps(record.Source(tmp_path / "a" / "set")))
    assert len(source) == manifest["count"] == 10
    assert [source[i] for i in range(10)] == documents(10)
    assert source.manifest == manifest == record.read_manifest(tmp_path / "a" / "set")
    assert manifest["report"] == {"note": 1}
    assert [f["records"] for f in manifest["files"].values()] == ([10] if shards == 1 else [3, 3, 4])
    with pytest.raises(IndexError):
        source[10]


def test_the_same_documents_give_the_same_bytes(tmp_path):
    assert write(tmp_path / "a", documents(7), 2) == write(tmp_path / "b", documents(7), 2)


def test_a_shard_without_documents(tmp_path):
    write(tmp_path / "set", documents(2), 4)
    source = record.Source(tmp_path / "set")
    assert [source[i].key for i in range(len(source))] == ["0", "1"]


@pytest.mark.parametrize("shards", [0, 2])
def test_a_dataset_without_documents_is_named(tmp_path, shards):
    write(tmp_path / "set", [], shards)
    with pytest.raises(ValueError, match="dataset .*set has no documents"):
        record.Source(tmp_path / "set")


def test_a_failing_source_leaves_nothing(tmp_path):
    def failing():
        yield from map(encode, documents(3))
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        record.write_file(str(tmp_path / "file"), failing())
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Cannot write .*file/set: Not a directory"):
        record.write_file(f"{tmp_path}/file/set", [b"a"])


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    # A limit on file sizes stands for the full disk: the same system call fails at the same places.
    code = textwrap.dedent(f"""
        import os, resource, signal
        from flamingo_jax.data import record
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        try:
            record.write_file({str(tmp_path / "shard")!r}, (os.urandom(100_000) for i in range(40)))
        except OSError as error:
            print(error)
    """)
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == f"Cannot write {tmp_path / 'shard'}: File too large.\n"
    assert not list(tmp_path.iterdir())


def test_damage_is_named(tmp_path):
    with pytest.raises(ValueError, match="no dataset at .*nothing"):
        record.Source(tmp_path / "nothing")
    folder = tmp_path / "set"
    write(folder, documents(4), 2)
    shard = folder / "00001-of-00002.array_record"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="00001-of-00002.* bytes in place of"):
        record.Source(folder)
    shard.unlink()
    with pytest.raises(ValueError, match="Cannot read .*00001-of-00002"):
        record.Source(folder)
    # The size is right and the content is not: the good file's records are still there.
    shard.write_bytes(b"\x55" * len(whole))
    source = record.Source(folder)
    assert source[0].key == "0"
    with pytest.raises(ValueError, match=r"Record 3 of .*set is damaged"):
        source[3]
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(ValueError, match="schema 99"):
        record.Source(folder)
    (entry,) = list(manifest["files"].values())[:1]
    wrong = [{"files": []}, {"files": {"a": None}}, {"files": {"../a": entry}}, {"count": "4"}, {"report": "4"}]
    wrong += [
        {"files": {"a": {**entry, key: value}}} for key, value in (("records", -1), ("bytes", 1.5), ("sha256", 0))
    ]
    for content in ("{", "[" * 100_000, *(json.dumps(manifest | changes) for changes in wrong)):
        (folder / "manifest.json").write_text(content)
        with pytest.raises(ValueError, match="manifest.json is damaged"):
            record.Source(folder)
