"""The loss of text against its definition, whole and in pieces."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.training import text

WIDTH, VOCABULARY = 6, 7


@pytest.fixture(scope="module")
def case():
    """(head, hidden [2, 5, 6], tokens, weights)."""
    rng = np.random.default_rng(0)
    head, hidden = (rng.normal(size=shape).astype(np.float32) for shape in ((WIDTH, VOCABULARY), (2, 5, WIDTH)))
    weights = np.array([[1, 1, 0, 1, 1], [1, 0, 0, 1, 0]], np.float32)
    return head, hidden, rng.integers(0, VOCABULARY, (2, 5)), weights


def loss(head, hidden, tokens, weights, **options):
    return text.token_loss(lambda x: x @ head, hidden, tokens, weights, VOCABULARY, **options)


@pytest.fixture(params=[1, 2, 5], ids="{} pieces".format)
def count(request, monkeypatch):
    """How many pieces the case is cut into: of 5 positions, of 3, of 1."""
    monkeypatch.setattr(text, "LOGITS", -(-2 * 5 * VOCABULARY // request.param))
    assert text.pieces(2, 5, VOCABULARY) == request.param
    return request.param


def test_it_is_the_weighted_mean_over_next_tokens(case, count):
    head, hidden, tokens, weights = case
    logits, total, divisor = hidden @ head, 0.0, 0.0
    for b in range(2):
        for at in range(1, 5):
            log_p = logits[b, at - 1] - np.log(np.exp(logits[b, at - 1]).sum())
            total -= weights[b, at] * log_p[tokens[b, at]]
            divisor += weights[b, at]
    np.testing.assert_allclose(loss(*case), total / divisor, rtol=1e-5)
    np.testing.assert_allclose(loss(*case, total=2 * divisor), total / divisor / 2, rtol=1e-5)


def test_its_gradients_are_those_of_the_whole(case, count, monkeypatch):
    head, hidden, tokens, weights = case
    gradients = jax.grad(loss, (0, 1))(head, hidden, jnp.asarray(tokens), weights)
    monkeypatch.setattr(text, "LOGITS", 2**24)
    expected = jax.grad(loss, (0, 1))(head, hidden, jnp.asarray(tokens), weights)
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_no_array_holds_more_logits_than_a_piece(case, count):
    head, hidden, tokens, weights = case
    lowered = jax.jit(jax.grad(loss, 1)).lower(head, hidden, jnp.asarray(tokens), weights).as_text()
    assert f"tensor<2x{-(-5 // count)}x{VOCABULARY}xf32>" in lowered
    assert count == 1 or f"tensor<2x5x{VOCABULARY}xf32>" not in lowered


def test_of_nothing_it_is_zero_and_so_is_its_gradient(count):
    hidden, tokens = jnp.ones((2, 5, WIDTH)), jnp.zeros((2, 5), jnp.int32)
    zero = functools.partial(loss, jnp.ones((WIDTH, VOCABULARY)), tokens=tokens, weights=jnp.zeros((2, 5)))
    value, grad = jax.value_and_grad(zero)(hidden)
    assert value == 0 and not np.any(grad)


def test_pieces_count_the_devices_that_share_the_logits():
    assert text.pieces(4, 256, 50280) == 4
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((4, 2), ("data", "tensor"))):
        assert text.pieces(4, 256, 50280) == 1
    assert text.pieces(2**20, 8, 2**20) == 8, "a position at least"
