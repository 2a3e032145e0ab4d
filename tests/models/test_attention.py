"""The pure functions that every transformer here is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.config import LanguageConfig, LayerConfig, RopeConfig
from flamingo_jax.models.attention import attend, smear
from flamingo_jax.models.positions import alibi_slopes, by_distance, causal, rope_tables, rotate, windowed


def test_a_query_that_sees_nothing_gets_zeros():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 2, 3, 4))
    mask = jnp.array([[[True, False, True], [False, False, False], [False, True, False]]])
    out = attend(q, k, v, mask, scale=0.5)
    np.testing.assert_array_equal(out[:, :, 1], 0)
    np.testing.assert_allclose(out[:, :, 2], v[:, :, 1], rtol=1e-6)
    grad = jax.grad(lambda v: attend(q, k, v, mask, scale=0.5)[:, :, 1].sum())(v)
    assert np.isfinite(grad).all() and not np.any(grad)


def test_attention_without_a_mask_sees_all():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 2, 3, 4))
    np.testing.assert_allclose(
        attend(q, k, v, scale=0.5), attend(q, k, v, jnp.ones((2, 3, 3), bool), scale=0.5), rtol=1e-5, atol=1e-6
    )


def test_neighbouring_query_heads_share_a_key_head():
    q, k = jax.random.normal(jax.random.key(0), (1, 4, 3, 4)), jax.random.normal(jax.random.key(1), (1, 2, 3, 4))
    grouped = attend(q, k, k, scale=0.5)
    np.testing.assert_allclose(grouped, attend(q, *[jnp.repeat(k, 2, axis=1)] * 2, scale=0.5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rope", [{}, {"interleaved": True}, {"fraction": 0.5}], ids=str)
def test_rotary_scores_depend_on_distance_alone(rope):
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    config = LanguageConfig(8, 8, 1, 1, layers=(LayerConfig(rope=RopeConfig(**rope)),))

    def turn(x, position):
        cos, sin = rope_tables(config, jnp.array([[position]]))
        return rotate(x, cos[0], sin[0], rope.get("interleaved", False))

    def score(i, j):
        return (turn(q, i) * turn(k, j)).sum()

    np.testing.assert_allclose(score(7, 3), score(104, 100), rtol=1e-4)
    np.testing.assert_allclose(score(0, 0), (q * k).sum(), rtol=1e-5)
    assert abs(score(7, 3) - score(3, 7)) > 1e-3


def test_a_layer_without_rope_is_not_turned():
    config = LanguageConfig(8, 8, 2, 1, layers=(LayerConfig(), LayerConfig(rope=None)), pattern=(0, 1))
    cos, sin = rope_tables(config, jnp.array([[5]]))
    assert np.abs(sin[0]).max() > 0.5
    np.testing.assert_array_equal(sin[1], 0)
    np.testing.assert_array_equal(cos[1], 1)


def test_masks_are_the_drawn_ones():
    known = jnp.array([[False, True, True, True]])
    drawn = [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]
    np.testing.assert_array_equal(causal(known, 0, 4)[0], np.array(drawn, bool))
    np.testing.assert_array_equal(causal(known, 2, 2)[0], np.array(drawn[2:], bool))
    two, every = windowed(causal(jnp.ones((1, 4), bool), 0, 4), (2, 0), 0)
    drawn = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    np.testing.assert_array_equal(two[0], np.array(drawn, bool))
    np.testing.assert_array_equal(every[0], np.tril(np.ones((4, 4), bool)))


def test_alibi_slopes_of_an_odd_number_of_heads_are_every_second_first():
    np.testing.assert_allclose(alibi_slopes(4, 8), [2**-2, 2**-4, 2**-6, 2**-8])
    np.testing.assert_allclose(alibi_slopes(3, 8), [2**-4, 2**-8, 2**-2])


@pytest.mark.parametrize("slot", [0, 3])
def test_scores_by_distance_are_moved_to_their_keys(slot):
    scores = jax.random.normal(jax.random.key(0), (2, 3, 8))  # three queries, eight keys
    moved = by_distance(scores, slot)
    for query in range(3):
        for key in range(slot + query + 1):
            np.testing.assert_array_equal(moved[:, query, key], scores[:, query, slot + query - key])


def test_smear_mixes_in_the_key_before_unless_that_is_padding():
    keys = jnp.arange(1.0, 5.0).reshape(1, 1, 4, 1)
    valid = jnp.array([[False, True, True, True]])
    out = smear(keys, jnp.array([0.25]), valid)[0, 0, :, 0]
    np.testing.assert_allclose(out, [1.0, 2.0, 0.75 * 3 + 0.25 * 2, 0.75 * 4 + 0.25 * 3])
