"""Tables, and the layouts of Conceptual Captions, Conceptual 12M and WebVid."""

import gzip
import json

import numpy as np
import pytest
from prepared import levels, pack, picture, run

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data.formats import table
from flamingo_jax.data.prepare import prepare
from flamingo_jax.data.prepare.plan import make_plan
from flamingo_jax.data.world.clips import encode as encode_clip


def write(tmp_path, name, data):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return tmp_path / name


def index(tmp_path, **files):
    """img2dataset's or video2dataset's output for addresses {number: content}."""
    members = []
    for key, data in files.items():
        members += [(f"{key}.{'mp4' if data[4:8] == b'ftyp' else 'jpg'}", data)]
        members += [(f"{key}.json", json.dumps({"url": f"https://x.example/{key}"}).encode())]
    write(tmp_path, "00000.tar", pack(*members))
    return f"{tmp_path}/*.tar"


def clip(seconds=2):
    return encode_clip([np.full((72, 96, 3), 20 * i, np.uint8) for i in range(4 * seconds)])


@pytest.mark.parametrize(
    ("format", "name", "row"),
    [
        ("cc3m", "Train_GCC-training.tsv", "{1}\t{0}\n"),
        ("cc12m", "cc12m.tsv", "{0}\t{1}\n"),
        ("cc12m", "x.txt", "{0}\t{1}\r\n"),
    ],
)
def test_conceptual_captions(tmp_path, format, name, row):
    """Neither has a header, and their columns are the other way round; quotation marks are text."""
    images = index(tmp_path, a=picture(50), b=picture(60))
    captions = ['a "quoted caption', "  two\rlines \u00e9", "gone", ""]
    rows = [row.format(f"https://x.example/{key}", text) for key, text in zip("abca", captions, strict=True)]
    path = write(tmp_path, f"raw/{name}", "".join([*rows, "one field\n", "\n", "\t\n"]))
    report, documents = run(format, path, tmp_path / "set", images=images)
    assert [(d.text, levels(d)) for d in documents] == [('a "quoted caption', [50]), ("two lines \u00e9", [60])]
    assert documents[0].key == f"{name}@0" and documents[1].key == f"{name}@{len(rows[0].encode())}"
    empty = report["drops"].pop("pair without caption") + report["drops"].pop("pair without medium")
    assert empty == 3 and report["drops"] == {"medium missing": 1} and report["bad"] == 0


WEBVID = "videoid,contentUrl,duration,page_dir,name\n"


@pytest.mark.parametrize("place", ["videos/015001_015050/7.mp4", "videos/7.mp4", None])
def test_webvid(tmp_path, place):
    """Clips are found in a folder by their number, below their page's folder or not, or by their address."""
    if place:
        write(tmp_path, place, clip())
    images = f"{tmp_path}/videos" if place else index(tmp_path, seven=clip())
    text = 'seven,https://x.example/seven,PT00H00M10S,015001_015050,"a clip, of ""x"""\n'.replace("seven", "7", 1)
    text += "8,https://x.example/eight,PT00H00M10S,015001_015050,gone\n,,,,\n"
    path = write(tmp_path, "raw/results_2M_train.csv", WEBVID + text)
    report, [document] = run("webvid", path, tmp_path / "set", images=images, fps=2.0)
    assert (document.text, len(document.media[0])) == ('a clip, of "x"', 4)
    assert report["drops"] == {"medium missing": 1, "pair without medium": 1}


def test_webvid_has_no_way_out_of_its_folder(tmp_path):
    write(tmp_path, "secret.mp4", clip())
    write(tmp_path, "videos/1.mp4", clip())
    rows = [f"../secret,,,x,a\nsecret,,,..,b\nsecret,,,../videos/..,c\n{tmp_path}/secret,,,,d\n1,,,,good\n"]
    path = write(tmp_path, "raw/a.csv", WEBVID + "".join(rows))
    _, documents = run("webvid", path, tmp_path / "set", images=f"{tmp_path}/videos")
    assert [d.text for d in documents] == ["good"]


@pytest.mark.parametrize("pack_", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_tables_are_cut_into_tasks_by_rows(tmp_path, monkeypatch, suffix, pack_):
    monkeypatch.setattr(table, "ROWS", 3)
    write(tmp_path, "a.jpg", picture(50))
    comma, quote = (",", '"') if suffix == "csv" else ("\t", "")
    feed = "\n" if suffix == "csv" else " "
    text = f"file{comma}caption\n" + "".join(f"a.jpg{comma}{quote}é{feed}{i}{quote}\n" for i in range(7))
    path = write(tmp_path, f"t.{suffix}", pack_(("\ufeff" + text).encode()))
    plan = make_plan(CorpusConfig(format="table", source=str(path)))
    assert len(plan.shards[0]) == 3
    report, documents = run("table", path, tmp_path / "set")
    assert [d.text for d in documents] == [f"é {i}" for i in range(7)] and report["drops"] == {}
    assert len({d.key for d in documents}) == 7


def test_columns_by_name_and_by_number(tmp_path):
    write(tmp_path, "a.jpg", picture(50))
    path = write(tmp_path, "t.csv", "a.jpg,one\na.jpg,two\n")
    _, documents = run("table", path, tmp_path / "a", columns={"media": "0", "caption": "1"})
    assert [d.text for d in documents] == ["one", "two"]
    path = write(tmp_path, "t.csv", "Image,x,Title\na.jpg,,one\n")
    assert run("table", path, tmp_path / "b")[1][0].text == "one"
    assert run("table", path, tmp_path / "c", columns={"caption": "Image"})[1][0].text == "a.jpg"
    for columns, message in (
        ({"caption": "y"}, r"t\.csv has the columns Image, x, Title, but no 'y'; say what they are called"),
        ({"captions": "x"}, "columns names 'captions', which is not there; did you mean 'caption'"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(CorpusConfig(format="table", source=str(path), columns=columns), tmp_path / "d")


def test_an_open_quotation_mark_costs_what_follows(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "MAX_FIELD", 1000)
    write(tmp_path, "a.jpg", picture(50))
    rows = ["a.jpg,one\n", 'a.jpg,"two\n', *["a.jpg,more\n"] * 200]
    path = write(tmp_path, "t.csv", "path,caption\n" + "".join(rows))
    report, documents = run("table", path, tmp_path / "set")
    assert [d.text for d in documents] == ["one"]
    assert report["drops"] == {"table damaged": 1} and report["first_drops"]["table damaged"].startswith("t.csv@23: ")


@pytest.mark.parametrize(("suffix", "kept"), [("csv", ["one"]), ("tsv", ["one", "three"])])
def test_long_lines_are_not_held(tmp_path, monkeypatch, suffix, kept):
    monkeypatch.setattr(table, "MAX_LINE", 1000)
    write(tmp_path, "a.jpg", picture(50))
    comma = "," if suffix == "csv" else "\t"
    rows = [f"a.jpg{comma}{text}\n" for text in ("one", "x" * 2500, "three")]
    path = write(tmp_path, f"t.{suffix}", f"path{comma}caption\n" + "".join(rows))
    report, documents = run("table", path, tmp_path / "set")
    assert [d.text for d in documents] == kept and report["drops"] == {"table damaged": 1}


def test_binary_files_and_cut_ones(tmp_path):
    write(tmp_path, "a.jpg", picture(50))
    rng = np.random.default_rng(0)
    text = "path,caption\n" + "".join(f"a.jpg,{rng.bytes(300).hex()}\n" for _ in range(1000))
    data = gzip.compress(text.encode())
    path = write(tmp_path, "t.csv.gz", data[: len(data) // 2])
    report, documents = run("table", path, tmp_path / "set")
    assert 200 < len(documents) < 500 and report["drops"]["table damaged"] == 1
    path = write(tmp_path, "t.csv", picture(50))
    with pytest.raises(ValueError, match=r"t\.csv has the columns .*but no media|No document came out"):
        prepare(CorpusConfig(format="table", source=str(path)), tmp_path / "b")
