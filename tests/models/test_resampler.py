"""A fixed number of latents, whatever comes in, and frames that are told apart."""

import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.config import ResamplerConfig
from flamingo_jax.models.resampler import Resampler, averaging, mixing

CONFIG = ResamplerConfig(width=16, depth=2, heads=2, head_size=8, latents=3, frames=4)


@pytest.fixture(scope="module")
def resampler():
    model = Resampler(CONFIG, jnp.float32)
    features = jax.random.normal(jax.random.key(0), (2, 4, 5, 12))
    return model, flax.linen.meta.unbox(model.init(jax.random.key(1), features)), features


def test_any_number_of_frames_and_cells_gives_the_same_latents(resampler):
    model, variables, features = resampler
    for part in (features, features[:, :1], features[:, :2, :3]):
        assert model.apply(variables, part).shape == (2, 3, 16)


def test_order_of_frames_matters_order_of_cells_does_not(resampler):
    """Learnt time embeddings, and no spatial ones (paper A.1.1)."""
    model, variables, features = resampler
    out = model.apply(variables, features)
    np.testing.assert_allclose(model.apply(variables, features[:, :, ::-1]), out, rtol=1e-4, atol=1e-5)
    assert np.abs(model.apply(variables, features[:, ::-1]) - out).max() > 1e-3


def test_more_frames_get_interpolated_embeddings():
    drawn = [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]
    np.testing.assert_allclose(mixing(3, 5), drawn)
    np.testing.assert_array_equal(mixing(3, 2), np.eye(2, 3))
    np.testing.assert_array_equal(mixing(3, 3), np.eye(3))


def test_thirty_frames_after_training_on_four(resampler):
    """The paper trains on 8 and evaluates on 30 (B.1.2)."""
    model, variables, features = resampler
    out = model.apply(variables, jnp.tile(features, (1, 8, 1, 1))[:, :30])
    assert out.shape == (2, 3, 16) and np.isfinite(out).all()


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_the_alternatives_of_the_ablation(kind):
    model = Resampler(dataclasses.replace(CONFIG, kind=kind), jnp.float32)
    features = jax.random.normal(jax.random.key(0), (2, 4, 5, 12))
    variables = flax.linen.meta.unbox(model.init(jax.random.key(1), features))
    out = model.apply(variables, features)
    assert out.shape == (2, 3, 16)
    moved = model.apply(variables, features.at[0, 3, 4].add(1.0))
    assert np.abs(moved[0] - out[0]).max() > 1e-3
    np.testing.assert_array_equal(moved[1], out[1])


def test_averaging_takes_equal_stretches():
    np.testing.assert_allclose(averaging(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    np.testing.assert_allclose(averaging(1, 2), [[1], [1]])
    np.testing.assert_allclose(averaging(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], atol=1e-6)


def test_latents_see_features_and_themselves():
    """Keys are features followed by latents: even without features there is something to attend to."""
    model = Resampler(CONFIG, jnp.float32)
    empty = jnp.zeros((1, 1, 0, 12))
    variables = flax.linen.meta.unbox(model.init(jax.random.key(0), empty))
    assert np.isfinite(model.apply(variables, empty)).all()
