"""COCO's and SBU's files of captions."""

import json

import pytest
from prepared import levels, pack, picture, run

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data.formats import captions
from flamingo_jax.data.prepare import prepare
from flamingo_jax.data.prepare.plan import make_plan


def coco(*annotations, images=None, split="train2014"):
    images = images or [
        {
            "id": i,
            "file_name": f"COCO_{split}_{i:012d}.jpg",
            "width": 80,
            "height": 70,
            "license": 1,
            "coco_url": f"http://images.cocodataset.org/{split}/COCO_{split}_{i:012d}.jpg",
            "date_captured": "2013-11-14 16:28:13",
        }
        for i in (9, 25)
    ]
    rows = [{"image_id": i, "id": 100 + n, "caption": text} for n, (i, text) in enumerate(annotations)]
    return {"info": {}, "licenses": [], "images": images, "annotations": rows}


def write(tmp_path, name, content):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return tmp_path / name


@pytest.mark.parametrize("folder", ["", "train2014/"])
def test_coco_has_a_pair_for_every_caption(tmp_path, folder):
    write(tmp_path, f"images/{folder}COCO_train2014_000000000009.jpg", picture(50))
    write(tmp_path, f"images/{folder}COCO_train2014_000000000025.jpg", picture(60))
    content = coco((25, "first of 25"), (9, " first of 9\n"), (25, "second of 25"))
    path = write(tmp_path, "annotations/captions_train2014.json", content)
    report, documents = run("coco", path, tmp_path / "set", images=f"{tmp_path}/images")
    assert [(d.key, d.text, levels(d)) for d in documents] == [
        ("captions_train2014.json:101", "first of 9", [50]),
        ("captions_train2014.json:100", "first of 25", [60]),
        ("captions_train2014.json:102", "second of 25", [60]),
    ]
    assert report["drops"] == {}


def test_coco_2017_and_addresses(tmp_path):
    """Its images are named by numbers alone; the folder is in the name of the file of captions."""
    images = [
        {"id": 1, "file_name": "000000000001.jpg"},
        {"id": 2, "file_name": "2.jpg", "coco_url": "http://c.example/2"},
    ]
    path = write(tmp_path, "captions_val2017.json", coco((1, "one"), (2, "two"), images=images))
    write(tmp_path, "val2017/000000000001.jpg", picture(50))
    report, documents = run("coco", path, tmp_path / "a")
    assert [(d.text, levels(d)) for d in documents] == [("one", [50])] and report["drops"] == {"medium elsewhere": 1}
    write(tmp_path, "0.tar", pack(("0.jpg", picture(60)), ("0.json", b'{"url": "http://c.example/2"}')))
    assert [levels(d) for d in run("coco", path, tmp_path / "b", images=f"{tmp_path}/*.tar")[1]] == [[50], [60]]


def test_coco_is_cut_into_tasks_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr(captions, "IMAGES", 2)
    images = [{"id": i, "file_name": "a.jpg"} for i in range(5)]
    path = write(tmp_path, "c.json", coco(*[(i % 4, f"{i}") for i in range(8)], (7, "of none"), images=images))
    write(tmp_path, "a.jpg", picture(50))
    plan = make_plan(CorpusConfig(format="coco", source=str(path)))
    assert [(task.start, task.stop) for task in plan.shards[0]] == [(0, 2), (2, 4), (4, 6)]
    report, documents = run("coco", path, tmp_path / "set")
    assert [d.text for d in documents] == ["0", "4", "1", "5", "2", "6", "3", "7"]
    assert report["drops"] == {"caption damaged": 1, "pair without caption": 1}


def test_damaged_entries_of_coco_cost_themselves(tmp_path):
    write(tmp_path, "a.jpg", picture(50))
    write(tmp_path, "../outside.jpg", picture(50))
    images = [5, {"id": 1}, {"file_name": "a.jpg"}, {"id": [1], "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}]
    images += [{"id": 3, "file_name": "../outside.jpg", "coco_url": 5}]
    content = coco((2, "good"), (3, "outside"), (2, 5), (2, None), ([], "x"), images=images)
    content["annotations"] += ["x", None, {"image_id": 2}, {"caption": "x"}]
    report, documents = run("coco", write(tmp_path, "c.json", content), tmp_path / "set")
    assert [d.text for d in documents] == ["good"]
    assert report["drops"] == {"caption damaged": 11, "medium elsewhere": 1} and report["bad"] == 11


def test_sbu(tmp_path):
    members = []
    for i in (0, 2):
        members += [(f"{i}.jpg", picture(50 + 10 * i))]
        members += [(f"{i}.json", json.dumps({"url": f"http://x.example/{i}"}).encode())]
    write(tmp_path, "images/0.tar", pack(*members))
    urls = [f"http://x.example/{i}" for i in range(3)] + [None]
    content = {"image_urls": urls, "user_ids": ["u"] * 4, "captions": ["zero", "one", "two", "three"]}
    path = write(tmp_path, "sbu-captions-all.json", content)
    report, documents = run("sbu", path, tmp_path / "set", images=f"{tmp_path}/images/*.tar")
    assert [(d.key, d.text, levels(d)) for d in documents] == [
        ("sbu-captions-all.json:0", "zero", [50]),
        ("sbu-captions-all.json:2", "two", [70]),
    ]
    assert report["drops"] == {"caption damaged": 1, "medium missing": 1}


def test_files_of_another_kind_stop_and_damaged_ones_are_counted(tmp_path):
    write(tmp_path, "a.jpg", picture(50))
    for format, content, message in (
        ("coco", {"image_urls": [], "captions": []}, r"x\.json has no lists images and annotations"),
        ("sbu", coco(), r"x\.json has no lists image_urls and captions"),
        ("coco", [], "has no lists"),
        ("sbu", {"image_urls": ["a"], "captions": []}, "has 1 image_urls for 0 captions; it is not whole"),
    ):
        path = write(tmp_path, "x.json", content)
        with pytest.raises(ValueError, match=message):
            prepare(CorpusConfig(format=format, source=str(path)), tmp_path / "set")
    good = coco((1, "one"), images=[{"id": 1, "file_name": "a.jpg"}])
    write(tmp_path, "raw/good.json", good)
    for name, data in {"cut": json.dumps(good)[:-20].encode(), "deep": b"[" * 100_000, "empty": b""}.items():
        write(tmp_path, f"raw/{name}.json", data)
    report, documents = run("coco", f"{tmp_path}/raw/*", tmp_path / "set", images=str(tmp_path))
    assert len(documents) == 1 and report["drops"] == {"file damaged": 3}
