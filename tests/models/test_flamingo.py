"""What makes it Flamingo: who sees which medium, gates at zero, frozen weights out of reach."""

import dataclasses
import functools

import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.models.decoder import Decoder
from flamingo_jax.models.flamingo import Flamingo, assemble
from flamingo_jax.models.gated import media_mask, media_visibility


@functools.partial(jax.jit, static_argnums=0)
def forward(model, variables, tokens, media, media_index, mask=None):
    return model.apply(variables, tokens, media, media_index, mask)


@functools.partial(jax.jit, static_argnums=0)
def encode(model, variables, media):
    return model.apply(variables, media, method="encode")


@functools.partial(jax.jit, static_argnums=0)
def decode(model, variables, tokens, latents, media_index):
    return model.apply(variables, tokens, latents, media_index, method="decode")


def test_media_mask_is_the_drawn_one():
    mask = media_mask(media_visibility(jnp.array([[0, 1, 2]]), media=2), latents=2)
    expected = [[[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]]
    np.testing.assert_array_equal(mask, np.array(expected, bool))


def test_a_token_sees_only_its_medium_and_earlier_text(flamingo, example):
    """The derivative of a token's logits by the latents vanishes exactly where neither phi nor the text reaches."""
    model, variables = flamingo
    latents = encode(model, variables, example["media"])

    @jax.jit
    def gradient(latents, position):
        def logit(latents):
            return decode(model, variables, example["tokens"], latents, example["media_index"])[0, position, 7]

        return jnp.abs(jax.grad(logit)(latents)[0]).sum((1, 2))  # [N]

    phi = np.asarray(example["media_index"][0])
    for position in range(len(phi)):
        seen = {i - 1 for i in phi[: position + 1] if i}  # its own, and those that earlier tokens passed on
        np.testing.assert_array_equal(
            gradient(latents, position) > 0, [i in seen for i in range(3)], err_msg=f"{position=}"
        )


def test_tokens_before_any_medium_are_untouched_by_attention(flamingo, example):
    model, variables = flamingo
    one = forward(model, variables, *example.values())
    other = forward(model, variables, example["tokens"], example["media"][:, ::-1], example["media_index"])
    np.testing.assert_array_equal(one[0, :2], other[0, :2])
    assert not np.array_equal(one[0, 2:], other[0, 2:])


def test_gates_at_zero_give_the_bare_language_model_bit_for_bit(model_config, example, optimised):
    """As the miniature is built, and compiled as its user's program is compiled."""
    check_gates_at_zero(model_config, example, every=1)


@pytest.mark.parametrize(
    "every, more",
    [
        pytest.param(2, {}, marks=pytest.mark.slow),
        pytest.param(3, {}, marks=pytest.mark.slow),
        (2, {"dtype": "bfloat16", "remat": "full"}),
    ],
)
def test_gates_at_zero_with_groups_and_remainder(model_config, example, every, more):
    """Other layouts, with the compiler's liberties off: it unrolls a loop that runs once and may round differently."""
    check_gates_at_zero(dataclasses.replace(model_config, **more), example, every)


def check_gates_at_zero(model_config, example, every):
    """The gates are as they are initialised."""
    config = dataclasses.replace(model_config, gated=dataclasses.replace(model_config.gated, every=every))
    dtype = jnp.dtype(config.dtype)
    bare = Decoder(config.language, dtype, config.remat)
    tokens = jnp.where(example["tokens"] == 3, 9, example["tokens"])
    weights = flax.linen.meta.unbox(jax.jit(bare.init)(jax.random.key(1), tokens))["params"]
    weights = jax.tree.map(lambda leaf: leaf.astype(dtype), weights)  # as a stage stores what it freezes
    model = Flamingo(config, new_tokens=(3,))
    fresh = flax.linen.meta.unbox(jax.jit(model.init)(jax.random.key(2), *example.values()))
    frozen = assemble(weights, fresh["frozen"]["vision"], config.gated)
    variables = {"params": fresh["params"], "frozen": frozen}
    expected = jax.jit(bare.apply)({"params": weights}, tokens)
    actual = forward(model, variables, tokens, example["media"], example["media_index"])
    keep = np.arange(config.language.vocab_size) != 3  # the <EOC> logit is the bridge's own, trained row
    np.testing.assert_array_equal(np.asarray(actual)[..., keep], np.asarray(expected)[..., keep])


def test_gradients_exist_for_the_bridge_alone(flamingo, example):
    model, variables = flamingo

    def loss(params):
        return (model.apply({"params": params, "frozen": variables["frozen"]}, *example.values()) ** 2).mean()

    grads = jax.jit(jax.grad(loss))(variables["params"])
    chex.assert_trees_all_equal_structs(grads, variables["params"])
    assert set(grads) == {"resampler", "decoder"} and set(grads["decoder"]) == {"new_rows", "groups", "remainder"}
    assert set(grads["decoder"]["groups"]) == {"gated"}
    flat = flax.traverse_util.flatten_dict(grads, sep="/")
    assert [name for name, grad in flat.items() if not np.abs(grad).sum()] == []
    assert not np.abs(grads["resampler"]["time"][1:]).sum()  # images have one frame


def test_writing_to_a_frozen_weight_raises(flamingo, example):
    model, variables = flamingo
    bound = model.bind(variables)
    with pytest.raises(flax.errors.ModifyScopeVariableError):
        bound.scope.put_variable("frozen", "vision", {})


def test_scan_and_remat_change_nothing(model_config, flamingo, example):
    _, variables = flamingo
    losses = []
    for remat in ("none", "dots", "layers", "full"):
        model = Flamingo(dataclasses.replace(model_config, remat=remat), new_tokens=(3,))

        def loss(params, model=model):
            return (model.apply({"params": params, "frozen": variables["frozen"]}, *example.values()) ** 2).mean()

        losses.append(jax.jit(jax.value_and_grad(loss))(variables["params"]))
    chex.assert_trees_all_close(*losses, rtol=1e-5, atol=1e-6)


def test_cached_decoding_equals_the_whole_sequence(flamingo, example):
    model, variables = flamingo
    latents = encode(model, variables, example["media"])
    tokens, phi = example["tokens"], example["media_index"]
    expected = decode(model, variables, tokens, latents, phi)
    step = jax.jit(functools.partial(model.apply, method="decode", mutable=["cache"]))
    state, outputs = {"cache": model.cache(2, 15)}, []
    for start, end in ((0, 7), (7, 8), (8, 12)):
        mask = jnp.ones((2, end - start), bool)
        logits, state = step({**variables, **state}, tokens[:, start:end], latents, phi[:, start:end], mask)
        outputs.append(logits)
    np.testing.assert_allclose(jnp.concatenate(outputs, 1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(flamingo, example, side):
    model, variables = flamingo
    expected = forward(model, variables, *example.values(), jnp.ones((2, 12), bool))
    width = ((0, 0), (4, 0)) if side == "left" else ((0, 0), (0, 4))
    tokens, phi = (jnp.pad(example[key], width) for key in ("tokens", "media_index"))
    mask = jnp.pad(jnp.ones((2, 12), bool), width)
    actual = forward(model, variables, tokens, example["media"], phi, mask)
    actual = actual[:, 4:] if side == "left" else actual[:, :12]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
