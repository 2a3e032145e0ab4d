"""Frozen matrices of 8 bits: an update is that of the floats that they stand for, and they travel as 8 bits."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import pytest
import updates
from jax.sharding import PartitionSpec

from flamingo_jax.models.int8 import is_int8
from flamingo_jax.training import sharding

MODEL = dataclasses.replace(updates.MODEL, int8=True, remat="dots")
MIXTURE = {name: updates.MIXTURE[name] for name in ("packed",)}


def floats(frozen):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), frozen, is_leaf=is_int8)


@functools.cache
def expected():
    return updates.run(updates.ONE, mixture=MIXTURE, model=MODEL, change=floats)


@pytest.mark.parametrize(
    "mesh",
    [mesh if mesh == (2, 2, 2) else pytest.param(mesh, marks=pytest.mark.slow) for mesh in updates.MESHES],
    ids=str,
)
def test_an_update_is_that_of_the_floats_they_stand_for(mesh):
    updates.assert_same(updates.run(mesh, mixture=MIXTURE, model=MODEL), expected())


@pytest.mark.slow
def test_rounding_changes_little():
    exact = updates.run(updates.ONE, mixture=MIXTURE)
    assert 1e-6 < abs(expected()["update 0/loss/packed"] - exact["update 0/loss/packed"]) < 0.05  # rounded, but little


def test_where_they_are_and_how_they_travel():
    mesh, step, state, frozen = updates.prepare((2, 2, 2), mixture=MIXTURE, model=MODEL)
    up = frozen["decoder"]["groups"]["language"]["blocks"]["mlp"]["up"]["kernel"]
    assert up.values.dtype == jnp.int8 and up.values.sharding.spec == PartitionSpec(None, None, "fsdp", "tensor")
    assert up.steps.shape == (*up.shape[:2], 1, up.shape[3])
    assert up.steps.sharding.spec == PartitionSpec(None, None, None, "tensor")
    with sharding.use(mesh):
        text = step.lower(state, frozen, updates.feed(mesh, MIXTURE, 0)).compile().as_text()
    gathered = [line.split(" = ")[1] for line in text.splitlines() if re.search(r" all-gather(-start)?\(", line)]
    layer = f"{up.shape[2]},{up.shape[3] // 2}]"  # whole along fsdp, with or without the two axes that it is picked by
    assert any(re.match(r"\(?s8\[(1,)*" + layer, line) for line in gathered), gathered
