"""The token table and what belongs to it: new rows beside it, positions, projections, logits of what is no token."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.config import LanguageConfig
from flamingo_jax.models.decoder import Decoder
from flamingo_jax.models.embedding import Embedding

CONFIG = LanguageConfig(vocab_size=10, width=8, depth=1, heads=1)
PADDED = {"vocab_rows": 12}  # rows 10 and 11 are no tokens
LOWEST = np.finfo(np.float32).min
NEW = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
HIDDEN = np.random.default_rng(1).normal(size=(1, 3, 8)).astype(np.float32)
TOKENS = np.array([[1, 7, 1, 3]])
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def made(**options):
    """(encode, decode, weights); both take keyword ``params`` instead of these weights."""
    model = Embedding(dataclasses.replace(CONFIG, **options), jnp.float32)
    shapes = jax.eval_shape(functools.partial(model.init, method="encode"), jax.random.key(0), TOKENS, TOKENS)
    rng = np.random.default_rng(2)
    weights = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), nn.meta.unbox(shapes)["params"])

    def method(name):
        return lambda *inputs, params=weights: model.apply({"params": params}, *inputs, method=name)

    return method("encode"), method("decode"), weights


def touched(rows):
    """The numbers of the rows that are not all zero."""
    return np.flatnonzero(np.abs(rows).sum(-1)).tolist()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("first, options, width", [(5, {}, 10), (10, {}, 12), (5, PADDED, 12), (10, PADDED, 12)]
                         + [(11, PADDED, 13), (12, PADDED, 14)])  # fmt: skip
def test_new_tokens_have_rows_of_their_own(first, options, width, tied):
    """Inside the table, in its padding, across its end, and directly after it."""
    encode, decode, weights = made(tied=tied, **options)
    x = encode(np.array([[1, first, first + 1]]), np.zeros((1, 3), int), (first, NEW))[0]
    close(x, [weights["table"][1], *NEW])
    logits = decode(HIDDEN, (first, NEW))[0]
    assert logits.shape == (3, width)
    rows = weights["table" if tied else "head"]
    expected = np.full((3, width), LOWEST)
    expected[:, :10] = HIDDEN[0] @ rows[:10].T
    expected[:, first : first + 2] = HIDDEN[0] @ NEW.T
    close(logits, expected)


def test_rows_that_are_no_token_never_win():
    """Whatever scale, cap and bias make of the others."""
    options = {"logit_scale": 0.01, "logit_softcap": 2.0, "head_bias": True}
    logits = made(**PADDED, **options)[1](HIDDEN)
    np.testing.assert_array_equal(logits[..., 10:], LOWEST)
    assert logits[..., :10].min() > -2


@pytest.mark.parametrize("first", [3, 10])
def test_only_rows_of_tokens_that_are_there_have_gradients(first):
    """The row of the table that a new token stands in for has none, in or out."""
    encode, decode, weights = made(tied=False)
    tokens = np.where(TOKENS == 3, first, TOKENS)

    def loss(params, new):
        x = encode(tokens, tokens, (first, new), params=params)
        return (x**2).sum() + (decode(HIDDEN, (first, new), params=params)[..., first + 1] ** 2).sum()

    weights_grad, new_grad = jax.grad(loss, argnums=(0, 1))(weights, NEW)
    assert touched(weights_grad["table"]) == [1, 7]
    assert touched(weights_grad["head"]) == []
    assert touched(new_grad) == [0, 1]  # one comes in, the other is asked for
    close(weights_grad["table"][1], 4 * weights["table"][1])  # twice in the text


def test_learned_positions_start_after_the_offset_and_end_with_the_table():
    encode, _, weights = made(positions="learned", max_positions=4, position_offset=2, embedding_scale=3.0)
    assert weights["positions"].shape == (6, 8)
    x = encode(TOKENS, np.array([[0, 1, 3, 9]]))[0]
    close(x, 3 * weights["table"][TOKENS[0]] + weights["positions"][[2, 3, 5, 5]])


def test_a_table_of_another_width_is_projected():
    encode, decode, weights = made(embedding_width=5)
    assert weights["table"].shape == (10, 5)
    close(encode(TOKENS, TOKENS)[0], weights["table"][TOKENS[0]] @ weights["widen"])
    model = Embedding(dataclasses.replace(CONFIG, embedding_width=5), jnp.float32)
    narrow = model.apply({"params": weights}, HIDDEN, method="project")
    close(narrow, HIDDEN @ weights["narrow"])
    close(decode(narrow), narrow @ weights["table"].T)


def test_logits_are_biased_then_scaled_then_capped():
    """A new token's row has no bias."""
    options = {"head_bias": True, "logit_scale": 0.5, "logit_softcap": 3.0}
    _, decode, weights = made(**options)
    plain = HIDDEN @ weights["table"].T + weights["head_bias"]
    close(decode(HIDDEN), 3 * np.tanh(0.5 * plain / 3))
    close(decode(HIDDEN, (10, NEW))[..., 10:], 3 * np.tanh(0.5 * (HIDDEN @ NEW.T) / 3))


@pytest.mark.parametrize("tied", [True, False])
def test_the_decoder_has_new_rows_in_and_out_where_the_table_is_untied(tied):
    """And its hidden states, as they are sown, are what the rows are compared with."""
    model = Decoder(dataclasses.replace(CONFIG, tied=tied, embedding_width=6), jnp.float32, new_tokens=(4, 5))
    params = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), TOKENS))["params"]
    names = ["new_rows"] if tied else ["new_head_rows", "new_rows"]
    assert sorted(name for name in params if name.startswith("new")) == names
    assert {params[name].shape for name in names} == {(2, 6)}
    logits, state = jax.jit(functools.partial(model.apply, mutable=["intermediates"]))({"params": params}, TOKENS)
    (hidden,) = state["intermediates"]["hidden"]
    assert hidden.shape == (1, 4, 6)
    close(logits[..., 4:6], hidden @ params[names[0]].T)
