"""The shapes and places of a stage's arrays: those that the arrays then have."""

import chex
import jax
import numpy as np
import pytest

from flamingo_jax.config import ExampleConfig, MeshConfig, OptimizerConfig
from flamingo_jax.data.example import empty_batch
from flamingo_jax.training import objective, sharding, state
from flamingo_jax.training.optimizer import make_optimizer

EXAMPLE = ExampleConfig(length=12, media=1, frames=1, size=16)


def test_a_model_that_cannot_take_the_examples_is_found_at_once(model_config):
    goal = objective.flamingo(model_config, new_tokens=(3,), pad=0)
    with pytest.raises(ValueError, match="not divisible by tensor=8"):
        state.weights(sharding.make_mesh(MeshConfig(1, 1, 8)), goal, EXAMPLE)


def test_moments_lie_where_their_weights_do_and_frozen_weights_have_the_models_type(model_config):
    goal = objective.flamingo(model_config, new_tokens=(3,), pad=0)
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    weights = state.weights(mesh, goal, EXAMPLE, "bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(weights["frozen"])} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(weights["params"])} == {"float32"}
    whole = state.state(mesh, make_optimizer(OptimizerConfig(), 10), weights["params"])
    moments = [part for part in jax.tree.leaves(whole["opt_state"], is_leaf=_is_moments) if _is_moments(part)]
    assert len(moments) == 1
    for tree in (moments[0].mu, moments[0].nu):
        chex.assert_trees_all_equal_shapes_and_dtypes(tree, weights["params"])
        assert jax.tree.map(_place, tree) == jax.tree.map(_place, weights["params"])
    assert any(_place(leaf) != (None,) * leaf.ndim for leaf in jax.tree.leaves(weights["params"]))


def test_a_batch_is_the_one_that_is_put_on_the_mesh():
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    put = sharding.put_batch(mesh, empty_batch(EXAMPLE, 8))
    described = state.batch(mesh, EXAMPLE, 8)
    chex.assert_trees_all_equal_shapes_and_dtypes(described, put)
    assert all(described[key].sharding.is_equivalent_to(put[key].sharding, np.ndim(put[key])) for key in put)


def _is_moments(part) -> bool:
    return hasattr(part, "mu")


def _place(leaf) -> tuple:
    return tuple(leaf.sharding.spec) + (None,) * (leaf.ndim - len(leaf.sharding.spec))
