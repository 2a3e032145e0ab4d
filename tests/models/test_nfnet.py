"""The vision encoder: the paper's size, and signals that keep their variance."""

import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.config import NFNetConfig
from flamingo_jax.models.nfnet import ACTIVATIONS, NFBlock, NFNet, betas

F6 = NFNetConfig(
    widths=(256, 512, 1536, 1536),
    depths=(7, 14, 42, 21),
    strides=(1, 2, 2, 2),
    stem=(16, 32, 64, 128),
    expansion=3072,
)


@pytest.mark.parametrize("depth, size, cells, weights", [(1, 192, 6, 68.4e6), (7, 320, 10, 435.3e6)], ids=["F0", "F6"])
def test_the_papers_encoder_and_the_familys_smallest(depth, size, cells, weights):
    """F0 has 71.5 million with the classifier's 3.1; F6 is the paper's."""
    config = dataclasses.replace(F6, depths=tuple(depth * n for n in (1, 2, 6, 3)))
    model, images = NFNet(config, jnp.bfloat16), jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    features, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), images)
    assert features.shape == (1, cells, cells, config.feature_width) and config.feature_width == 3072
    count = sum(leaf.size for leaf in jax.tree.leaves(flax.linen.meta.unbox(variables)))
    assert count == pytest.approx(weights, rel=2e-3)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_variance_neither_vanishes_nor_explodes(activation):
    config = NFNetConfig(widths=(32, 64), depths=(2, 2), strides=(1, 2), stem=(16, 32), activation=activation)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)
    model = NFNet(config, jnp.float32)
    features, _ = jax.jit(lambda x: model.init_with_output(jax.random.key(0), x))(images)
    assert features.shape == (8, 4, 4, 64)
    assert 0.3 < features.var(-1).mean() < 3.0


def test_a_picture_is_seen_by_itself():
    config = NFNetConfig(widths=(16,), depths=(1,), strides=(1,), stem=(8, 16))
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    model = NFNet(config, jnp.float32)
    variables = flax.linen.meta.unbox(jax.jit(model.init)(jax.random.key(0), images))
    apply = jax.jit(model.apply)
    together = apply(variables, images)
    np.testing.assert_allclose(apply(variables, np.repeat(images[1:2], 3, 0))[0], together[1], rtol=1e-5, atol=1e-5)


def test_weights_frozen_in_bfloat16_are_standardised_in_float32():
    """Only the digits that storing them lost are missing."""
    config = NFNetConfig(widths=(16,), depths=(1,), strides=(1,), stem=(8, 16))
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    model = NFNet(config, jnp.float32)
    weights = flax.linen.meta.unbox(jax.jit(model.init)(jax.random.key(0), images))
    stored = jax.tree.map(lambda w: w.astype(jnp.bfloat16), weights)
    apply = jax.jit(model.apply)
    exact = apply(jax.tree.map(lambda w: w.astype(jnp.float32), stored), images)
    np.testing.assert_array_equal(apply(stored, images), exact)


def filled(model, *inputs):
    """Weights that are random everywhere, so that branches count, whose gains start at zero."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0.5, 0.5, leaf.shape).astype(np.float32), flax.linen.meta.unbox(shapes))


def test_depth_is_stochastic_only_with_a_random_stream_and_a_rate():
    """A frozen encoder, and one that is evaluated, gets no stream."""
    config = NFNetConfig(widths=(16,), depths=(3,), strides=(1,), stem=(8, 16), stochastic_depth=0.9)
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
    model, still = (NFNet(dataclasses.replace(config, stochastic_depth=rate), jnp.float32) for rate in (0.9, 0.0))
    weights = filled(model, images)
    plain = jax.jit(model.apply)(weights, images)
    drawn = jax.jit(lambda key: model.apply(weights, images, rngs={"stochastic_depth": key}))
    one, other = drawn(jax.random.key(1)), drawn(jax.random.key(2))
    np.testing.assert_array_equal(one, drawn(jax.random.key(1)))
    assert np.abs(one - other).max() > 1e-3
    assert np.abs(one - plain).max() > 1e-3 and np.abs(other - plain).max() > 1e-3
    never = jax.jit(lambda key: still.apply(weights, images, rngs={"stochastic_depth": key}))
    np.testing.assert_allclose(never(jax.random.key(1)), plain, rtol=1e-5, atol=1e-5)


def test_a_block_drops_the_share_that_it_is_told_and_the_branch_as_a_whole():
    config = NFNetConfig(widths=(16,), depths=(1,), strides=(1,), stem=(16,), stochastic_depth=0.5)
    block, x = NFBlock(16, 1, config, jnp.float32), jax.random.normal(jax.random.key(0), (400, 1, 1, 16))
    weights = filled(block, x, 1.0, 0.0)
    drawn = jax.jit(lambda drop: block.apply(weights, x, 1.0, drop, rngs={"stochastic_depth": jax.random.key(2)})[0])
    np.testing.assert_array_equal(drawn(1.0), x)
    whole = drawn(0.0)
    kept = (np.asarray(drawn(0.25)) == whole).all((1, 2, 3))
    np.testing.assert_array_equal(np.asarray(drawn(0.25))[~kept], x[~kept])
    assert kept.mean() == pytest.approx(0.75, abs=0.08)


def test_the_branches_variance_is_counted():
    """1 at the input; every block adds alpha^2; a stage's first block hands on what had been counted."""
    config = NFNetConfig(widths=(8, 8, 8), depths=(2, 3, 1), strides=(1, 2, 1), stem=(4, 8), alpha=0.5)
    drawn = [[1.0, 1.25], [1.5, 1.25, 1.5], [1.75]]
    for found, expected in zip(betas(config), drawn, strict=True):
        np.testing.assert_allclose(found**-2, expected)


def test_without_an_expansion_the_stage_before_it_is_handed_on():
    config = NFNetConfig(widths=(8, 16), depths=(1, 1), strides=(1, 2), stem=(4, 8), expansion=24)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    model, short = (NFNet(dataclasses.replace(config, expansion=width), jnp.float32) for width in (24, 0))
    weights = filled(model, images)
    assert (config.feature_width, short.config.feature_width) == (24, 16)
    keep = {"capture_intermediates": lambda module, _: module.name == "stage_1_first", "mutable": ["intermediates"]}
    features, state = jax.jit(lambda x: model.apply(weights, x, **keep))(images)
    before, _ = state["intermediates"]["stage_1_first"]["__call__"][0]
    assert features.shape == (2, 2, 2, 24)
    shorter = jax.jit(short.apply)({"params": {k: v for k, v in weights["params"].items() if k != "expansion"}}, images)
    np.testing.assert_allclose(shorter, ACTIVATIONS["gelu_tanh"](before), rtol=1e-5, atol=1e-5)
