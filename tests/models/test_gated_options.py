"""Options of the bridge: what a token sees, gates and norms; and which parts of the model train."""

import dataclasses
import functools
import itertools

import flax.linen as nn
import flax.traverse_util as traverse
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import filled

from flamingo_jax.config import PRETRAINED, GatedConfig, LanguageConfig
from flamingo_jax.models.decoder import Decoder
from flamingo_jax.models.flamingo import Flamingo
from flamingo_jax.models.gated import GatedCrossAttention, index_media, media_visibility
from flamingo_jax.models.layers import FeedForward, Norm
from flamingo_jax.models.parts import part_of

GATED = GatedConfig(every=1, heads=2, head_size=8)
LANGUAGE = LanguageConfig(vocab_size=20, width=16, depth=1, heads=2)
PHI = jnp.array([[0, 1, 1, 2, 3]])
TOKENS = jnp.array([[3, 7, 1, 12, 5]])
X, LATENTS = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(1, 5, 16), (1, 3, 2, 16)]))
OWN = media_visibility(PHI, 3)


@functools.cache
def layer(**options):
    """(jitted apply(params, x, latents, seen), params) of one gated layer."""
    model = GatedCrossAttention(dataclasses.replace(GATED, **options), jnp.float32)
    params = filled(0, model, X, LATENTS, OWN)["params"]
    return jax.jit(lambda params, *inputs: model.apply({"params": params}, *inputs)), params


@functools.cache
def decoder(gated):
    """(jitted logits(variables, media_index, latents), variables)."""
    model = Decoder(LANGUAGE, jnp.float32, gated=gated)
    apply = jax.jit(lambda variables, phi, latents: model.apply(variables, TOKENS, None, latents, phi))
    return apply, filled(0, model, TOKENS, None, LATENTS, PHI)


@functools.cache
def shapes_of(config):
    """{path: shape} of ``params`` and of ``frozen``."""
    model = Flamingo(config, (3,))
    inputs = jnp.zeros((1, 4), jnp.int32), jnp.zeros((1, 1, 1, 16, 16, 3), jnp.uint8), jnp.zeros((1, 4), jnp.int32)
    shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), *inputs))
    flat = {name: traverse.flatten_dict(shapes.get(name, {})) for name in ("params", "frozen")}
    return [{path: leaf.shape for path, leaf in leaves.items()} for leaves in flat.values()]


def reached(seen):
    """bool [L, N]: which media's latents the output of each token depends on."""
    apply, params = layer()
    jacobian = jax.jacrev(lambda latents: apply(params, X, latents, seen)[0].sum(-1))(LATENTS)[:, 0]
    return (np.abs(jacobian).sum((2, 3)) > 0).tolist()


def test_visibility_is_the_drawn_one():
    phi = jnp.array([[0, 1, 2]])
    assert media_visibility(phi, 2)[0].tolist() == [[0, 0], [1, 0], [0, 1]]
    assert media_visibility(phi, 2, "previous")[0].tolist() == [[0, 0], [1, 0], [1, 1]]


@pytest.mark.parametrize(
    "visible, phi, expected",
    [
        ("own", PHI, [[0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        ("previous", PHI, [[0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]),
        ("own", jnp.array([[1, 2, 2, 3, 0]]), [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]),  # p_next
        *[(name, jnp.array([[[1, 0, 1], [0] * 3, [0, 0, 1], [1] * 3, [0, 1, 0]]], bool), None)
          for name in ("own", "previous")],
    ],
    ids=["own", "previous", "next", "mask", "mask_previous"],
)  # fmt: skip
def test_gradients_reach_the_media_that_are_seen_and_no_others(visible, phi, expected):
    assert reached(media_visibility(phi, 3, visible)) == (phi[0].tolist() if expected is None else expected)


@pytest.mark.parametrize("visible, expected", [("own", [0, 1, 0]), ("previous", [1, 1, 0])])
def test_the_decoder_sees_as_its_config_says(visible, expected):
    """The first token hears of no other's media: p_next shows it the second one, "previous" the first too."""
    apply, variables = decoder(dataclasses.replace(GATED, visible=visible))
    phi = jnp.array([[2, 2, 3, 3, 3]])
    gradient = jax.grad(lambda latents: apply(variables, phi, latents)[0, 0, 7])(LATENTS)
    assert (np.abs(gradient[0]).sum((1, 2)) > 0).tolist() == expected


def test_index_counts_images_and_a_document_ends_what_is_seen():
    tokens = jnp.array([[5, 9, 5, 9, 5, 2, 5, 9, 5], [2, 5, 9, 2, 9, 9, 5, 2, 2]])
    expected = [[0, 1, 1, 2, 2, 0, 0, 3, 3], [0, 0, 1, 0, 2, 3, 3, 0, 0]]
    np.testing.assert_array_equal(index_media(tokens, image=9, end=2), expected)
    np.testing.assert_array_equal(index_media(tokens[:1], image=9), [[0, 1, 1, 2, 2, 2, 2, 3, 3]])


@pytest.mark.parametrize("mlp", ["plain", "gated", "none"])
def test_a_token_that_sees_nothing_gets_the_feed_forward_alone(mlp):
    apply, params = layer(mlp=mlp)
    out, expected = apply(params, X, LATENTS, OWN)[:, 0], X[:, 0]
    if mlp != "none":
        y = Norm(jnp.float32, centred=True).apply({"params": params["mlp_norm"]}, expected)
        y = FeedForward("squared_relu", jnp.float32, 64, mlp == "gated").apply({"params": params["mlp"]}, y)
        expected = expected + jnp.tanh(params["mlp_gate"]) * y
        assert np.abs(y).max() > 0.1
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"unseen_mlp": False}, {"mlp": "none"}, {"mlp": "none", "gate": "none"}], ids=str)
def test_a_token_that_sees_nothing_can_be_left_bit_for_bit(options):
    apply, params = layer(**options)
    same = (apply(params, X, LATENTS, OWN) == X).all(-1)[0]
    assert same.tolist() == [True, False, False, False, False]


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, {"attention_gate": (), "mlp_gate": (), "mlp/up/kernel": (16, 64), "media_norm/offset": (16,)}),
        ({"gate": "vector"}, {"attention_gate": (16,), "mlp_gate": (16,)}),
        ({"gate": "none"}, {"attention_gate": None, "mlp_gate": None, "mlp/up/kernel": (16, 64)}),
        ({"mlp": "none"}, {"mlp/up/kernel": None, "mlp_norm/scale": None, "mlp_gate": None, "attention_gate": ()}),
        ({"mlp": "gated", "mlp_width": 24}, {"mlp/gate/kernel": (16, 24), "mlp/down/kernel": (24, 16)}),
        ({"qk_norm": "head"}, {"attention/query_norm/scale": (8,), "attention/key_norm/offset": (8,)}),
        ({"norm": "rms"}, {"text_norm/scale": (16,), "text_norm/offset": None, "mlp_norm/offset": None}),
        ({"media_norm": False}, {"media_norm/scale": None, "text_norm/offset": (16,)}),
    ],
    ids=str,
)
def test_options_have_their_weights_and_with_gates_at_zero_no_effect(options, expected):
    apply, params = layer(**options)
    found = traverse.flatten_dict(params, sep="/")
    assert {name: found[name].shape if name in found else None for name in expected} == expected
    shut = {name: 0 * weight for name, weight in params.items() if name.endswith("_gate")}
    assert np.array_equal(apply({**params, **shut}, X, LATENTS, OWN), X) == (options.get("gate") != "none")


@pytest.mark.parametrize(
    "options, changed",
    [({}, "nothing"), ({"media_norm": False}, "latents"), ({"norm": "rms"}, "text"), ({"qk_norm": "head"}, "key")],
    ids=str,
)
def test_norms_are_where_the_options_put_them(options, changed):
    """LayerNorm takes away an offset of the text, media_norm the latents' size, qk_norm that of the keys."""
    apply, params = layer(**options, mlp="none", epsilon=1e-9)
    larger = traverse.flatten_dict(params)
    larger["attention", "key", "kernel"] = 3 * larger["attention", "key", "kernel"]
    delta = apply(params, X, LATENTS, OWN) - X
    same = {
        "text": np.allclose(apply(params, X + 1, LATENTS, OWN) - X - 1, delta, atol=1e-4),
        "latents": np.allclose(apply(params, X, 3 * LATENTS, OWN) - X, delta, atol=1e-4),
        "key": not np.allclose(apply(traverse.unflatten_dict(larger), X, LATENTS, OWN) - X, delta, atol=1e-4),
    }
    assert [name for name, holds in same.items() if not holds] == [changed] * (changed != "nothing")


@pytest.mark.parametrize("gate, shape", [("scalar", ()), ("vector", (16,))])
def test_gates_start_where_they_are_told(gate, shape):
    model = GatedCrossAttention(dataclasses.replace(GATED, gate=gate, gate_init=0.7), jnp.float32)
    params = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), X, LATENTS, OWN))["params"]
    for name in ("attention_gate", "mlp_gate"):
        np.testing.assert_array_equal(params[name], np.full(shape, 0.7, np.float32))


def test_latents_are_projected_once_to_the_media_width():
    shapes = traverse.flatten_dict(decoder(dataclasses.replace(GATED, media_width=24))[1]["params"], sep="/")
    assert shapes["media_projection/kernel"].shape == (16, 24)
    assert shapes["groups/gated/attention/key/kernel"].shape == (1, 24, 2, 8)


@pytest.mark.parametrize("frozen", [f for n in range(4) for f in itertools.combinations(PRETRAINED, n)], ids=str)
def test_freezing_moves_a_part_and_leaves_the_model_as_it_is(model_config, frozen):
    params, other = shapes_of(dataclasses.replace(model_config, frozen=frozen))
    assert {part_of(path) for path in other} == set(frozen)
    bridge = {"resampler", "cross_attention", "new_tokens"}
    assert {part_of(path) for path in params} == bridge | (set(PRETRAINED) - set(frozen))
    assert not params.keys() & other.keys()
    assert params | other == functools.reduce(dict.__or__, shapes_of(model_config))


def test_every_weight_has_a_gradient_when_nothing_is_frozen(model_config, example):
    language = dataclasses.replace(model_config.language, depth=2)
    model = Flamingo(dataclasses.replace(model_config, language=language, frozen=()), (3,))
    params = filled(0, model, *example.values())["params"]
    grads = jax.jit(jax.grad(lambda params: (model.apply({"params": params}, *example.values()) ** 2).mean()))(params)
    flat = traverse.flatten_dict(grads, sep="/")
    assert [name for name, grad in flat.items() if not (np.isfinite(grad).all() and np.abs(grad).max() > 0)] == []
    assert {part_of(name.split("/")) for name in flat} > set(PRETRAINED)
