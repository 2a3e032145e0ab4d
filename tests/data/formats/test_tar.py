"""Tar files as img2dataset and video2dataset write them."""

import gzip
import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from prepared import levels, pack, picture, run

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data import image
from flamingo_jax.data.formats import tar
from flamingo_jax.data.prepare import prepare
from flamingo_jax.data.world.clips import encode as encode_clip


def sample(key, caption="a caption", level=50):
    record = {"caption": caption, "key": key, "status": "success", "url": f"https://x.example/{level}.jpg"}
    record |= {"error_message": None, "width": 80, "height": 70, "original_width": 80, "exif": "{}", "sha256": "0"}
    return (
        (f"{key}.jpg", picture(level)),
        (f"{key}.txt", caption.encode()),
        (f"{key}.json", json.dumps(record).encode()),
    )


def read(tmp_path, data, **options):
    """What comes out of a tar file, with a good one beside it so that there is a dataset at all."""
    (tmp_path / "raw").mkdir(exist_ok=True)
    (tmp_path / "raw" / "00000.tar").write_bytes(data)
    (tmp_path / "raw" / "00001.tar").write_bytes(pack(*sample("good", "good")))
    report, documents = run("tar", tmp_path / "raw/*.tar", tmp_path / "set", **options)
    assert documents[-1].key == "00001.tar/good"
    return report, documents[:-1]


def test_an_img2dataset_tar_gives_its_pairs_in_order(tmp_path):
    data = pack(*sample("000000000", " one\n two "), *sample("000000003", "three", 60))
    report, documents = read(tmp_path, data, size=48)
    assert [d.text for d in documents] == ["one two", "three"] and levels(documents[1]) == [60]
    assert documents[0].key == "00000.tar/000000000" and documents[0].source == "00000.tar"
    assert documents[0].positions == (0,)
    assert image.decode(documents[0].media[0][0]).shape == (42, 48, 3)
    assert report["drops"] == {}


def test_a_video2dataset_tar(tmp_path):
    clip = encode_clip([np.full((72, 96, 3), 20 * i, np.uint8) for i in range(8)])  # two seconds
    members = [("00000_000.mp4", clip), ("00000_000.txt", b"one"), ("00000_000.json", b'{"caption": "no"}')]
    members += [("00000_001.mp4", clip), ("00000_001.json", b'{"caption": "two"}'), ("00001_000.mp3", b"sound")]
    report, documents = read(tmp_path, pack(*members), fps=2.0)
    assert [(d.text, len(d.media), len(d.media[0])) for d in documents] == [("one", 1, 4), ("two", 1, 4)]
    assert report["drops"] == {"pair without medium": 1}


@pytest.mark.parametrize(
    ("txt", "fields", "caption"),
    [
        (None, {"caption": "json"}, "json"),
        (b"txt", {"caption": "json"}, "txt"),
        (b" \n", {"caption": "json"}, "json"),
        (b"\xef\xbb\xbfb\xff", {"caption": 5}, "b\ufffd"),
        (b"txt", [], "txt"),
    ],
)
def test_the_text_file_comes_before_the_json(tmp_path, txt, fields, caption):
    members = [("k.jpg", picture(50)), *([("k.txt", txt)] if txt else []), ("k.json", json.dumps(fields).encode())]
    assert [d.text for d in read(tmp_path, pack(*members))[1]] == [caption]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.txt", b"x")], "pair without medium"),
        ([("a.cls", b"x")], "pair without medium"),
        ([("a.jpg", picture(50))], "pair without caption"),
        ([("a.jpg", picture(50)), ("a.txt", b" \n")], "pair without caption"),
        ([("a.jpg", picture(50)), ("a.json", b"[" * 100_000)], "pair without caption"),
        ([("a.jpg", picture(50)), ("a.json", b'{"caption": NaN}')], "pair without caption"),
        ([("a.jpg", picture(50)[:200]), ("a.txt", b"x")], "image not readable"),
        ([("a.jpg", b""), ("a.txt", b"x")], "image not readable"),
        ([("a.mp4", b"\0\0\0\x20ftypisom"), ("a.txt", b"x")], "clip not readable"),
    ],
)
def test_bad_samples_are_dropped(tmp_path, members, reason):
    report, documents = read(tmp_path, pack(*members, *sample("b")))
    assert [d.text for d in documents] == ["a caption"] and report["drops"] == {reason: 1}


def test_a_repeated_member_counts_once(tmp_path):
    picture_, caption, record = sample("a")
    report, documents = read(tmp_path, pack(picture_, ("a.jpg", b""), caption, record))
    assert [levels(d) for d in documents] == [[50]] and report["drops"] == {"member repeated": 1}


def test_neighbours_with_one_key_are_two_samples(tmp_path):
    """LAION's files repeat keys, at the borders of shards that were put together among other places."""
    _, documents = read(tmp_path, pack(*sample("a", "one", 50), *sample("a", "two", 60)))
    assert [(d.text, levels(d)) for d in documents] == [("one", [50]), ("two", [60])]
    (tmp_path / "b").mkdir()
    _, documents = read(tmp_path / "b", pack(*sample("good", "other", 70)))  # the next file's first key
    assert [d.key for d in documents] == ["00000.tar/good"]


def test_names_are_keys_and_never_paths(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    documents = read(tmp_path, pack(*sample("../../x"), *sample("d.v2/y"), *sample("/etc/z")))[1]
    assert [d.key for d in documents] == ["00000.tar/../../x", "00000.tar/d.v2/y", "00000.tar//etc/z"]
    assert not list((tmp_path / "here").iterdir())


def test_nothing_is_run(tmp_path):
    """webdataset runs ``pipe:`` names in a shell and unpickles members by their suffix."""

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    names = ("pyd", "pkl", "pickle", "pth", "npy", "cbor", "mp")
    data = pack(*[(f"a.{name}", pickle.dumps(Evil())) for name in names], *sample("a"))
    report, documents = read(tmp_path, data)
    assert [d.text for d in documents] == ["a caption"] and report["drops"] == {}
    with pytest.raises(ValueError, match="No file matches source='pipe:touch"):
        prepare(CorpusConfig(format="tar", source=f"pipe:touch {tmp_path}/owned"), tmp_path / "b")
    assert not (tmp_path / "owned").exists()


def test_links_and_folders_are_passed_over(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for type, name in ((tarfile.DIRTYPE, "d"), (tarfile.SYMTYPE, "a.jpg"), (tarfile.FIFOTYPE, "b.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = type, "/etc/passwd"
            file.addfile(info)
    report, documents = read(tmp_path, buffer.getvalue())
    assert documents == [] and report["drops"] == {}


def test_of_a_truncated_tar_the_whole_samples_survive(tmp_path):
    data = pack(*sample("a", "one"), *sample("b", "two"))
    report, documents = read(tmp_path, data[: data.index(b"b.jpg") + 700])
    assert [d.text for d in documents] == ["one"]
    assert report["drops"]["tar damaged"] == 1 and report["bad"] == 1
    assert report["first_drops"]["tar damaged"].startswith("00000.tar, after 'b.jpg': ")


def test_a_damaged_header_is_not_the_end(tmp_path):
    data = pack(*sample("a", "one"), *sample("b", "two"))
    report, documents = read(tmp_path, data.replace(b"b.txt", b"x.txt", 1))
    assert [d.text for d in documents] == ["one"]
    assert report["drops"] == {"tar damaged": 1, "pair without caption": 1} and report["bad"] == 1


@pytest.mark.parametrize("data", [b"", b"garbage" * 1000, b"\x1f\x8b" + b"\0" * 1000, b"PK\3\4" + b"\0" * 1000])
def test_what_is_no_tar_is_dropped(tmp_path, data):
    report, documents = read(tmp_path, data)
    assert documents == [] and report["drops"] == {"tar damaged": 1}


def test_a_tar_may_be_packed_but_is_no_bomb(tmp_path, monkeypatch):
    assert [d.text for d in read(tmp_path, gzip.compress(pack(*sample("a"))))[1]] == ["a caption"]
    monkeypatch.setattr("flamingo_jax.data.formats.packed.FREE_BYTES", 1_000_000)
    (tmp_path / "b").mkdir()
    report, documents = read(tmp_path / "b", gzip.compress(pack(*sample("a"), ("b.jpg", bytes(30_000_000)))))
    assert [d.text for d in documents] == ["a caption"] and report["drops"] == {"tar damaged": 1}


def test_large_members_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "MAX_MEMBER", 100_000)
    monkeypatch.setitem(tar._LIMITS, "webp", 100_000)
    members = [("a.webp", bytes(100_001)), ("a.mp3", bytes(200_000)), *sample("a")]
    members += [("b.png", bytes(60_000)), ("b.webp", bytes(60_000)), *sample("b")]
    report, documents = read(tmp_path, pack(*members))
    assert [d.text for d in documents] == ["a caption", "a caption"]
    assert report["drops"] == {"member too large": 2}


def test_damaged_bytes_never_raise(tmp_path):
    data, rng = pack(*sample("a"), *sample("b")), np.random.default_rng(0)
    for number in range(40):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(0, len(data), 5)] = rng.integers(0, 256, 5)
        damaged[:512][rng.integers(0, 512, 3)] = rng.integers(0, 256, 3)
        (tmp_path / str(number)).mkdir()
        read(tmp_path / str(number), damaged.tobytes())
