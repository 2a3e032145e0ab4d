import json
import pickle
import subprocess
import sys
import textwrap

import pytest

from flamingo_jax.data import record
from flamingo_jax.data.document import Document, encode


def documents(count):
    return [Document(str(i), f"text {i}", (0,), ((bytes([i % 256]) * 100,),), "s") for i in range(count)]


@pytest.mark.parametrize("shards", [1, 3])
def test_written_documents_are_read_back(tmp_path, shards):
    manifest = record.write(tmp_path / "a" / "set", iter(documents(10)), shards, {"note": 1})
    source = pickle.loads(pickle.dumps(record.Source(tmp_path / "a" / "set")))
    assert len(source) == manifest["count"] == 10
    assert sorted((source[i] for i in range(10)), key=lambda d: int(d.key)) == documents(10)
    assert source.manifest == manifest == record.read_manifest(tmp_path / "a" / "set")
    assert manifest["report"] == {"note": 1}
    assert [f["records"] for f in manifest["files"].values()] == ([10] if shards == 1 else [4, 3, 3])
    with pytest.raises(IndexError):
        source[10]


def test_the_same_documents_give_the_same_bytes(tmp_path):
    first = record.write(tmp_path / "a", documents(7), 2)
    second = record.write(tmp_path / "b", [encode(document) for document in documents(7)], 2)
    assert first == second


def test_more_shards_than_documents(tmp_path):
    record.write(tmp_path / "set", documents(2), 4)
    source = record.Source(tmp_path / "set")
    assert [source[i].key for i in range(len(source))] == ["0", "1"]


def test_a_failing_source_leaves_nothing(tmp_path):
    def failing():
        yield from documents(3)
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        record.write(tmp_path / "set", failing(), 2)
    with pytest.raises(ValueError, match="No document came for .*set"):
        record.write(tmp_path / "set", [], 2)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_replaced(tmp_path):
    (tmp_path / ".set.partial").mkdir()
    (tmp_path / ".set.partial" / "00007-of-00009.array_record").write_bytes(b"half")
    record.write(tmp_path / "set", documents(2), 1)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["00000-of-00001.array_record", "manifest.json", "set"]


def test_a_full_folder_is_never_overwritten(tmp_path):
    record.write(tmp_path / "set", documents(2), 1)
    with pytest.raises(ValueError, match="set exists already"):
        record.write(tmp_path / "set", documents(3), 1)
    assert len(record.Source(tmp_path / "set")) == 2


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Cannot write the dataset .*file/set: Not a directory"):
        record.write(tmp_path / "file" / "set", documents(1), 1)


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    # A limit on file sizes stands for the full disk: the same system call fails at the same places.
    code = textwrap.dedent(f"""
        import os, resource, signal
        from flamingo_jax.data import record
        from flamingo_jax.data.document import Document
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        try:
            record.write({str(tmp_path / "set")!r},
                         (Document(str(i), "t", (0,), ((os.urandom(100_000),),)) for i in range(40)), 2)
        except OSError as error:
            print(error)
    """)
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == f"Cannot write the dataset {tmp_path / 'set'}: File too large; nothing was left there.\n"
    assert not list(tmp_path.iterdir())


def test_damage_is_named(tmp_path):
    with pytest.raises(ValueError, match="no dataset at .*nothing"):
        record.Source(tmp_path / "nothing")
    folder = tmp_path / "set"
    record.write(folder, documents(4), 2)
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
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="manifest.json is damaged"):
        record.Source(folder)
