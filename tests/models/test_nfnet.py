"""The vision encoder: the paper's size, and signals that keep their variance."""

import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.config import NFNetConfig
from flamingo_jax.models.nfnet import NFNet, betas

F6 = NFNetConfig(
    widths=(256, 512, 1536, 1536),
    depths=(7, 14, 42, 21),
    strides=(1, 2, 2, 2),
    stem=(16, 32, 64, 128),
    expansion=3072,
)


def test_f6_has_the_papers_435_million_weights_and_a_ten_by_ten_grid():
    model, images = NFNet(F6, jnp.bfloat16), jax.ShapeDtypeStruct((1, 320, 320, 3), jnp.uint8)
    features, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), images)
    assert features.shape == (1, 10, 10, 3072)
    count = sum(leaf.size for leaf in jax.tree.leaves(flax.linen.meta.unbox(variables)))
    assert count == pytest.approx(435.3e6, rel=2e-3)


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
    weights = flax.linen.meta.unbox(model.init(jax.random.key(0), images))
    stored = jax.tree.map(lambda w: w.astype(jnp.bfloat16), weights)
    apply = jax.jit(model.apply)
    exact = apply(jax.tree.map(lambda w: w.astype(jnp.float32), stored), images)
    np.testing.assert_array_equal(apply(stored, images), exact)


def test_depth_is_stochastic_only_with_a_random_stream():
    """A frozen encoder, and one that is evaluated, gets none."""
    config = NFNetConfig(widths=(16,), depths=(3,), strides=(1,), stem=(8, 16), stochastic_depth=0.9)
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
    model = NFNet(config, jnp.float32)
    weights = flax.linen.meta.unbox(model.init(jax.random.key(0), images))
    weights = jax.tree.map(lambda w: w + 0.5 if w.ndim < 2 else w, weights)  # gains start at zero
    plain = model.apply(weights, images)
    one, other = (model.apply(weights, images, rngs={"stochastic_depth": jax.random.key(i)}) for i in (1, 2))
    assert np.abs(one - plain).max() > 1e-3 and np.abs(one - other).max() > 1e-3
    still = NFNet(dataclasses.replace(config, stochastic_depth=0.0), jnp.float32)
    np.testing.assert_array_equal(still.apply(weights, images, rngs={"stochastic_depth": jax.random.key(1)}), plain)


def test_the_branches_variance_is_counted():
    """1 at the input; every block adds alpha^2; a stage's first block hands on what had been counted."""
    config = NFNetConfig(widths=(8, 8), depths=(2, 2), strides=(1, 2), stem=(4, 8), alpha=0.5)
    first, second = betas(config)
    np.testing.assert_allclose(first**-2, [1.0, 1.25])
    np.testing.assert_allclose(second**-2, [1.5, 1.25])


def test_the_stage_before_the_last_convolution_is_an_option():
    images = jax.ShapeDtypeStruct((1, 320, 320, 3), jnp.uint8)
    model = NFNet(dataclasses.replace(F6, expansion=0), jnp.bfloat16)
    features, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), images)
    assert features.shape == (1, 10, 10, 1536)
