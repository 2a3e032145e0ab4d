"""Options of the bridge: what a token sees, gates, where gated layers stand, and which parts train."""

import dataclasses
import functools
import itertools

import flax.linen as nn
import flax.traverse_util as traverse
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.config import PRETRAINED, GatedConfig, LanguageConfig
from flamingo_jax.models.decoder import Decoder, group_layers
from flamingo_jax.models.flamingo import Flamingo
from flamingo_jax.models.gated import GatedCrossAttention, index_media, media_visibility
from flamingo_jax.models.parts import part_of

GATED = GatedConfig(every=1, heads=2, head_size=8, gate_init=0.7)
LANGUAGE = LanguageConfig(vocab_size=20, width=16, depth=4, heads=2)
PHI = jnp.array([[0, 1, 1, 2, 3]])


def layer(**options):
    """(apply(x, latents, seen), x [1, 5, 16], latents [1, 3, 2, 16]) of one gated layer with random weights."""
    model = GatedCrossAttention(dataclasses.replace(GATED, **options), jnp.float32)
    x, latents = jax.random.normal(jax.random.key(0), (1, 5, 16)), jax.random.normal(jax.random.key(1), (1, 3, 2, 16))
    variables = nn.meta.unbox(model.init(jax.random.key(2), x, latents, jnp.ones((1, 5, 3), bool)))
    return jax.jit(functools.partial(model.apply, variables)), x, latents


def reached(apply, x, latents, seen):
    """bool [L, N]: which media's latents the output of each token depends on."""
    jacobian = jax.jacobian(lambda latents: apply(x, latents, seen)[0].sum(-1))(latents)[:, 0]
    return np.abs(jacobian).sum((2, 3)) > 0


def test_visibility_is_the_drawn_one():
    phi = jnp.array([[0, 1, 2]])
    np.testing.assert_array_equal(media_visibility(phi, 2)[0], np.array([[0, 0], [1, 0], [0, 1]], bool))
    np.testing.assert_array_equal(media_visibility(phi, 2, "previous")[0], np.array([[0, 0], [1, 0], [1, 1]], bool))


@pytest.mark.parametrize("visible", ["own", "previous"])
def test_gradients_reach_the_media_that_are_seen_and_no_others(visible):
    apply, x, latents = layer()
    seen = media_visibility(PHI, 3, visible)
    np.testing.assert_array_equal(reached(apply, x, latents, seen), np.asarray(seen[0]))


def test_any_mask_of_tokens_and_media_is_taken():
    """p_next lets a token see a medium that comes after it; IDEFICS gives a mask."""
    apply, x, latents = layer()
    seen = media_visibility(jnp.array([[[1, 0, 1], [0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]]), 3)
    np.testing.assert_array_equal(reached(apply, x, latents, seen), np.asarray(seen[0]))


def test_index_counts_images_and_a_document_ends_what_is_seen():
    tokens = jnp.array([[5, 9, 5, 9, 5, 2, 5, 9, 5]])
    np.testing.assert_array_equal(index_media(tokens, image=9, end=2), [[0, 1, 1, 2, 2, 0, 0, 3, 3]])
    np.testing.assert_array_equal(index_media(tokens, image=9), [[0, 1, 1, 2, 2, 2, 2, 3, 3]])


def test_a_token_that_sees_nothing_gets_nothing_from_attention():
    for options, same in (({"mlp": "none"}, True), ({"unseen_mlp": False}, True), ({}, False)):
        apply, x, latents = layer(**options)
        out = apply(x, latents, media_visibility(PHI, 3))
        assert np.array_equal(out[:, 0], x[:, 0]) == same
        assert not np.array_equal(out[:, 1], x[:, 1])


@pytest.mark.parametrize(
    "options",
    [{"gate": "vector"}, {"norm": "rms", "qk_norm": "head"}, {"mlp": "gated", "activation": "silu", "mlp_width": 24}]
    + [{"media_norm": False, "activation": "gelu"}, {}],
    ids=str,
)
def test_gates_at_zero_leave_the_text_as_it_was(options):
    apply, x, latents = layer(**options, gate_init=0.0)
    np.testing.assert_array_equal(apply(x, latents, media_visibility(PHI, 3)), x)
    open_, *_ = layer(**options)
    assert np.abs(open_(x, latents, media_visibility(PHI, 3)) - x).max() > 0.1


def test_without_gates_there_is_nothing_to_open():
    apply, x, latents = layer(gate="none", gate_init=0.0)
    assert np.abs(apply(x, latents, media_visibility(PHI, 3)) - x).max() > 0.1


@pytest.mark.parametrize("first, every", [(0, 3), (1, 2), (2, 4), (3, 1)])
def test_the_language_model_is_whole_wherever_gated_layers_stand(first, every):
    """With gates at zero the blocks below, in groups and in the last group are the bare model's, in its order."""
    gated = dataclasses.replace(GATED, first=first, every=every, gate_init=0.0)
    assert gated.groups(4) == (first, *divmod(4 - first, every))
    bare = Decoder(LANGUAGE, jnp.float32)
    tokens, latents = jnp.array([[3, 7, 1, 12, 5]]), jnp.ones((1, 3, 2, 16))
    weights = nn.meta.unbox(bare.init(jax.random.key(0), tokens))["params"]
    model = Decoder(LANGUAGE, jnp.float32, gated=gated)
    fresh = nn.meta.unbox(model.init(jax.random.key(1), tokens, None, latents, PHI))
    variables = {"params": fresh["params"], "frozen": group_layers(weights, gated)}
    actual = jax.jit(model.apply)(variables, tokens, None, latents, PHI)
    np.testing.assert_allclose(actual, bare.apply({"params": weights}, tokens), rtol=1e-5, atol=1e-5)


def test_a_graft_stands_on_top_and_trains_its_own_attention():
    gated = dataclasses.replace(GATED, graft=2)
    model = Decoder(LANGUAGE, jnp.float32, gated=gated)
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, 5), jnp.int32), None, jnp.ones((1, 3, 2, 16)), PHI
    )
    assert set(shapes["params"]) == {"graft"} and set(shapes["params"]["graft"]) == {"gated", "language"}
    assert set(shapes["frozen"]) == {"embedding", "below", "norm"}


def test_latents_are_projected_once():
    gated = dataclasses.replace(GATED, media_width=24)
    model = Decoder(LANGUAGE, jnp.float32, gated=gated)
    inputs = (jnp.zeros((1, 5), jnp.int32), None, jnp.ones((1, 3, 2, 16)), PHI)
    shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), *inputs))["params"]
    assert shapes["media_projection"]["kernel"].shape == (16, 24)
    assert shapes["groups"]["gated"]["attention"]["key"]["kernel"].shape == (4, 24, 2, 8)


@pytest.mark.parametrize("count", range(4))
def test_a_part_is_in_one_collection_or_the_other(model_config, example, count):
    """Freezing moves a part and leaves the model as it is."""
    whole = None
    for frozen in itertools.combinations(PRETRAINED, count):
        model = Flamingo(dataclasses.replace(model_config, frozen=frozen), (3,))
        shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), *example.values()))
        flat = {name: traverse.flatten_dict(shapes.get(name, {})) for name in ("params", "frozen")}
        assert {part_of(path) for path in flat["frozen"]} == set(frozen)
        assert not {part_of(path) for path in flat["params"]} & set(frozen)
        shapes = {path: leaf.shape for leaves in flat.values() for path, leaf in leaves.items()}
        assert whole in (None, shapes)
        whole = shapes
