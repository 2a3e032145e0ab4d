import io
import json
import tarfile

import numpy as np
import pytest

from flamingo_jax.data import image, tar
from flamingo_jax.data.document import Document

PICTURE = image.encode(np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8))


def pack(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sample(key, caption="a caption"):
    record = {"caption": caption, "key": key, "status": "success", "url": "https://x.example/y.jpg"}
    return (f"{key}.jpg", PICTURE), (f"{key}.txt", caption.encode()), (f"{key}.json", json.dumps(record).encode())


def read(data):
    return list(tar.documents(io.BytesIO(data), "00000.tar", 48))


def kinds(data):
    return [o.text if isinstance(o, Document) else o.reason for o in read(data)]


def test_an_img2dataset_tar_gives_its_pairs_in_order():
    documents = read(pack(*sample("000000000", " one\n two "), *sample("000000003", "three")))
    assert [d.text for d in documents] == ["one two", "three"]
    assert documents[0].key == "00000.tar/000000000" and documents[0].source == "00000.tar"
    assert documents[0].positions == (0,)
    assert image.decode(documents[0].media[0][0]).shape == (37, 48, 3)


def test_the_caption_may_be_in_the_json_alone():
    picture, _, record = sample("k", "from json")
    assert kinds(pack(picture, record)) == ["from json"]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.txt", b"x")], "pair without image"),
        ([("a.jpg", PICTURE)], "pair without caption"),
        ([("a.jpg", PICTURE), ("a.txt", b" \n")], "pair without caption"),
        ([("a.jpg", PICTURE), ("a.json", b"[" * 100_000)], "pair without caption"),
        ([("a.jpg", PICTURE), ("a.json", b'{"caption": NaN}')], "pair without caption"),
        ([("a.jpg", PICTURE[:200]), ("a.txt", b"x")], "image not readable"),
        ([("a.jpg", b""), ("a.txt", b"x")], "image not readable"),
    ],
)
def test_bad_samples_are_dropped(members, reason):
    assert kinds(pack(*members, *sample("good"))) == [reason, "a caption"]


def test_a_repeated_member_counts_once():
    picture, caption, record = sample("a")
    assert kinds(pack(picture, ("a.jpg", b""), caption, record)) == ["member repeated", "a caption"]


def test_names_are_keys_and_never_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    documents = read(pack(*sample("../../x"), *sample("d.v2/y"), *sample("/etc/z")))
    assert [d.key for d in documents] == ["00000.tar/../../x", "00000.tar/d.v2/y", "00000.tar//etc/z"]
    assert not list(tmp_path.iterdir())


def test_links_and_folders_are_passed_over():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for type, name in ((tarfile.DIRTYPE, "d"), (tarfile.SYMTYPE, "a.jpg"), (tarfile.FIFOTYPE, "b.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = type, "/etc/passwd"
            file.addfile(info)
    assert kinds(buffer.getvalue()) == []


def test_of_a_truncated_tar_the_whole_samples_survive():
    data = pack(*sample("a", "one"), *sample("b", "two"))
    assert kinds(data[: len(data) // 2 - 4000])[-1] in ("one", "tar damaged")
    second = data.index(b"b.jpg")
    assert kinds(data[: second + 700]) == ["tar damaged", "one"]


@pytest.mark.parametrize("data", [b"", b"garbage" * 1000, b"\x1f\x8b" + b"\0" * 1000])
def test_what_is_no_tar_is_dropped(data):
    assert kinds(data) == ["tar damaged"]


def test_damaged_bytes_never_raise():
    data, rng = pack(*sample("a"), *sample("b")), np.random.default_rng(0)
    for _ in range(100):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(0, len(data), 5)] = rng.integers(0, 256, 5)
        damaged[:512][rng.integers(0, 512, 3)] = rng.integers(0, 256, 3)
        read(damaged.tobytes())
