"""The decoder with every option: causal, blind to padding, continued from its cache; gated layers fit in anywhere."""

import dataclasses
import functools

import chex
import flax.linen as nn
import flax.traverse_util as traverse
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import filled

from flamingo_jax.config import GatedConfig, LanguageConfig, LayerConfig, RopeConfig
from flamingo_jax.config.model import REMAT
from flamingo_jax.models.decoder import Decoder, group_layers
from flamingo_jax.models.embedding import Embedding
from flamingo_jax.models.gated import GatedCrossAttention, media_visibility
from flamingo_jax.models.language import Stack
from flamingo_jax.models.layers import Norm
from flamingo_jax.models.parts import part_of
from flamingo_jax.models.positions import place

OPTIONS = {
    "pre": {},
    "sandwich": {"placement": "sandwich", "unit_offset": True, "softcap": 2.0, "logit_softcap": 5.0},
    "branch": {"placement": "branch", "qk_norm": "whole", "kv_heads": 1},
    "post": {"placement": "post", "final_norm": False, "norm": "layer", "embedding_width": 8},
    "parallel": {"placement": "parallel", "layers": (LayerConfig(rope=RopeConfig(fraction=0.5, interleaved=True)),)},
    "parallel_two": {"placement": "parallel_two", "norm": "layer", "qkv_bias": True, "tied": False, "head_bias": True},
    "learned": {"positions": "learned", "max_positions": 12, "position_offset": 2, "mlp_bias": True, "out_bias": True},
    "alibi": {"positions": "alibi", "norm": "layer", "norm_bias": False, "clip_qkv": 0.5},
    "relative": {"positions": "relative"},
    "none": {"positions": "none", "qk_norm": "head", "smear": True},
    "kinds": {"layers": (LayerConfig(3), LayerConfig(0, None)), "pattern": (0, 1), "qk_norm": "heads", "kv_heads": 1},
    "gated": {"mlp": "gated", "activation": "silu", "residual_scale": 0.5, "logit_scale": 0.3, "attention_scale": 0.2},
}
SMALL = LanguageConfig(vocab_size=30, width=16, depth=3, heads=2)
MIXED = dataclasses.replace(SMALL, depth=4, layers=OPTIONS["kinds"]["layers"], pattern=(0, 0, 1))
GATED = GatedConfig(every=1, heads=2, head_size=8)
LAYOUTS = [
    pytest.param({"first": first, "every": every}, marks=[] if every == first + 1 else [pytest.mark.slow])
    for first in (0, 1, 2)
    for every in (1, 2, 3)
]
TOKENS, ALL = np.random.default_rng(0).integers(1, 30, 12).astype(np.int32), np.ones((1, 12), bool)
PHI, LATENTS = np.arange(12)[None] // 4, np.random.default_rng(2).normal(size=(1, 2, 3, 16)).astype(np.float32)


@functools.cache
def made(**options):
    """(model, variables, jitted logits(tokens, mask))."""
    model = Decoder(dataclasses.replace(SMALL, **options), jnp.float32)
    variables = filled(1, model, TOKENS[None])
    return model, variables, jax.jit(functools.partial(model.apply, variables))


def changed(tokens, at):
    """``tokens`` with another one in one place."""
    return np.where(np.arange(len(tokens)) == at, tokens % 29 + 1, tokens)


@pytest.mark.parametrize("name", OPTIONS)
def test_causal_and_blind_to_padding(name):
    """Eight tokens: followed by four, by others, padded on the right and on the left. One call, one compilation."""
    rows = np.stack([TOKENS, changed(TOKENS, 8), TOKENS, np.roll(TOKENS, 4), changed(TOKENS, 3)])
    mask = np.ones((5, 12), bool)
    mask[2, 8:] = mask[3, :4] = False
    whole, other, right, left, early = np.asarray(made(**OPTIONS[name])[2](rows, mask))
    assert whole.shape == (12, 30) and np.isfinite(whole).all()
    for actual, what in ((other[:8], "later tokens"), (right[:8], "right padding"), (left[4:], "left padding")):
        np.testing.assert_allclose(actual, whole[:8], rtol=1e-4, atol=1e-4, err_msg=what)
    assert (np.abs(early - whole)[:6].max(-1) > 5e-3).tolist() == [False, False, False, True, True, True]
    assert np.abs(other - whole)[8:].max() > 5e-3


@pytest.mark.parametrize("name", OPTIONS)
def test_decoding_from_the_cache_equals_the_whole_sequence(name):
    model, variables, logits = made(**OPTIONS[name])
    tokens = np.stack([TOKENS, np.roll(TOKENS, 2), TOKENS[::-1], TOKENS, TOKENS])
    mask = np.arange(12) >= np.array([[0], [2], [0], [5], [0]])  # some rows are padded on the left
    step = jax.jit(functools.partial(model.apply, method="decode", mutable=["cache"]))
    state, outputs = {"cache": model.cache(5, 12)}, []
    for start in (0, 4, 8):
        part, state = step({**variables, **state}, tokens[:, start:][:, :4], mask=mask[:, start:][:, :4])
        outputs += [part]
    np.testing.assert_allclose(np.concatenate(outputs, 1)[mask], logits(tokens, mask)[mask], rtol=1e-4, atol=1e-4)


def test_remat_changes_what_is_kept_and_nothing_else():
    """Matrix products of the backward pass: all again with "full", those of attention alone with "dots"."""
    (model, variables, _), results, products = made(**OPTIONS["kinds"]), {}, {}
    for remat in REMAT:
        apply = model.clone(remat=remat).apply
        step = jax.value_and_grad(lambda variables, apply=apply: (apply(variables, TOKENS[None]) ** 2).mean())
        results[remat] = jax.jit(step)(variables)
        products[remat] = str(jax.make_jaxpr(step)(variables)).count("dot_general")
    chex.assert_trees_all_close(*results.values(), rtol=1e-4, atol=1e-5)
    assert products["none"] < products["dots"] < products["full"]


def test_layers_are_one_loop_over_weights_that_start_apart():
    models = [Decoder(dataclasses.replace(SMALL, depth=depth), jnp.float32) for depth in (2, 7)]
    programs = [str(jax.make_jaxpr(model.init)(jax.random.key(0), TOKENS[None])) for model in models]
    assert programs[0].count("\n") == programs[1].count("\n")
    blocks = jax.jit(Stack(SMALL, jnp.float32).init)(jax.random.key(0), *inputs(SMALL))["params"]["blocks"]
    for path, leaf in traverse.flatten_dict(nn.meta.unbox(blocks)).items():
        assert leaf.shape[0] == SMALL.depth, path
        assert path[-1] != "kernel" or len({float(w.sum()) for w in leaf}) == SMALL.depth, path


@pytest.mark.parametrize("window, reach", [(1, 1), (3, 3), (0, 12)])
def test_a_window_hides_what_is_further_back(window, reach):
    logits = made(depth=1, layers=(LayerConfig(window),))[2]
    felt = np.abs(logits(changed(TOKENS, 2)[None], ALL) - logits(TOKENS[None], ALL))[0].max(-1) > 1e-4
    assert felt.tolist() == [2 <= i < 2 + reach for i in range(12)]


def test_more_tokens_than_positions_are_refused():
    model, variables, _ = made(**OPTIONS["learned"])
    with pytest.raises(ValueError, match="13 tokens are longer than the language model's context, 12"):
        model.apply(variables, np.ones((1, 13), int))
    with pytest.raises(ValueError, match="14 tokens are longer"):
        model.cache(1, 14)


def inputs(config):
    """(x, kinds, where) of a stack for ``TOKENS``."""
    return jnp.ones((1, 12, config.width)), jnp.array(config.kinds()), place(config, jnp.asarray(ALL), None, 12)[1]


@functools.cache
def bare():
    """(weights, logits) of the mixed language model alone."""
    _, variables, logits = made(depth=4, layers=MIXED.layers, pattern=MIXED.pattern)
    return variables["params"], logits(TOKENS[None], ALL)


def bridged(weights, opened=0.0, **options):
    """(logits, params) of the gated model on the bare one's weights, with its gates at ``opened``."""
    model = Decoder(MIXED, jnp.float32, gated=dataclasses.replace(GATED, **options))
    params = traverse.flatten_dict(filled(1, model, TOKENS[None], ALL, LATENTS, PHI)["params"])
    for path, leaf in params.items():
        if path[-1].endswith("_gate") or (
            "language" in path and {"out", "down"} & set(path)
        ):  # of a graft's own blocks
            params[path] = jnp.full_like(leaf, opened)
    params = traverse.unflatten_dict(params)
    variables = {"params": params, "frozen": group_layers(weights, model.gated)}
    return jax.jit(model.apply)(variables, TOKENS[None], ALL, LATENTS, PHI), params


@pytest.mark.parametrize("options", [*LAYOUTS, {"every": 3, "gate": "vector"}, {"graft": 2}], ids=str)
def test_shut_gates_leave_the_language_model_whole_wherever_they_stand(options):
    """Blocks below, in groups and in the last group are the bare model's, in its order and of its kinds."""
    np.testing.assert_allclose(bridged(bare()[0], **options)[0], bare()[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_blocks_are_split_and_come_together_again(first):
    blocks = np.arange(8).reshape(4, 2)
    for every in (1, 2, 3):
        gated = dataclasses.replace(GATED, first=first, every=every)
        assert gated.groups(4) == (first, (4 - first) // every, (4 - first) % every)
        grouped = group_layers({"language": {"w": blocks}}, gated)
        parts = [jax.tree.leaves(grouped[name])[0] for name in ("below", "groups", "remainder") if name in grouped]
        np.testing.assert_array_equal(np.concatenate([part.reshape(-1, 2) for part in parts]), blocks)


def test_a_single_gated_layer_in_the_middle():
    """By hand: two blocks, the gated layer, two blocks."""
    assert MIXED.kinds() == (0, 0, 1, 0)
    actual, params = bridged(weights := bare()[0], opened=0.7, first=2, every=2)
    (_, kinds, where), embedding, stack = inputs(MIXED), Embedding(MIXED, jnp.float32), Stack(MIXED, jnp.float32)

    @jax.jit
    def by_hand(weights, gated):
        table, blocks = {"params": weights["embedding"]}, weights["language"]
        x = embedding.apply(table, TOKENS[None], jnp.arange(12)[None], method="encode")
        x = stack.apply({"params": jax.tree.map(lambda w: w[:2], blocks)}, x, kinds[:2], where)
        seen = media_visibility(jnp.asarray(PHI), 2)
        x = GatedCrossAttention(GATED, jnp.float32).apply({"params": gated}, x, LATENTS, seen)
        x = stack.apply({"params": jax.tree.map(lambda w: w[2:], blocks)}, x, kinds[2:], where)
        return embedding.apply(table, Norm(jnp.float32).apply({"params": weights["norm"]}, x), method="decode")

    expected = by_hand(weights, jax.tree.map(lambda w: w[0], params["groups"]["gated"]))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_a_graft_trains_its_own_self_attention_on_top_of_all_blocks():
    weights, expected = bare()
    logits, params = bridged(weights, opened=0.7, graft=2)
    assert np.abs(logits - expected).max() > 1e-2
    assert set(params["graft"]) == {"gated", "language"} and {leaf.shape[0] for leaf in jax.tree.leaves(params)} == {2}
    assert {part_of(path) for path in traverse.flatten_dict(params)} == {"cross_attention"}
    assert dataclasses.replace(GATED, graft=2).groups(4) == (4, 0, 0)


def test_longrope_takes_its_long_divisors_from_the_first_position_beyond_the_original_context():
    rope = RopeConfig(scaling="longrope", original_length=8, short=(1.0, 2.0), long=(3.0, 5.0), magnitude=1.5)
    config = LanguageConfig(vocab_size=4, width=8, depth=1, heads=2, layers=(LayerConfig(rope=rope),))
    for length, divisors in ((8, rope.short), (9, rope.long)):
        _, here = place(config, jnp.ones((1, length), bool), None, length)
        angle = np.arange(length)[:, None] * np.array([1.0, 0.01]) / divisors
        for table, expected in zip(here["rope"], (np.cos(angle), np.sin(angle)), strict=True):
            np.testing.assert_allclose(table[0, 0, 0], 1.5 * expected, atol=1e-6)


def test_norms_without_a_scale_have_no_weights():
    x = jax.random.normal(jax.random.key(0), (1, 3, 4))
    plain, weights = Norm(jnp.float32, True, bias=False, scale=False).init_with_output(jax.random.key(0), x)
    assert not weights
    np.testing.assert_allclose(plain, Norm(jnp.float32, True).init_with_output(jax.random.key(0), x)[0], atol=1e-6)
