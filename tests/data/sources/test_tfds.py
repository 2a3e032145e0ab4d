"""A dataset of TensorFlow Datasets, read where it is."""

import concurrent.futures
import io
import pickle
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from prepared import levels, picture, run

from flamingo_jax.config import DatasetConfig, ExampleConfig
from flamingo_jax.data.sources import index, open_source

CAPTIONS = [["a 0"], [" b\n 0", "", "b 2", "b 3"], ["c 0"], [" "], [], ["f 0", "f 1"]]


class InPlace(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    url_infos = {}  # nothing is downloaded

    def _info(self):
        features = {"image": tfds.features.Image(), "name": tfds.features.Text()}
        features["captions"] = tfds.features.Sequence({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(CAPTIONS)}

    def _generate_examples(self, rows):
        for i, texts in enumerate(rows):
            captions = [{"text": text} for text in texts]
            yield i, {"image": io.BytesIO(picture(50 + 10 * i)), "name": f"{i}.jpg", "captions": captions}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    builder = InPlace(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=2))
    return builder.data_dir


def options(source, **changes):
    return DatasetConfig(format="tfds", source=str(source), example=ExampleConfig(length=16), in_place=True, **changes)


def test_the_documents_are_those_of_a_preparation(folder, tmp_path):
    dataset = options(folder)
    report = index(dataset, tmp_path / "index")
    source = open_source(dataset, tmp_path / "index")
    _, expected = run("tfds", folder, tmp_path / "set")
    assert len(source) == report["documents"] == report["media"] == len(CAPTIONS)
    found = {}
    for i in range(len(source)):
        for choice in np.arange(0, 1, 1 / 12):
            try:
                document = source.read(i, choice)
                found.setdefault(document.key, document)
            except ValueError as error:
                assert "pair without caption" in str(error)
    assert [(d.key, d.text, d.source, d.positions) for d in found.values()] == [
        (d.key, d.text, d.source, d.positions) for d in expected
    ]
    assert [levels(d) for d in found.values()] == [levels(d) for d in expected]
    assert found[expected[0].key].media[0][0] == picture(levels(expected[0])[0])  # the file as it is


def test_a_choice_picks_any_caption_that_is_not_blank(folder, tmp_path):
    source = open_source(options(folder), tmp_path)
    rows = [i for i in range(len(source)) if source.locate(i) and _texts(source, i) and "b 0" in _texts(source, i)]
    assert len(rows) == 1
    picks = [source.read(rows[0], choice).text for choice in (0.0, 0.33, 0.34, 0.66, 0.67, 1 - 2**-53)]
    assert picks == ["b 0", "b 0", "b 2", "b 2", "b 3", "b 3"]
    counts = np.unique([source.read(rows[0], c).text for c in np.random.default_rng(0).random(300)], return_counts=True)
    assert min(counts[1]) > 70


def _texts(source, i):
    try:
        return {source.read(i, choice).text for choice in np.arange(0, 1, 0.1)}
    except ValueError:
        return set()


def test_the_same_in_threads_copies_and_processes(folder, tmp_path):
    source = open_source(options(folder), tmp_path)
    good = [i for i in range(len(source)) if _texts(source, i)]
    expected = {i: source.read(i, 0.9) for i in good}
    copy = pickle.loads(pickle.dumps(source))
    assert {i: copy.read(i, 0.9) for i in good} == expected
    assert repr(copy) == repr(source) == "TfdsSource('in_place/1.0.0/train', 6 rows)"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        order = good * 30
        assert list(pool.map(copy.read, order, [0.9] * len(order))) == [expected[i] for i in order]


def test_records_are_located(folder, tmp_path):
    source = open_source(options(folder), tmp_path)
    places = [source.locate(i) for i in range(len(source))]
    files = sorted({path for path, _ in places})
    assert len(files) == 2 and all(path.startswith(str(folder)) for path in files)
    for path in files:
        assert [number for where, number in places if where == path] == list(range(sum(w == path for w, _ in places)))
    part = open_source(options(folder, split="train[1:5]"), tmp_path)
    assert [part.locate(i) for i in range(4)] == places[1:5]
    for at in (-1, len(source)):
        for look in (source.read, source.locate):
            with pytest.raises(IndexError, match=f"has 6 rows, none at {at}"):
                look(at)


@pytest.mark.parametrize("damage", ["flip", "gone", "empty"])
def test_damage_is_named_and_costs_itself(folder, tmp_path, damage):
    shutil.copytree(folder, tmp_path / "1.0.0")
    path = sorted((tmp_path / "1.0.0").glob("*train*"))[0]
    source = open_source(options(tmp_path / "1.0.0"), tmp_path)
    data = bytearray(path.read_bytes())
    data[2000] ^= 255
    path.unlink() if damage == "gone" else path.write_bytes(data if damage == "flip" else b"")
    errors = []
    for i in range(len(source)):
        try:
            source.read(i)
        except ValueError as error:
            errors.append(str(error))
    assert any(f"of {path}: record damaged (in_place/1.0.0/train:" in error for error in errors)
    assert len(errors) < len(source)


def test_mistakes_are_named(folder, tmp_path):
    for given, message in (
        (options("nothing_of_that_name"), "is no folder of a dataset, and none has that name"),
        (options(folder, split="tests"), "split='tests': Unknown split"),
        (options(folder, columns={"media": "name"}), "The feature 'name' of .* is no image"),
        (options(folder, columns={"caption": "text"}), "no 'text'; say what they are called"),
        (options(folder, split="train[:0]"), r"1\.0\.0, split='train\[:0\]': "),
    ):
        with pytest.raises(ValueError, match=message):
            index(given, tmp_path / "index")
