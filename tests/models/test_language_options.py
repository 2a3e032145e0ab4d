"""Every option of the decoder is causal, does not feel padding, and continues from its cache."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.config import LanguageConfig, LayerConfig, RopeConfig
from flamingo_jax.models.decoder import Decoder

OPTIONS = {
    "pre": {},
    "sandwich": {"placement": "sandwich", "unit_offset": True, "softcap": 2.0, "logit_softcap": 5.0},
    "branch": {"placement": "branch", "qk_norm": "whole", "kv_heads": 1},
    "post": {"placement": "post", "final_norm": False, "norm": "layer", "embedding_width": 8},
    "parallel": {"placement": "parallel", "layers": (LayerConfig(rope=RopeConfig(fraction=0.5, interleaved=True)),)},
    "parallel_two": {"placement": "parallel_two", "norm": "layer", "qkv_bias": True, "tied": False, "head_bias": True},
    "learned": {"positions": "learned", "max_positions": 16, "position_offset": 2, "mlp_bias": True, "out_bias": True},
    "alibi": {"positions": "alibi", "norm": "layer", "norm_bias": False, "clip_qkv": 0.5},
    "relative": {"positions": "relative"},
    "none": {"positions": "none", "qk_norm": "head", "smear": True},
    "kinds": {"layers": (LayerConfig(3), LayerConfig(0, None)), "pattern": (0, 1), "qk_norm": "heads"},
    "gated": {"mlp": "gated", "activation": "silu", "residual_scale": 0.5, "logit_scale": 0.3, "attention_scale": 0.2},
}
TOKENS = np.random.default_rng(0).integers(1, 30, (2, 8)).astype(np.int32)


@functools.cache
def made(name):
    """(model, weights, jitted logits(tokens, mask)), with weights that are random everywhere."""
    config = LanguageConfig(vocab_size=30, width=16, depth=3, heads=2, **OPTIONS[name])
    model = Decoder(config, jnp.float32)
    shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), TOKENS))["params"]
    rng = np.random.default_rng(1)
    weights = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.3, 0.4, leaf.shape), jnp.float32), shapes)
    return model, weights, jax.jit(lambda tokens, mask: model.apply({"params": weights}, tokens, mask))


@pytest.mark.parametrize("name", OPTIONS)
def test_causal_and_blind_to_padding(name):
    *_, logits = made(name)
    full = np.ones((2, 8), bool)
    expected = logits(TOKENS, full)
    assert expected.shape == (2, 8, 30) and np.isfinite(expected).all() and expected.std() > 1e-3
    changed = TOKENS.copy()
    changed[:, 5] = changed[:, 5] % 29 + 1
    actual = logits(changed, full)
    np.testing.assert_allclose(actual[:, :5], expected[:, :5], rtol=1e-5, atol=1e-5)
    assert np.abs(actual[:, 5:] - expected[:, 5:]).max() > 1e-4
    for side, kept in (((4, 0), slice(4, None)), ((0, 4), slice(0, 8))):
        padded = [np.pad(part, ((0, 0), side)) for part in (TOKENS, full)]
        np.testing.assert_allclose(logits(*padded)[:, kept], expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", OPTIONS)
def test_decoding_from_the_cache_equals_the_whole_sequence(name):
    model, weights, logits = made(name)
    mask = np.arange(8) >= np.array([[0], [2]])  # the second row is padded on the left
    expected = logits(TOKENS, mask)
    step = jax.jit(functools.partial(model.apply, method="decode", mutable=["cache"]))
    state, outputs = {"cache": model.cache(2, 12)}, []
    for start, end in ((0, 5), (5, 6), (6, 8)):
        part, state = step({"params": weights, **state}, TOKENS[:, start:end], mask=mask[:, start:end])
        outputs.append(part)
    actual = np.concatenate(outputs, axis=1)
    np.testing.assert_allclose(actual[mask], expected[mask], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_nothing(remat):
    model, weights, _ = made("kinds")

    def loss(model):
        return jax.jit(jax.value_and_grad(lambda w: (model.apply({"params": w}, TOKENS) ** 2).mean()))(weights)

    chex.assert_trees_all_close(loss(model.clone(remat=remat)), loss(model), rtol=1e-4, atol=1e-5)


def test_a_window_hides_what_is_further_back():
    """One layer with a window of 3: a token feels itself and the two before it."""
    config = LanguageConfig(vocab_size=30, width=16, depth=1, heads=2, layers=(LayerConfig(3),))
    model = Decoder(config, jnp.float32)
    weights = {"params": nn.meta.unbox(model.init(jax.random.key(0), TOKENS))["params"]}
    expected = model.apply(weights, TOKENS)
    changed = TOKENS.copy()
    changed[:, 2] = changed[:, 2] % 29 + 1
    moved = np.abs(model.apply(weights, changed) - expected).max((0, 2)) > 1e-6
    assert moved.tolist() == [False, False, True, True, True, False, False, False]


def test_more_tokens_than_positions_are_refused():
    model, weights, _ = made("learned")
    with pytest.raises(ValueError, match="17 tokens are longer than the language model's context, 16"):
        model.apply({"params": weights}, np.ones((1, 17), np.int32))
