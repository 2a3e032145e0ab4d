"""The two towers: unit vectors, a temperature, and texts that do not feel their padding."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.models.contrastive import Contrastive


@pytest.fixture(scope="module")
def towers(model_config):
    """(jitted apply, images [3, ..], tokens [3, 6], mask [3, 6])."""
    model = Contrastive(model_config.vision, model_config.text_tower, 64, jnp.float32)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    tokens = rng.integers(4, 64, (3, 6)).astype(np.int32)
    mask = np.arange(6) < np.array([[6], [4], [1]])
    variables = flax.linen.meta.unbox(jax.jit(model.init)(jax.random.key(0), images, tokens, mask))
    return jax.jit(lambda *inputs: model.apply(variables, *inputs)), images, tokens, mask


def test_embeddings_are_unit_vectors_of_one_space(towers, model_config):
    apply, *inputs = towers
    *embeddings, scale = apply(*inputs)
    for embedding in embeddings:
        assert embedding.shape == (3, model_config.text_tower.embedding) and embedding.dtype == jnp.float32
        np.testing.assert_allclose(jnp.linalg.norm(embedding, axis=-1), 1.0, rtol=1e-5)
    assert scale == pytest.approx(1 / model_config.text_tower.temperature)


def test_padding_of_a_text_does_not_matter(towers):
    apply, images, tokens, mask = towers
    _, expected, _ = apply(images, tokens, mask)
    _, actual, _ = apply(images, np.where(mask, tokens, 60), mask)
    np.testing.assert_array_equal(actual, expected)
    _, changed, _ = apply(images, np.where(mask, tokens, 60), np.ones_like(mask))
    assert (np.abs(changed - expected).max(-1) > 1e-3).tolist() == [False, True, True]


def test_the_order_of_a_text_matters(towers):
    apply, images, tokens, mask = towers
    _, expected, _ = apply(images, tokens, mask)
    _, reversed_, _ = apply(images, tokens[:, ::-1], np.ones_like(mask))
    assert np.abs(reversed_ - expected)[0].max() > 1e-3


def test_every_pair_is_embedded_by_itself(towers):
    apply, *inputs = towers
    order = np.array([2, 0, 1])
    for expected, actual in zip(apply(*inputs)[:2], apply(*(x[order] for x in inputs))[:2], strict=True):
        np.testing.assert_allclose(actual, np.asarray(expected)[order], rtol=1e-5, atol=1e-6)
