"""A dataset that TensorFlow Datasets has prepared, without TensorFlow."""

import io
import json
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from prepared import levels, picture, run

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data.formats import tfds as reader
from flamingo_jax.data.prepare import prepare
from flamingo_jax.data.prepare.plan import make_plan
from flamingo_jax.data.world.clips import encode as encode_clip

CLIP = encode_clip([np.full((72, 96, 3), 20 * i, np.uint8) for i in range(4)])  # a second


class Tiny(tfds.core.GeneratorBasedBuilder):
    """With the features of coco_captions, and more."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = {}  # nothing is downloaded

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "image/filename": tfds.features.Text(),
                    "captions": tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()}),
                    "meta": {"title": tfds.features.Text()},
                    "clip": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(6), "val": self._generate_examples(1)}

    def _generate_examples(self, count):
        for i in range(count):
            texts = [{"id": 10 * i + n, "text": f" caption {i}.{n}"} for n in range(2 if i == 1 else 1)]
            image = io.BytesIO(picture(50 + 10 * i))
            row = {"image": image, "image/filename": f"{i}.jpg", "captions": texts, "meta": {"title": f"title {i}"}}
            yield i, row | {"clip": CLIP}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    builder = Tiny(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    return builder.data_dir


def test_a_pair_for_every_caption_of_a_split(folder, tmp_path):
    report, documents = run("tfds", folder, tmp_path / "set")
    assert sorted((d.text, *levels(d)) for d in documents) == [
        ("caption 0.0", 50),
        ("caption 1.0", 60),
        ("caption 1.1", 60),
        *[(f"caption {i}.0", 50 + 10 * i) for i in range(2, 6)],
    ]
    assert report["drops"] == {} and documents[0].source == "tiny/1.0.0/train"
    assert {d.key.partition(".0/train:")[0] for d in documents} == {"tiny/1.0"}
    assert len(run("tfds", folder, tmp_path / "b", split="val")[1]) == 1
    assert len(run("tfds", folder, tmp_path / "c", split="train[:50%]")[1]) in (3, 4)
    assert "tensorflow" not in sys.modules


def test_by_name_and_in_tasks(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.utils.file_utils, "list_data_dirs", lambda *_, **__: [folder.split("/tiny/")[0]])
    monkeypatch.setattr(reader, "TASK_BYTES", 1)
    for name in ("tiny", "tiny:1.0.0"):
        plan = make_plan(CorpusConfig(format="tfds", source=name))
        tasks = [(task.path, task.start, task.stop) for shard in plan.shards for task in shard]
        assert tasks == [(folder, i, i + 1) for i in range(6)]
    assert len(run("tfds", "tiny", tmp_path / "set")[1]) == 7


def test_other_features(folder, tmp_path):
    (tmp_path / "0.jpg").write_bytes(picture(100))
    columns = {"media": "image/filename", "caption": "meta/title"}
    report, documents = run("tfds", folder, tmp_path / "a", columns=columns, images=str(tmp_path))
    assert [(d.text, levels(d)) for d in documents] == [("title 0", [100])] and report["drops"] == {"medium missing": 5}
    _, documents = run("tfds", folder, tmp_path / "b", columns={"media": "clip"}, split="val", fps=4.0)
    assert [len(d.media[0]) for d in documents] == [4]


def test_mistakes_are_named(folder, tmp_path):
    for options, message in (
        ({"source": "nothing_of_that_name"}, "is no folder of a dataset, and none has that name"),
        ({"source": str(tmp_path)}, "holds no dataset_info.json; name the folder of one version"),
        ({"split": "tests"}, r"split='tests': Unknown split 'tests'\. Should be one of \['train', 'val'\]"),
        ({"split": "train[5"}, "split='train\\[5': Error parsing split"),
        ({"columns": {"media": "img"}}, "has the columns .*, but no 'img'; say what they are called"),
        ({"columns": {"medium": "image"}}, "columns names 'medium', which is not there; did you mean 'media'"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(CorpusConfig(**{"format": "tfds", "source": folder} | options), tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("features.json", "tensorflow_datasets.core.features.text_feature.Text", "evil.Text", "class evil.Text"),
        ("features.json", "text_feature.Text", "text_feature.Txt", "cannot be read as a dataset"),
        ("features.json", "{", "", "cannot be read as a dataset"),
        ("dataset_info.json", "{", "", "cannot be read as a dataset"),
        ("dataset_info.json", "{DATASET}-{SPLIT}", "../../{DATASET}-{SPLIT}", "which is not in its folder"),
        ("dataset_info.json", '"array_record"', '"tfrecord"', "is stored as .*; prepare it anew with file_format="),
    ],
)
def test_hostile_and_foreign_descriptions(folder, tmp_path, monkeypatch, name, old, new, message):
    shutil.copytree(folder, tmp_path / "1.0.0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('owned', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    text = (tmp_path / "1.0.0" / name).read_text()
    assert old in text
    (tmp_path / "1.0.0" / name).write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        prepare(CorpusConfig(format="tfds", source=str(tmp_path / "1.0.0")), tmp_path / "set")
    assert not (tmp_path / "owned").exists()


def test_features_that_need_tensorflow(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "1.0.0")
    features = json.loads((tmp_path / "1.0.0" / "features.json").read_text())
    name = "tensorflow_datasets.core.features.video_feature.Video"
    video = {"pythonClassName": name, "video": {"shape": {"dimensions": ["-1", "8", "8", "3"]}, "dtype": "uint8"}}
    features["featuresDict"]["features"]["video"] = video
    (tmp_path / "1.0.0" / "features.json").write_text(json.dumps(features))
    with pytest.raises(ValueError, match="has features that need tensorflow, as tfds.features.Video does"):
        prepare(CorpusConfig(format="tfds", source=str(tmp_path / "1.0.0")), tmp_path / "set")


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "empty"])
def test_damaged_records_cost_themselves(folder, tmp_path, damage):
    shutil.copytree(folder, tmp_path / "1.0.0")
    [path] = (tmp_path / "1.0.0").glob("*train*")
    data = bytearray(path.read_bytes())
    data[2000] ^= 255
    data = {"cut": data[: len(data) // 2], "empty": b""}.get(damage, data)
    path.unlink() if damage == "gone" else path.write_bytes(data)
    source = str(tmp_path / "1.0.0")
    if damage == "flip":
        report, _ = run("tfds", source, tmp_path / "set")
        assert report["documents"] in (5, 6) and report["drops"] == {"record damaged": 1} and report["bad"] == 1
    else:
        with pytest.raises(ValueError, match="No document came out of .* 6 x record damaged"):
            run("tfds", source, tmp_path / "set")
