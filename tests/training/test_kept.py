"""Checkpoints as models."""

import pathlib

import chex
import jax
import numpy as np
import pytest
from harm import damage
from test_checkpoint import PARAMS, state

from flamingo_jax.training import kept
from flamingo_jax.training.checkpoint import Checkpoints


@pytest.fixture
def checkpoint(tmp_path):
    """Saved from eight devices, by an attempt that is the second."""
    folder = tmp_path / "flamingo" / "checkpoints"
    (folder / "1").mkdir(parents=True)
    checkpoints = Checkpoints(folder)
    checkpoints.save(5, state(5, (2, 2, 2)), {})
    checkpoints.close()
    return folder / "2" / "5"


def test_its_weights_come_alone_and_to_the_host(checkpoint):
    weights = kept.load(checkpoint)
    chex.assert_trees_all_equal(weights, jax.tree.map(lambda leaf: leaf + np.float32(5), PARAMS))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(weights))


@pytest.mark.parametrize("how", ["flip", "cut"])
def test_a_damaged_one_is_refused(tmp_path, how):
    checkpoints = Checkpoints(tmp_path / "flamingo" / "checkpoints")
    checkpoints.save(5, {"params": state(5)["params"]}, {})  # nothing else that could be hit
    checkpoints.close()
    damage(checkpoint := checkpoints.folder / "5", how)
    with pytest.raises(ValueError, match=f"The checkpoint {checkpoint} (is damaged|cannot be read)"):
        kept.load(checkpoint)


def test_one_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="The checkpoint .*/9 cannot be read"):
        kept.load(tmp_path / "9")


def test_those_that_are_there_are_found_from_above(checkpoint):
    attempt, checkpoints, stage, workdir = list(checkpoint.parents)[:4]
    found = [list(map(str, kept.inside(above))) for above in (attempt, checkpoints, stage, workdir)]
    assert found == [["5"], ["2/5"], ["checkpoints/2/5"], []]


def test_it_is_known_by_its_place(tmp_path, monkeypatch):
    assert kept.is_one(pathlib.Path("runs/base/flamingo/checkpoints/1/40"))
    for other in ("runs/base", "runs/checkpoints/1", "checkpoints/1/from", "checkpoints/1/4.orbax-checkpoint-tmp"):
        assert not kept.is_one(pathlib.Path(other))
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "checkpoints" / "1")
    assert kept.is_one(pathlib.Path("40"))
