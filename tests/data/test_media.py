"""Media that are found by their addresses: in folders, in img2dataset's tar files, by tables."""

import json
import os

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


def test_an_index_of_tar_files_finds_what_comes_before_a_damage(tmp_path):
    members = []
    for i in range(3):
        members += [
            (f"{i}.jpg", b"%d" % i * 1000),
            (f"{i}.json", json.dumps({"url": f"http://x.example/{i}"}).encode()),
        ]
    data = pack(*members)
    whole = index(tmp_path, "a.tar", data)
    assert [whole(f"http://x.example/{i}") for i in range(3)] == [b"%d" % i * 1000 for i in range(3)]
    cut = index(tmp_path, "a.tar", data[: data.index(b"2.json")])
    assert cut("http://x.example/1") == b"1" * 1000 and cut("http://x.example/2").reason == "medium missing"
    bad = index(tmp_path, "a.tar", data.replace(b'{"url"', b'["url"', 1))
    assert bad("http://x.example/0").reason == "medium missing"


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
