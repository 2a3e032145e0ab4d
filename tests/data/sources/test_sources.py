"""Which source a dataset has, and what a run does with it."""

import dataclasses
import pathlib
import runpy

import pytest
from prepared import pack, picture, run
from written import write

import flamingo_jax.sources
from flamingo_jax import config as configs
from flamingo_jax import pipeline, streams
from flamingo_jax.config.run import IN_PLACE
from flamingo_jax.data import record, sources
from flamingo_jax.data.document import Document


def members(*captions):
    return [
        part
        for i, caption in enumerate(captions)
        for part in ((f"{i}.jpg", picture(50)), (f"{i}.txt", caption.encode()))
    ]


def build(**given):
    given = {"format": "tar", "source": "{workdir}/raw/*.tar", "example": {"length": 16}} | given
    return configs.build(given, configs.DatasetConfig, "config.datasets.a")


def test_every_format_that_is_read_in_place_has_a_source():
    assert tuple(sources._IN_PLACE) == IN_PLACE


def test_a_prepared_dataset_is_read_and_located(tmp_path):
    documents = [Document(str(i), f"text {i}", (0,), ((b"x",),), "s") for i in range(5)]
    write(tmp_path / "set", documents, 2)
    source = sources.open_source(build(), tmp_path / "set")
    assert isinstance(source, record.Source)
    assert [source.read(i, 0.5) for i in range(5)] == [source[i] for i in range(5)] == documents
    places = [("00000-of-00002", 0), ("00000-of-00002", 1), *(("00001-of-00002", n) for n in range(3))]
    assert [source.locate(i) for i in range(5)] == [(f"{tmp_path}/set/{f}.array_record", n) for f, n in places]
    for look in (source.read, source.locate):
        with pytest.raises(IndexError, match="has 5 documents, none at 5"):
            look(5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"format": "html"},
            r"config\.datasets\.a: in_place=True, but files of format='html' .*; those of tar and tfds can",
        ),
        ({"images": "here"}, "in_place=True, but images='here' says what becomes of files when they are prepared"),
        ({"size": 48}, "but size=48 says"),
        ({"min_similarity": 0.24}, r"but min_similarity=0\.24 says"),
        ({"duplicates": {"image_copies": 10}}, "but duplicates=.*image_copies=10"),
        ({"quality": 500}, "quality=500 is more than a JPEG's 100"),
    ],
)
def test_what_only_preparing_does_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        build(in_place=True, **given)


def test_what_reading_in_place_honours_is_not_refused():
    build(in_place=True, max_bad=0.1)
    build(in_place=True, format="tfds", split="train[:10%]", columns={"caption": "text"})


def run_config(**datasets):
    """No stage, and a tokenizer of the texts of all datasets."""
    given = _base()
    given |= {"datasets": datasets, "order": (), "stages": {}}
    given["tokenizer"]["datasets"] = tuple(datasets)
    given["evaluation"] |= {"image_dataset": "a", "clip_dataset": "a"}
    return configs.build(given | {"world": None})


def _base():
    path = pathlib.Path(__file__).parents[3] / "configs" / "base.py"
    return runpy.run_path(str(path))["get_config"]().to_dict()


def test_a_run_reads_in_place(tmp_path):
    workdir = tmp_path / "work [1]"
    (workdir / "raw").mkdir(parents=True)
    data = pack(*members("a red ball", "a blue cube", "\n"))
    (workdir / "raw/0.tar").write_bytes(data + b"")
    (workdir / "raw/1.tar").write_bytes(data[:1500])
    plain = {"format": "tar", "source": "{workdir}/raw/*.tar", "example": {"length": 16}}
    config = run_config(a=plain | {"in_place": True, "max_bad": 1.0}, b=plain | {"max_bad": 1.0})
    said = []
    pipeline._prepare(config, workdir, said.append)
    lines = [line for line in said if line.startswith("a: ")]
    assert len(lines) == 1 and lines[0].startswith("a: 2 samples, read in place; left out: ")
    assert "1 tar damaged (first: 1.tar, after '0.jpg': " in lines[0] and "1 pair without caption" in lines[0]
    assert not record.read_report(workdir / "data/a") and (workdir / "data/a/index.json").exists()
    pipeline._train_tokenizer(config, workdir, said.append)
    tokenizer = flamingo_jax.sources.run_tokenizer(config, workdir)
    assert tokenizer.decode(tokenizer.encode("a red ball")) == "a red ball"
    # The model card's numbers are those of the prepared twin.
    twins = [
        {
            key: record.read_report(workdir / "data" / name, config.datasets[name].in_place)[key]
            for key in ("documents", "media")
        }
        for name in "ab"
    ]
    assert twins[0] == twins[1] == {"documents": 2, "media": 2}
    source = streams.open_source(config, "a", workdir)
    prepared = streams.open_source(config, "b", workdir)
    assert [source.read(i).text for i in range(2)] == [prepared.read(i).text for i in range(2)]
    (workdir / "raw/1.tar").unlink()
    said.clear()
    pipeline._prepare(config, workdir, said.append)  # what is gone is not missed
    assert said[0] == "a: 2 samples, read in place; left out: 1 pair without caption (first: 0.tar/2)"


def test_a_dataset_that_is_not_read_in_place_any_more_is_prepared(tmp_path):
    (tmp_path / "0.tar").write_bytes(pack(*members("one")))
    dataset = build(in_place=True, source=f"{tmp_path}/*.tar")
    sources.index(dataset, tmp_path / "set")
    with pytest.raises(ValueError, match="holds something else; delete it, or name another folder"):
        run("tar", f"{tmp_path}/*.tar", tmp_path / "set")
    run("tar", f"{tmp_path}/*.tar", tmp_path / "other")
    prepared = dataclasses.replace(dataset, in_place=False)
    assert sources.open_source(prepared, tmp_path / "other").read(0).text == "one"
