"""The pure functions that every transformer here is made of."""

import jax
import jax.numpy as jnp
import numpy as np

from flamingo_jax.models.layers import attend, rotate, smear


def test_a_query_that_sees_nothing_gets_zeros():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 2, 3, 4))
    mask = jnp.array([[[True, False, True], [False, False, False], [False, True, False]]])
    out = attend(q, k, v, mask)
    np.testing.assert_array_equal(out[:, :, 1], 0)
    np.testing.assert_allclose(out[:, :, 2], v[:, :, 1], rtol=1e-6)
    grad = jax.grad(lambda v: attend(q, k, v, mask)[:, :, 1].sum())(v)
    assert np.isfinite(grad).all() and not np.any(grad)


def test_attention_without_a_mask_sees_all():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 2, 3, 4))
    np.testing.assert_allclose(attend(q, k, v, None), attend(q, k, v, jnp.ones((2, 3, 3), bool)), rtol=1e-5, atol=1e-6)


def test_rotary_scores_depend_on_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def score(i, j):
        return (rotate(q, jnp.array([[i]]), 1e4) * rotate(k, jnp.array([[j]]), 1e4)).sum()

    np.testing.assert_allclose(score(7, 3), score(104, 100), rtol=1e-4)
    np.testing.assert_allclose(score(0, 0), (q * k).sum(), rtol=1e-5)
    assert abs(score(7, 3) - score(3, 7)) > 1e-3


def test_smear_mixes_in_the_key_before_unless_that_is_padding():
    keys = jnp.arange(1.0, 5.0).reshape(1, 1, 4, 1)
    valid = jnp.array([[False, True, True, True]])
    out = smear(keys, jnp.array([0.25]), valid)[0, 0, :, 0]
    np.testing.assert_allclose(out, [1.0, 2.0, 0.75 * 3 + 0.25 * 2, 0.75 * 4 + 0.25 * 3])
