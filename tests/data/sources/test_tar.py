"""Tar files of pairs, read where they are."""

import concurrent.futures
import gzip
import multiprocessing
import os
import pickle
import shutil

import numpy as np
import pytest
from in_place import GOOD, MEMBERS, documents, opened, options, sample, texts, write
from prepared import levels, pack, picture, run

from flamingo_jax.data import image
from flamingo_jax.data.prepare.state import own
from flamingo_jax.data.sources import index, open_source, tar_index


def test_the_documents_are_those_of_a_preparation(tmp_path):
    dataset = write(tmp_path / "raw", a=pack(*MEMBERS), b=GOOD)
    report, source = opened(dataset, tmp_path / "index")
    prepared, expected = run("tar", dataset.source, tmp_path / "set")
    found = [d for d in documents(source) if d.key != "a.tar/006"]  # nothing is decoded until it is trained on
    assert [(d.key, d.text, d.positions, d.source) for d in found] == [
        (d.key, d.text, d.positions, d.source) for d in expected
    ]
    assert found[2].text == "from json" and found[3].key == "a.tar/a/b.c/007"
    for one, other in zip(found, expected, strict=True):
        pixels, stored = image.decode(one.media[0][0]), image.decode(other.media[0][0])
        assert np.abs(pixels.astype(int) - stored).max() <= (0 if one.media == other.media else 3)
    assert sum(one.media == other.media for one, other in zip(found, expected, strict=True)) >= 3
    assert {**prepared["drops"], "image not readable": 0} == {**report["drops"], "image not readable": 0}
    assert report["first_drops"]["pair without caption"] == "a.tar/002"
    assert report["documents"] == report["media"] == len(source) == 6
    assert (report["format"], report["source"]) == ("tar", dataset.source)


def test_the_same_in_threads_copies_and_processes(tmp_path):
    shards = {f"{i:03}": pack(*sample("a", f"a {i}", 50), *sample("b", f"b {i}", 60)) for i in range(4)}
    _, source = opened(write(tmp_path / "raw", **shards), tmp_path / "index")
    expected = documents(source)
    copy = pickle.loads(pickle.dumps(source))
    order = list(np.random.default_rng(0).permutation(np.arange(8).repeat(50)))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, order)) == [expected[i] for i in order]
    assert documents(copy) == expected and repr(copy) == repr(source) and " at 0x" not in repr(source)
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # as Grain
        assert pool.submit(source.read, 5).result() == expected[5]
    assert all(source.read(3, choice) == expected[3] for choice in (0.0, 0.99))


def test_records_are_located(tmp_path):
    shards = {"a": pack(*sample("x"), ("y.jpg", b""), *sample("z")), "b": pack(("c.cls", b"")), "c": GOOD}
    _, source = opened(write(tmp_path / "raw", **shards), tmp_path / "index")
    places = [(str(tmp_path / "raw/a.tar"), 0), (str(tmp_path / "raw/a.tar"), 1), (str(tmp_path / "raw/c.tar"), 0)]
    assert [source.locate(i) for i in range(3)] == places
    for at in (-1, 3):
        for look in (source.read, source.locate):
            with pytest.raises(IndexError, match=f"has 3 samples, none at {at}"):
                look(at)


def test_no_file_is_read_twice(tmp_path):
    """Files that are overwritten with their size and time kept: whoever read them would find no sample."""
    dataset = write(tmp_path / "raw", a=pack(*sample("a")), b=pack(*sample("b")), c=GOOD)
    first, _ = opened(dataset, tmp_path / "index")
    written = {path.name: path.read_bytes() for path in (tmp_path / "index").iterdir()}
    for name in ("a", "b"):
        path = tmp_path / "raw" / f"{name}.tar"
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second, source = opened(dataset, tmp_path / "index")
    assert second == first and len(source) == 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "index").iterdir()} == written
    # Nor are they when others changed, went and came.
    (tmp_path / "raw/c.tar").unlink()
    write(tmp_path / "raw", d=pack(*sample("d", "new")))
    third, source = opened(dataset, tmp_path / "index")
    assert third["documents"] == 3 and source.read(2).text == "new"
    assert len(list((tmp_path / "index").iterdir())) == 3


def test_what_changed_is_indexed_anew_and_named(tmp_path, caplog):
    dataset = write(tmp_path / "raw", a=pack(*sample("a", "old")), b=pack(*sample("b")), c=GOOD)
    opened(dataset, tmp_path / "index")
    write(tmp_path / "raw", a=pack(*sample("a", "new")), d=pack(*sample("d")))
    (tmp_path / "raw/c.tar").unlink()
    assert not caplog.text
    _, source = opened(dataset, tmp_path / "index")
    assert [key for key, _ in texts(source)] == ["a.tar/a", "b.tar/b", "d.tar/d"] and source.read(0).text == "new"
    assert "1 changed (first: a.tar), 1 added (first: d.tar), 1 gone (first: c.tar)" in caplog.text


def test_an_index_that_cannot_be_made_leaves_the_old_one(tmp_path):
    dataset = write(tmp_path / "raw", a=pack(*sample("a")), b=GOOD)
    _, source = opened(dataset, tmp_path / "index")
    before = documents(source)
    write(tmp_path / "raw", c=gzip.compress(GOOD))
    with pytest.raises(ValueError, match=r"c\.tar is packed by gzip"):
        index(dataset, tmp_path / "index")
    assert documents(open_source(dataset, tmp_path / "index")) == before
    assert not [path for path in (tmp_path / "index").iterdir() if path.name.startswith(".")]


def test_processes_write_the_same_index(tmp_path, monkeypatch):
    shards = {f"{i:02}": pack(*sample(f"{i}", f"caption {i}")) for i in range(8)}
    dataset = write(tmp_path / "raw", **shards | {"03": b"", "05": pack(("x.txt", b"y"))})
    one, _ = opened(dataset, tmp_path / "one")
    seen = []
    two, _ = opened(dataset, tmp_path / "two", workers=2, progress=lambda *done: seen.append(done))
    assert one == two and seen == [(i + 1, 8) for i in range(8)]
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


def test_of_a_truncated_tar_the_whole_samples_are_used(tmp_path):
    data = pack(*sample("a", "one"), *sample("b", "two"))
    dataset = write(tmp_path / "raw", a=data[: data.index(b"b.jpg") + 700], b=GOOD)
    report, source = opened(dataset, tmp_path / "index")
    assert [text for _, text in texts(source)] == ["one", "good"] and report["bad"] == 1
    assert report["drops"] == {"tar damaged": 1}
    assert report["first_drops"]["tar damaged"].startswith("a.tar, after 'b.jpg': ")
    with pytest.raises(ValueError, match=r"1 of 5 documents and media are damaged, more than max_bad=0\.1.*\n.*a\.tar"):
        index(options(tmp_path / "raw", max_bad=0.1), tmp_path / "index")


def test_whole_images_at_every_cut(tmp_path):
    """Wherever a file ends: what is indexed can be read, and is what a preparation finds."""
    data = pack(*sample("a", "one"), *sample("b", "two", 60), *sample("c", "three", 70))
    for number, end in enumerate(range(512, len(data), 1531)):
        folder = tmp_path / str(number)
        dataset = write(folder, a=data[:end], b=GOOD)
        _, expected = run("tar", dataset.source, folder / "set")
        _, source = opened(dataset, folder / "index")
        assert texts(source) == [(d.key, d.text) for d in expected]
        assert [levels(d) for d in documents(source)] == [levels(d) for d in expected]


def test_files_that_are_not_what_was_indexed(tmp_path):
    dataset = write(tmp_path / "raw", a=pack(*sample("a")), b=GOOD)
    with pytest.raises(ValueError, match="There is no index of raw files at .*index"):
        open_source(dataset, tmp_path / "index")
    _, source = opened(dataset, tmp_path / "index")
    path = tmp_path / "raw/b.tar"
    with path.open("ab") as file:
        file.write(bytes(512))
    message = rf"b\.tar has {len(GOOD) + 512} bytes in place of {len(GOOD)}; start the run anew"
    with pytest.raises(ValueError, match=message):
        open_source(dataset, tmp_path / "index")
    with pytest.raises(ValueError, match=rf"Cannot read sample 0 of .*{message}"):  # not yet opened by this process
        source.read(1)
    path.unlink()
    with pytest.raises(ValueError, match=r"Cannot read .*b\.tar: No such file or directory; start the run anew"):
        open_source(dataset, tmp_path / "index")
    assert source.read(0).text == "a caption"
    os.truncate(tmp_path / "raw/a.tar", 600)  # it is open
    with pytest.raises(ValueError, match=r"Cannot read sample 0 of .*a\.tar: .*a\.tar has only 0 of \d+ bytes at \d+"):
        source.read(0)
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(ValueError, match="There is no index of raw files"):
        open_source(dataset, tmp_path / "index")


def test_a_caption_that_is_gone(tmp_path):
    dataset = write(tmp_path / "raw", a=pack(("a.jpg", picture(50)), ("a.txt", b"xyz")))
    _, source = opened(dataset, tmp_path / "index")
    path = tmp_path / "raw/a.tar"
    path.write_bytes(path.read_bytes().replace(b"xyz", b"\n\n\n"))
    with pytest.raises(ValueError, match=r"Cannot read sample 0 of .*a\.tar: its caption is none any more"):
        source.read(0)


def test_a_damaged_index_is_written_anew(tmp_path):
    dataset = write(tmp_path / "raw", a=GOOD)
    _, source = opened(dataset, tmp_path / "index")
    expected = documents(source)
    [blocks] = (tmp_path / "index").glob("samples-*.bin")
    for path, data in ((blocks, b"x"), (tmp_path / "index/index.json", b"{"), (tmp_path / "index/index.json", b"[1]")):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="There is no index of raw files at .*, or it is damaged"):
            open_source(dataset, tmp_path / "index")
        assert documents(opened(dataset, tmp_path / "index")[1]) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(GOOD), r"a\.tar is packed by gzip, .* unpack it, or prepare the dataset \(in_place=False\)"),
        (b"\x28\xb5\x2f\xfd" + bytes(9), r"a\.tar is packed by zstd"),
        (
            pack(*sample("a"), ("b.mp4", b"clip"), ("b.txt", b"x")),
            r"a\.tar has the clip b\.mp4, .*: prepare the dataset",
        ),
        (pack(("a.jpg", picture(50))), r"No sample is in .*: 1 x pair without caption \(first: a\.tar/a\)"),
        (pack(), "No sample is in .*: its files are empty"),
        (
            b"",
            r"No sample is in .*: 1 x tar damaged \(first: a\.tar: empty header\)",
        ),
        (b"PK\3\4" + bytes(2000), r"1 x tar damaged"),
    ],
)
def test_what_cannot_be_read_in_place_is_named(tmp_path, data, message):
    dataset = write(tmp_path / "raw", a=data)
    with pytest.raises(ValueError, match=message):
        index(dataset, tmp_path / "index")


def test_mistakes_are_named(tmp_path):
    for source, message in (
        (f"{tmp_path}/no/*.tar", "No file matches source="),
        ("gs://bucket/*.tar", r"source='gs://bucket/\*\.tar' is not in this machine's file system"),
    ):
        with pytest.raises(ValueError, match=message):
            index(options("", source=source), tmp_path / "index")
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(ValueError, match=r"a\.tar: it is no regular file"):
        index(options(tmp_path), tmp_path / "index")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        index(options(tmp_path), tmp_path / "file")


def test_few_files_are_open_at_once(tmp_path):
    shards = {f"{i:03}": pack(("a.jpg", b"x"), ("a.txt", str(i).encode())) for i in range(300)}
    _, source = opened(write(tmp_path / "raw", **shards), tmp_path / "index")
    before = len(os.listdir("/proc/self/fd"))
    order = list(np.random.default_rng(0).permutation(np.arange(300).repeat(10)))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert [d.text for d in pool.map(source.read, order)] == [str(i) for i in order]
    assert len(os.listdir("/proc/self/fd")) <= before + 256


def test_two_preparations_do_not_meet(tmp_path):
    dataset = write(tmp_path / "raw", a=GOOD)
    (tmp_path / "index").mkdir()
    with own(str(tmp_path / "index")):
        with pytest.raises(ValueError, match="Another process prepares"):
            index(dataset, tmp_path / "index")
    index(dataset, tmp_path / "index")
    with own(str(tmp_path / "index")):
        index(dataset, tmp_path / "index")  # there is nothing to do
    assert tar_index.load(str(tmp_path / "index")).shards[0].samples == 1
