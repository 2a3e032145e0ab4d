"""Operations by a trace: products, convolutions, loops, and gradients that nobody asks for."""

import jax
import jax.numpy as jnp
import pytest

from flamingo_jax.config import MixConfig, OptimizerConfig, StageConfig
from flamingo_jax.training import flops
from flamingo_jax.training.objective import Objective

X, W = jnp.ones((4, 8)), jnp.ones((8, 8))
ONE = 2 * 4 * 8 * 8


def test_loops_count_as_often_as_they_run():
    assert flops.of(lambda x, w: jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0], X, jnp.ones((3, 8, 8))) == 3 * ONE
    assert flops.of(lambda x: jax.lax.cond(x.sum() > 0, lambda x: x @ W @ W, lambda x: x @ W, x), X) == 2 * ONE
    with pytest.raises(ValueError, match="unknown length"):
        flops.of(lambda x: jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x @ W, x), X)


def test_frozen_weights_have_no_gradient_to_count():
    """y = x F w F: forward 3, backward through the last F and for w; nothing reaches back through the first F."""

    def loss(w, frozen, x):
        return ((x @ frozen) @ w @ frozen).sum()

    assert flops.of(jax.grad(loss), W, W, X) == 5 * ONE
    assert flops.of(jax.grad(loss, (0, 1)), W, W, X) == 8 * ONE


@pytest.mark.parametrize("mixing, compared", [("accumulation", 2 * 4**2), ("round_robin", 2 * 4**2), ("merged", 8**2)])
def test_a_stages_gradients_are_those_that_its_datasets_take(mixing, compared):
    """All rows of a batch are compared with each other: of two datasets with one loss, more of them."""
    mixture = {"a": MixConfig(4), "b": MixConfig(4)}
    stage = StageConfig("contrastive", 10, mixture, OptimizerConfig(), mixing=mixing)

    def loss(params, frozen, batch):
        vectors = batch @ params
        return jnp.sin(vectors @ vectors.T).sum()

    def merge(batches, lambdas):
        assert lambdas == {"a": 1.0, "b": 1.0}
        return {"merged": jnp.concatenate(list(batches.values()))}, {"merged": 1.0}

    goal = Objective(init=None, loss=loss, monitor=None, merge=merge)
    counted = flops.of_gradients(goal, stage, {"params": W, "frozen": {}}, {"a": X, "b": X})
    assert counted == 2 * (2 * ONE) + 3 * (2 * compared * 8)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_gradient_of_a_convolution_costs_as_much_again(groups):
    def convolve(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    x, kernel = jnp.ones((1, 10, 10, 4)), jnp.ones((3, 3, 4 // groups, 8))
    once = 2 * 100 * 8 * 9 * 4 // groups
    assert flops.of(convolve, x, kernel) == once
    for argument in (0, 1):
        assert flops.of(jax.grad(lambda x, k: convolve(x, k).sum(), argument), x, kernel) == 2 * once
