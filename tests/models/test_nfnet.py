"""The vision encoder: the paper's size, and signals that keep their variance."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.config import NFNetConfig
from flamingo_jax.models.nfnet import NFNet

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
