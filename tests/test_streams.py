"""The streams of a run: from prepared datasets, from tar files as they are, and as pages."""

import pathlib
import runpy

import numpy as np
import pytest
from in_place import sample
from prepared import pack, picture
from written import write

from flamingo_jax import config as configs
from flamingo_jax import streams
from flamingo_jax.config import StreamsConfig
from flamingo_jax.data import sources, tokenizer
from flamingo_jax.data.document import Document

ROOT = pathlib.Path(__file__).parents[1]
AT_ONCE = StreamsConfig(threads=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(config, workdir): a run whose pairs are tar files that are read in place, and whose pages are prepared."""
    workdir = tmp_path_factory.mktemp("run")
    given = runpy.run_path(str(ROOT / "configs" / "base.py"))["get_config"]().to_dict()
    given["order"] = ("flamingo",)
    given["stages"]["flamingo"]["parts"] = {"language": "a/b", "vision": "a/b"}
    tar = {"format": "tar", "source": "{workdir}/raw/*.tar", "in_place": True}
    given["datasets"]["align"] = tar | {"example": {"length": 20, "size": 48}}
    mixture = given["stages"]["flamingo"]["mixture"]
    mixture["align"], mixture["m3w"] = {"batch_size": 8, "pack": 2, "row_length": 40}, {"batch_size": 3}
    config = configs.build(given)
    (workdir / "config.json").write_text(configs.to_json(config))
    (workdir / "raw").mkdir()
    for shard in range(2):
        members = [
            m for i in range(5) for m in sample(f"{shard}{i}", f"caption {shard} {i}", 10 + 20 * (5 * shard + i))
        ]
        (workdir / "raw" / f"{shard}.tar").write_bytes(pack(*members))
    (workdir / "data").mkdir()
    write(workdir / "data" / "m3w", (Document(f"{i}", "see this", (4,), ((picture(50),),)) for i in range(5)), 1)
    vocabulary = tokenizer.train(["caption 0 1 2 3 4", "see this"] * 20, 300)
    vocabulary.save(workdir / "tokenizer.json")
    return config, workdir


def test_tar_files_are_streamed_as_they_are(run):
    config, workdir = run
    vocabulary = tokenizer.load(workdir / "tokenizer.json")
    sources.index(streams.resolve(config.datasets["align"], workdir), workdir / "data" / "align")
    batches = streams.open_stream(config, "flamingo", "align", workdir, vocabulary, streams=AT_ONCE)
    captions = {}
    for _ in range(5):  # four epochs of ten pairs
        batch = next(batches)
        assert batch["tokens"].shape == (4, 40) and batch["media"].shape == (4, 2, 1, 48, 48, 3)
        for row in range(4):
            for number in range(2):
                text = vocabulary.decode(batch["tokens"][row][batch["segments"][row] == number + 1])
                level = batch["media"][row, number, 0, 8:40].mean()
                captions.setdefault(text, []).append(level)
    assert sorted(captions) == [f"caption {shard} {i}" for shard in range(2) for i in range(5)]
    assert all(len(levels) == 4 for levels in captions.values())
    for caption, levels in captions.items():
        shard, i = caption.split()[1:]
        assert np.allclose(levels, 10 + 20 * (5 * int(shard) + int(i)), atol=4)


def test_a_page_shows_the_first_rows_of_a_run(run, monkeypatch):
    config, workdir = run
    page = streams.show_run(str(workdir), str(workdir / "data" / "m3w"), 2)
    assert "the first rows of flamingo" in page and page.count("<article>") == 2 and "see" in page
    batch = next(
        streams.open_stream(
            config, "flamingo", "m3w", workdir, tokenizer.load(workdir / "tokenizer.json"), streams=AT_ONCE
        )
    )
    assert f"{int((batch['weights'][0] > 0).sum())} of them in the loss" in page


def test_pages_of_what_is_not_there_are_refused(run, tmp_path):
    _, workdir = run
    with pytest.raises(ValueError, match="no folder of a run"):
        streams.show_run(str(tmp_path), "data/m3w", 1)
    with pytest.raises(ValueError, match="no stage .* reads a dataset of that name; align, ltip, m3w, vtp"):
        streams.show_run(str(workdir), "data/other", 1)
    with pytest.raises(ValueError, match="--target=elsewhere/m3w is no dataset of --run=.*, whose are in .*data"):
        streams.show_run(str(workdir), "elsewhere/m3w", 1)
    with pytest.raises(ValueError, match="lenght"):
        streams.show_dataset(str(workdir / "data" / "m3w"), str(workdir / "tokenizer.json"), {"lenght": 3}, 1)
    page = streams.show_dataset(str(workdir / "data" / "m3w"), str(workdir / "tokenizer.json"), {"length": 16}, 9)
    assert page.count("<article>") == 5
