"""Tar files that somebody made to do harm, or that were damaged, read where they are."""

import io
import os
import pickle
import tarfile

import numpy as np
from damage import damage, repair
from in_place import GOOD, MEMBERS, documents, opened, sample, texts, write
from prepared import levels, pack, picture, run

from flamingo_jax.data import image
from flamingo_jax.data.formats import tar


def test_names_are_keys_and_never_paths(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    keys = ["../../x", "/etc/z", "x" * 300, "n\n\0l", ""]
    members = [member for key in keys for member in sample(key)]
    _, source = opened(write(tmp_path / "raw", **{"[a] b": pack(*members)}), tmp_path / "index")
    _, expected = run("tar", f"{tmp_path}/raw/*.tar", tmp_path / "set")
    assert texts(source) == [(d.key, d.text) for d in expected]
    assert [key for key, _ in texts(source)][:3] == ["[a] b.tar/../../x", "[a] b.tar//etc/z", f"[a] b.tar/{'x' * 300}"]
    assert not list((tmp_path / "here").iterdir())


def test_texts_that_utf8_cannot_hold(tmp_path):
    members = [("a\udcff.jpg", picture(50)), ("a\udcff.json", rb'{"caption": "\ud800 x"}')]
    members += [("b.jpg", picture(50)), ("b.txt", b"\xef\xbb\xbfb\xff"), ("c\udcff.jpg", picture(50))]
    dataset = write(tmp_path / "raw", a=pack(*members))
    os.rename(tmp_path / "raw/a.tar", os.fsencode(tmp_path / "raw") + b"/\xff.tar")
    report, source = opened(dataset, tmp_path / "index")
    _, expected = run("tar", dataset.source, tmp_path / "set")
    assert report["first_drops"] == {"pair without caption": "?.tar/c?"}  # it is printed
    assert texts(source) == [(d.key, d.text) for d in expected] == [("?.tar/a?", "? x"), ("?.tar/b", "b\ufffd")]
    assert [d.source for d in documents(source)] == ["?.tar", "?.tar"]


def test_links_folders_and_pickles_are_passed_over(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for type, name in ((tarfile.DIRTYPE, "d"), (tarfile.SYMTYPE, "a.jpg"), (tarfile.LNKTYPE, "a.png")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = type, "/etc/passwd"
            file.addfile(info)
        for name, data in (("a.pkl", pickle.dumps(Evil())), *sample("a")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    _, source = opened(write(tmp_path / "raw", a=buffer.getvalue()), tmp_path / "index")
    assert texts(source) == [("a.tar/a", "a caption")] and levels(source.read(0)) == [50]
    assert not (tmp_path / "owned").exists()


def test_sizes_that_headers_claim(tmp_path, monkeypatch):
    """More than there is, less than nothing, and holes: none of them may be read, or hold up the index."""
    whole = bytearray(pack(*sample("a"), *sample("b")))
    at = whole.index(b"b.jpg")
    for field in (b"77777777777\0", b"\xff" * 12, b"\x80" + b"\xff" * 11, b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7):
        whole[at + 124 : at + 136] = field
        data = repair("a.tar", bytes(whole))
        report, source = opened(write(tmp_path / "raw", a=data), tmp_path / "index")
        assert texts(source) == [("a.tar/a", "a caption")]
        assert report["drops"] in ({"tar damaged": 1}, {"member too large": 1, "tar damaged": 1})
    header = tarfile.TarInfo("c.jpg")
    header.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,4",
        "GNU.sparse.size": "9",
    }
    whole = whole[:at] + header.tobuf(tarfile.PAX_FORMAT)
    report, source = opened(write(tmp_path / "raw", a=bytes(whole)), tmp_path / "index")
    assert report["first_drops"]["tar damaged"].endswith("'c.jpg' is stored with holes") and len(source) == 1
    monkeypatch.setattr("flamingo_jax.data.sources.tar_index.MAX_IMAGE_BYTES", 2000)
    monkeypatch.setattr("flamingo_jax.data.prepare.make.MAX_CAPTION", 9)
    members = [*sample("a", "short"), ("b.jpg", bytes(2001)), ("b.txt", b"x"), ("c.jpg", b""), ("c.txt", b"x" * 10)]
    report, _ = opened(write(tmp_path / "raw", a=pack(*members)), tmp_path / "index")
    assert report["drops"] == {"image too large": 1, "caption too long": 1} and report["documents"] == 1


def test_large_members_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "MAX_MEMBER", 100_000)
    monkeypatch.setitem(tar._LIMITS, "webp", 100_000)
    members = [
        ("a.webp", bytes(100_001)),
        *sample("a"),
        ("b.png", bytes(60_000)),
        ("b.webp", bytes(60_000)),
        *sample("b"),
    ]
    report, source = opened(write(tmp_path / "raw", a=pack(*members)), tmp_path / "index")
    _, expected = run("tar", f"{tmp_path}/raw/*.tar", tmp_path / "set")
    assert texts(source)[0] == (expected[0].key, expected[0].text)
    assert report["drops"]["member too large"] == 2


def test_damage_raises_nothing_else_and_drops_no_more_than_a_preparation(tmp_path):
    data, rng = pack(*MEMBERS), np.random.default_rng(0)
    for number in range(60):
        folder = tmp_path / str(number)
        dataset = write(folder, a=damage(rng, "a.tar", data, GOOD), b=GOOD)
        _, expected = run("tar", dataset.source, folder / "set")
        try:
            _, source = opened(dataset, folder / "index")
        except ValueError as error:
            assert "is packed by" in str(error) or "has the clip" in str(error)
            continue
        found = [d for d in documents(source) if _is_readable(d.media[0][0])]
        assert [(d.key, d.text) for d in found] == [(d.key, d.text) for d in expected]
        shard = folder / "a.tar"
        after = damage(rng, "a.tar", shard.read_bytes(), GOOD)[: shard.stat().st_size]
        shard.write_bytes(after.ljust(shard.stat().st_size, b"\0"))
        for i in range(len(source)):  # of which all were open
            try:
                source.read(i)
            except ValueError as error:
                assert "a.tar" in str(error)


def _is_readable(data):
    try:
        image.decode(data)
    except ValueError:
        return False
    return True
