"""Pairs in Parquet: img2dataset's and video2dataset's output, lists of addresses, and Hugging Face's images."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared import levels, pack, picture, run

from flamingo_jax.config import CorpusConfig, TextRules
from flamingo_jax.data import record
from flamingo_jax.data.formats import parquet
from flamingo_jax.data.prepare import prepare
from flamingo_jax.data.prepare.plan import make_plan
from flamingo_jax.data.world.clips import encode as encode_clip


def write(path, columns, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


def downloaded(images, suffix="jpg"):
    """What img2dataset writes with output_format=parquet: failures have no file."""
    count = len(images)
    return {
        "url": [f"https://x.example/{i}" for i in range(count)],
        "caption": [f"caption {i}" for i in range(count)],
        "key": [f"{i:09d}" for i in range(count)],
        "status": ["success" if image else "failed_to_download" for image in images],
        "error_message": [None if image else "404" for image in images],
        "width": [80 if image else None for image in images],
        suffix: pa.array(images, pa.binary()),
    }


def indexed(path, *numbers):
    """A tar of img2dataset's in which addresses are found."""
    members = []
    for i in numbers:
        members += [(f"{i:09d}.jpg", picture(50 + 10 * i))]
        members += [(f"{i:09d}.json", json.dumps({"url": f"https://x.example/{i}"}).encode())]
    path.write_bytes(pack(*members))


@pytest.mark.parametrize(("suffix", "format"), [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_files_of_img2dataset(tmp_path, suffix, format):
    write(tmp_path / "00000.parquet", downloaded([picture(50, format), None, picture(70, format)], suffix))
    report, documents = run("parquet", tmp_path / "*.parquet", tmp_path / "set")
    assert [(d.key, d.text, levels(d)) for d in documents] == [
        ("00000.parquet:0", "caption 0", [50]),
        ("00000.parquet:2", "caption 2", [70]),
    ]
    assert report["drops"] == {"pair without medium": 1} and report["bad"] == 0


def test_files_of_video2dataset(tmp_path):
    clip = encode_clip([np.full((72, 96, 3), 20 * i, np.uint8) for i in range(8)])  # two seconds
    write(tmp_path / "a.parquet", downloaded([clip, None, clip[:100]], "mp4"))
    report, [document] = run("parquet", tmp_path / "a.parquet", tmp_path / "set", fps=2.0)
    assert len(document.media[0]) == 4 and report["drops"] == {"pair without medium": 1, "clip not readable": 1}


@pytest.mark.parametrize(
    ("url", "text"),
    [("URL", "TEXT"), ("url", "text"), ("url", "caption"), ("Url", "txt")],
    ids=["LAION", "COYO", "relaion", "other"],
)
def test_lists_of_addresses(tmp_path, url, text):
    """Their images are what img2dataset has made of them; those that it could not load are missing."""
    indexed(tmp_path / "00000.tar", 0, 2)
    columns = {url: [f"https://x.example/{i}" for i in range(3)] + ["", None], text: ["a", "b", "c", "d", "e"]}
    write(tmp_path / "part.parquet", columns | {"WIDTH": [1.0] * 5, "NSFW": ["UNLIKELY"] * 5, "hash": [1, 2, 3, 4, -5]})
    report, documents = run("parquet", tmp_path / "part.parquet", tmp_path / "set", images=f"{tmp_path}/*.tar")
    assert [(d.text, levels(d)) for d in documents] == [("a", [50]), ("c", [70])]
    assert report["drops"] == {"medium missing": 1, "pair without medium": 2}


def test_images_as_hugging_face_stores_them_and_several_captions(tmp_path):
    (tmp_path / "b.png").write_bytes(picture(60, "PNG"))
    images = [{"bytes": picture(50), "path": "a.png"}, {"bytes": None, "path": "b.png"}, {"bytes": b"", "path": None}]
    images += [None, {"bytes": None, "path": "../b.png"}]
    captions = [["one", "two"], ["three"], ["four"], ["five"], ["six"]]
    write(tmp_path / "a.parquet", {"image": images, "sentences": captions})
    report, documents = run("parquet", tmp_path / "a.parquet", tmp_path / "set")
    assert [(d.key, d.text, levels(d)) for d in documents] == [
        ("a.parquet:0", "one", [50]),
        ("a.parquet:0.1", "two", [50]),
        ("a.parquet:1", "three", [60]),
    ]
    assert report["drops"] == {"pair without medium": 2, "medium elsewhere": 1}


def test_columns_of_any_name(tmp_path):
    indexed(tmp_path / "00000.tar", 0)
    write(tmp_path / "a.parquet", {"where": ["https://x.example/0"], "what": ["text"], "caption": [5], "image": [6]})
    options = {"images": f"{tmp_path}/*.tar", "columns": {"media": "where", "caption": "what"}}
    [document] = run("parquet", tmp_path / "a.parquet", tmp_path / "set", **options)[1]
    assert document.text == "text"
    for columns, message in (
        ({"media": "wher"}, r"a\.parquet has the columns where, what, caption, image, but no 'wher'; say what"),
        ({"medium": "where"}, "columns names 'medium', which is not there; did you mean 'media'"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(CorpusConfig(format="parquet", source=f"{tmp_path}/*.parquet", columns=columns), tmp_path / "b")


def test_cells_of_other_types_are_no_media_and_no_captions(tmp_path):
    write(tmp_path / "a.parquet", {"image": [1, 2], "caption": ["a", "b"]})
    write(tmp_path / "b.parquet", {"image": [picture(50)] * 2, "caption": [1.5, 2.5]})
    write(tmp_path / "c.parquet", {"image": [picture(50)], "caption": ["good"]})
    report, documents = run("parquet", tmp_path / "*.parquet", tmp_path / "set")
    assert [d.text for d in documents] == ["good"]
    assert report["drops"] == {"pair without medium": 2, "pair without caption": 2}


@pytest.mark.parametrize(
    ("group", "bounds"),
    [
        (3, [0, 6, 12, 18, 20]),
        (7, [0, 7, 14, 20]),
        (10, [0, 5, 10, 15, 20]),
        (18, [0, 6, 12, 18, 20]),
        (20, [0, 6, 13, 20]),
    ],
)
def test_files_are_cut_into_tasks_of_row_groups_or_of_parts_of_them(tmp_path, monkeypatch, group, bounds):
    monkeypatch.setattr(parquet, "ROWS", 7)
    monkeypatch.setattr(parquet, "_PARTS", 4)
    monkeypatch.setattr(parquet, "_BATCH", 2)
    columns = {"jpg": pa.array([picture(50)] * 20, pa.binary()), "caption": [f"{i}" for i in range(20)]}
    write(tmp_path / "a.parquet", columns, row_group_size=group)
    plan = make_plan(CorpusConfig(format="parquet", source=f"{tmp_path}/a.parquet"))
    assert [(task.start, task.stop) for task in plan.shards[0]] == list(itertools.pairwise(bounds))
    _, documents = run("parquet", tmp_path / "a.parquet", tmp_path / "set")
    assert [d.text for d in documents] == [f"{i}" for i in range(20)]


def test_a_row_group_is_read_by_few_tasks(tmp_path):
    """Each task begins at the group's first row: many would take a time that is quadratic in its rows."""
    path = write(tmp_path / "a.parquet", {"url": ["x"] * 1_000_000, "caption": [f"{i}" for i in range(1_000_000)]})
    options = CorpusConfig(format="parquet", source=str(path))
    tasks = list(parquet.tasks(str(path), options))
    assert len(tasks) == 32 and (tasks[0].start, tasks[-1].stop) == (0, 1_000_000)
    assert {task.stop - task.start for task in tasks} == {31_250}
    assert [a.stop for a in tasks[:-1]] == [b.start for b in tasks[1:]]


def test_damaged_files_cost_themselves(tmp_path):
    whole = write(tmp_path / "raw" / "z.parquet", downloaded([picture(50)])).read_bytes()
    damaged = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "html": b"<html>not found</html>",
        "no_footer": whole[:-4] + b"xxxx",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "long_footer": whole[:-8] + b"\xff\xff\xff\x7fPAR1",
        "zeros": b"PAR1" + bytes(100) + b"PAR1",
    }
    for name, data in damaged.items():
        (tmp_path / "raw" / f"{name}.parquet").write_bytes(data)
    report, documents = run("parquet", tmp_path / "raw/*.parquet", tmp_path / "set")
    assert (
        len(documents) == 1 and report["drops"] == {"parquet damaged": len(damaged)} and report["bad"] == len(damaged)
    )


def test_a_damaged_part_costs_its_row_group(tmp_path):
    path = write(
        tmp_path / "raw" / "a.parquet", downloaded([picture(50)] * 30), row_group_size=10, compression="snappy"
    )
    groups = pq.ParquetFile(path).metadata
    column = next(i for i in range(groups.num_columns) if groups.schema.column(i).name == "caption")
    start = groups.row_group(1).column(column).dictionary_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    report, documents = run("parquet", path, tmp_path / "set")
    assert [d.text for d in documents] == [f"caption {i}" for i in (*range(10), *range(20, 30))]
    assert report["drops"] == {"parquet damaged": 1}
    assert report["first_drops"]["parquet damaged"].startswith("a.parquet, rows from 10 on: ")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damage_is_told_once_however_many_tasks_read_its_row_group(tmp_path, monkeypatch, workers):
    """Of a row group's rows, those before the damage are there; its first row is told, by the task that has it."""
    monkeypatch.setattr(parquet, "ROWS", 20)
    columns = {"caption": [f"caption {i:06d}" for i in range(300)], "image": pa.array([picture(50)] * 300, pa.binary())}
    layout = {"use_dictionary": ["image"], "compression": "none", "data_page_size": 500, "write_batch_size": 50}
    path = write(tmp_path / "raw" / "a.parquet", columns, row_group_size=200, **layout)
    data = bytearray(path.read_bytes())
    at = data.index(b"caption 000100") - 100  # in the header of its page, for pages hold 50 rows
    data[at : at + 96] = b"\xff" * 96
    path.write_bytes(data)
    options = CorpusConfig(format="parquet", source=str(path), text=TextRules(formats=()), max_bad=1.0, shards=5)
    report = prepare(options, tmp_path / "set", workers=workers)
    places = [f"a.parquet:{i}" for i in (*range(96), *range(200, 300))]
    dataset = record.Source(tmp_path / "set")
    assert [dataset[i].key for i in range(len(dataset))] == places
    assert report["drops"] == {"parquet damaged": 1} and report["bad"] == 1
    assert report["first_drops"]["parquet damaged"].startswith("a.parquet, rows from 96 on: ")


def test_row_groups_that_claim_other_rows_than_the_file_are_damage(tmp_path, monkeypatch):
    path = write(tmp_path / "raw" / "a.parquet", downloaded([picture(50)] * 4), row_group_size=2)
    write(tmp_path / "raw" / "b.parquet", downloaded([picture(50)]))
    groups = parquet._groups
    monkeypatch.setattr(
        parquet, "_groups", lambda table: groups(table)[:1] if table.num_row_groups == 2 else groups(table)
    )
    report, documents = run("parquet", tmp_path / "raw/*.parquet", tmp_path / "set")
    assert len(documents) == 1 and report["drops"] == {"parquet damaged": 1}
    assert report["first_drops"]["parquet damaged"] == f"{path.name}: it claims 4 rows, its row groups 2"


def test_text_that_is_not_utf8_costs_its_row(tmp_path):
    captions = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(np.array([0, 1, 2, 3], np.int32)), pa.py_buffer(b"a\xffc")]
    )
    write(tmp_path / "a.parquet", pa.table({"jpg": pa.array([picture(50)] * 3, pa.binary()), "caption": captions}))
    report, documents = run("parquet", tmp_path / "a.parquet", tmp_path / "set")
    assert [d.text for d in documents] == ["a", "c"] and report["drops"] == {"parquet damaged": 1}
    assert report["first_drops"]["parquet damaged"].startswith("a.parquet, rows from 1 on: ")


def test_claims_of_many_rows_are_not_believed(tmp_path):
    """A run of one value takes a few bytes, however long it is."""
    schema = pa.schema([("image", pa.string()), ("caption", pa.string())])
    nulls = pa.table({name: pa.nulls(200_000, pa.string()) for name in schema.names}, schema)
    write(tmp_path / "raw" / "a.parquet", nulls, row_group_size=200_000, compression="zstd")
    write(tmp_path / "raw" / "b.parquet", downloaded([picture(50)]))
    report, documents = run("parquet", tmp_path / "raw/*.parquet", tmp_path / "set")
    assert len(documents) == 1 and report["drops"] == {"parquet damaged": 1}
    assert "it claims 200000 rows in" in report["first_drops"]["parquet damaged"]


@pytest.mark.parametrize("rows", [1, 40])
def test_what_unpacks_to_much_more_is_not_unpacked(tmp_path, monkeypatch, rows):
    """One large value of zeros; and a smaller one that a dictionary repeats."""
    monkeypatch.setattr(parquet, "FREE_BYTES", 2_000_000)
    columns = {"jpg": pa.array([bytes(4_000_000 // rows)] * rows, pa.binary()), "caption": ["x"] * rows}
    path = write(tmp_path / "a.parquet", columns, compression="zstd")
    write(tmp_path / "b.parquet", downloaded([picture(50)]))
    report, documents = run("parquet", tmp_path / "*.parquet", tmp_path / "set", shards=1)
    assert path.stat().st_size < 10_000 and len(documents) == 1
    assert report["drops"] == {"parquet damaged": 1} | ({"image not readable": 16} if rows > 1 else {})
    assert (
        f"rows from {16 if rows > 1 else 0} on: they unpack to more than 200 times"
        in report["first_drops"]["parquet damaged"]
    )


def test_no_flipped_bit_of_the_description_ends_the_process(tmp_path):
    """pyarrow dies of some, where its metadata are looked at more closely."""
    columns = {"jpg": pa.array([b"x", None], pa.binary()), "caption": pa.array([["one"], []], pa.list_(pa.string()))}
    write(tmp_path / "a.parquet", columns, store_schema=False)
    script = """if True:
        import sys
        from flamingo_jax.config import CorpusConfig
        from flamingo_jax.data.corpus import Corpus, Task
        from flamingo_jax.data.formats import parquet
        path = sys.argv[1]
        data = bytearray(open(path, "rb").read())
        corpus = Corpus(CorpusConfig(format="parquet", source=path), "", lambda name: None)
        for place in range(len(data) - 8 - int.from_bytes(data[-8:-4], "little"), len(data)):
            for bit in range(8):
                data[place] ^= 1 << bit
                open(path, "wb").write(data)
                data[place] ^= 1 << bit
                try:
                    list(parquet.read(Task(path), corpus))
                except ValueError:  # a column has another name
                    pass
    """
    found = subprocess.run([sys.executable, "-c", script, tmp_path / "a.parquet"], capture_output=True, text=True)
    assert not found.returncode, found.stderr[-3000:]


def test_flipped_bytes_never_raise(tmp_path):
    whole = write(tmp_path / "a.parquet", downloaded([picture(50)] * 8), row_group_size=4).read_bytes()
    good, rng = write(tmp_path / "good.parquet", downloaded([picture(50)])).read_bytes(), np.random.default_rng(0)
    for number in range(30):
        data = np.frombuffer(whole, np.uint8).copy()
        data[rng.integers(0, len(data), 20)] = rng.integers(0, 256, 20)
        data[-1000:][rng.integers(0, 900, 2)] = rng.integers(0, 256, 2)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "a.parquet").write_bytes(data.tobytes())
        (folder / "b.parquet").write_bytes(good)
        try:
            run("parquet", folder / "*.parquet", folder / "set")
        except ValueError as error:  # the name of a column was hit
            assert "has the columns" in str(error)
