"""Media that are found by their addresses: in folders, in img2dataset's tar files, by tables."""

import json
import os
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared import pack

from flamingo_jax.data import media


def index(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    media.write_index(str(tmp_path / name), f"{tmp_path}/index")
    return media.Index(f"{tmp_path}/index", str(tmp_path))


@pytest.mark.parametrize("address", ["x/a.jpg", "/x/a.jpg", "file:///x/a.jpg", "file:///x/%61.jpg"])
def test_names_and_file_addresses_are_found_in_a_folder(tmp_path, address):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.jpg").write_bytes(b"data")
    assert media.in_folder(str(tmp_path))(address) == b"data"


@pytest.mark.parametrize(
    "address",
    [
        "../a.jpg",
        "x/../../a.jpg",
        "file:///%2e%2e/a.jpg",
        "file:///..%5ca.jpg",
        "file://host/a.jpg",
        "http://x.example/a.jpg",
        "http://[",
        "gs://bucket/a.jpg",
        "file:///x/gs://bucket/a.jpg",
        "x/http://a.jpg",
        "a\0.jpg",
    ],
)
def test_nothing_outside_of_the_folder_is_opened(tmp_path, address):
    (tmp_path / "a.jpg").write_bytes(b"data")
    (tmp_path / "folder").mkdir()
    assert media.in_folder(str(tmp_path / "folder"))(address).reason == "medium elsewhere"


def test_folders_pipes_and_impossible_names_are_missing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe", "x" * 5000, "none", "a/b"):
        assert media.in_folder(str(tmp_path))(name).reason == "medium missing"


def sample(i, record=None):
    fields = json.dumps({"url": f"http://x.example/{i}"}).encode() if record is None else record
    return (f"{i}.jpg", b"%d" % i * 1000), (f"{i}.json", fields)


def found(index, count):
    """Which of the first ``count`` samples' images an index finds, all of them whole."""
    data = [index(f"http://x.example/{i}") for i in range(count)]
    assert all(item == b"%d" % i * 1000 or item.reason == "medium missing" for i, item in enumerate(data))
    return [i for i, item in enumerate(data) if isinstance(item, bytes)]


def listed(tmp_path):
    """(reason, place) of what was damaged when the index was made, whose list is removed."""
    path = tmp_path / "index.bad.jsonl"
    items = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    path.unlink(missing_ok=True)
    assert all(item["bad"] for item in items)
    return [(item["reason"], item["place"].replace(f"{tmp_path}/", "")) for item in items]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b'["url": 1}', "line not JSON"),
        (b"\xff", "line not JSON"),
        (b"[" * 100_000, "line not JSON"),
        (b"[]", "line not an object"),
        (b"{}", None),
        (b'{"url": 3}', None),
    ],
)
def test_a_bad_member_of_a_tar_file_costs_one_image(tmp_path, record, reason):
    whole = index(tmp_path, "a.tar", pack(*(member for i in range(5) for member in sample(i))))
    assert found(whole, 5) == [0, 1, 2, 3, 4] and not listed(tmp_path)
    data = pack(*(member for i in range(5) for member in sample(i, record if i == 2 else None)))
    assert found(index(tmp_path, "a.tar", data), 5) == [0, 1, 3, 4]
    assert [(kind, place.partition(":")[0]) for kind, place in listed(tmp_path)] == (
        [(reason, f"a.tar, '2.json' at byte {data.index(record)}")] if reason else []
    )


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        (lambda data: data[: data.index(b"2.json")], "a.tar, from byte 6656 on: "),
        (lambda data: data[: data.index(b"2.json") + 100], "a.tar, from byte 6656 on: "),
        (lambda data: data[: data.index(b"2.json") + 520], "a.tar, from byte 6656 on: "),
        (lambda data: data[: data.index(b"2.jpg") + 700], "a.tar, from byte 5820 on: "),
        (lambda data: data.replace(b"2.jpg", b"x.jpg", 1), "a.tar, from byte 5120 on: "),
    ],
    ids=["between members", "in a header", "in an address", "in an image", "checksum"],
)
def test_an_index_of_tar_files_finds_what_comes_before_a_damage_and_lists_it(tmp_path, damage, place):
    data = pack(*(member for i in range(5) for member in sample(i)))
    damaged = index(tmp_path, "a.tar", damage(data))
    assert found(damaged, 5) == [0, 1]
    [(reason, where)] = listed(tmp_path)
    assert reason == "tar damaged" and where.startswith(place), where


def test_what_is_no_tar_file_is_listed(tmp_path):
    for data in (b"", b"garbage" * 1000, b"\x1f\x8b" + b"\0" * 1000):
        assert found(index(tmp_path, "a.tar", data), 1) == []
        [(reason, place)] = listed(tmp_path)
        assert reason == "tar damaged" and place.startswith("a.tar, from byte 0 on: "), place


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_of_equal_addresses_the_first_one_is_found(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(media, "_CHUNK", chunk)
    for name, numbers in (("c.tar", range(6)), ("a\udcff.tar", (4, 4)), ("b.tar", (3, 4, 5, 3))):  # not UTF-8
        data = [(f"{n}-{i}{suffix}", content) for n, i in enumerate(numbers) for suffix, content in named(i, name, n)]
        (tmp_path / name).write_bytes(pack(*data))
    media.write_index(f"{tmp_path}/*.tar", f"{tmp_path}/index")
    find = media.Index(f"{tmp_path}/index", str(tmp_path))
    where = ["c.tar 0", "c.tar 1", "c.tar 2", "b.tar 0", "a\udcff.tar 0", "b.tar 2"]
    assert [find(f"http://x.example/{i}").decode("utf-8", "surrogateescape") for i in range(6)] == where


def named(i, *parts):
    content = " ".join(map(str, parts)).encode("utf-8", "surrogateescape")
    return (".jpg", content), (".json", sample(i)[1][1])


def test_an_index_takes_few_bytes_an_image(tmp_path, monkeypatch):
    """Lists of Python's objects took 280; for a table, whose files have names of 30 bytes each, 450."""
    count = 100_000
    monkeypatch.setattr(media, "_CHUNK", 1000)
    monkeypatch.setattr(media, "find_files", lambda source: [source])
    for most, name, size in ((100, "a.tar", 9), (160, "some/folder/with/%09d.jpg", -1)):
        items = ((f"http://x.example/{i}", name % i if "%" in name else name, i, size) for i in range(count))
        monkeypatch.setattr(media, "_entries", lambda path, items=items: items)
        tracemalloc.start()
        media.write_index("x", f"{tmp_path}/index")
        peak = tracemalloc.get_traced_memory()[1]
        media.Index(f"{tmp_path}/index", "")
        tracemalloc.stop()
        assert peak < most * count, f"{peak / count} bytes an image"


def test_a_table_says_where_files_are(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"data")
    rows = ["url,file", "u1,a.jpg", "u2", "u3,a.jpg,more,fields", "u4,gopher://x/y", "u5,no\0name", ",a.jpg"]
    found = index(tmp_path, "a.csv", "\n".join([*rows, '"u6\n",a.jpg']).encode())
    assert found("u1") == found("u3") == found("u6\n") == b"data"
    assert {found(address).reason for address in ("u4", "u5")} == {"medium missing"}
    pq.write_table(pa.table({"url": ["u1", None], "file": ["a.jpg", "a.jpg"]}), tmp_path / "a.parquet")
    assert index(tmp_path, "a.parquet", (tmp_path / "a.parquet").read_bytes())("u1") == b"data"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.csv", b"url,path\nx,y,z\n", "columns url and file, but has url, path"),
        ("a.csv", b'url,file\n"' + b"x" * 2_000_000, "field larger"),
        ("a.parquet", b"PAR1 no", "cannot be used"),
        ("a.txt", b"", "give a folder"),
    ],
)
def test_what_is_no_table_is_refused_by_name(tmp_path, name, data, said):
    with pytest.raises(ValueError, match=said) as raised:
        index(tmp_path, name, data)
    assert type(raised.value) is ValueError and name in str(raised.value)
