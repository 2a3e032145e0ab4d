"""A fixed number of latents, whatever comes in, and frames that are told apart."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.config import ResamplerConfig
from flamingo_jax.models.resampler import Resampler

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


def test_too_many_frames_are_refused(resampler):
    model, variables, _ = resampler
    with pytest.raises(ValueError, match="5 frames, but the resampler has 4"):
        model.apply(variables, jnp.zeros((1, 5, 2, 12)))


def test_latents_see_features_and_themselves():
    """Keys are features followed by latents: even without features there is something to attend to."""
    model = Resampler(CONFIG, jnp.float32)
    empty = jnp.zeros((1, 1, 0, 12))
    variables = flax.linen.meta.unbox(model.init(jax.random.key(0), empty))
    assert np.isfinite(model.apply(variables, empty)).all()
