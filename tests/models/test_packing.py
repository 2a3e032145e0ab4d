"""Packed documents: what a row of several gives, each gives in a row of its own; and a bool mask is what it was."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled import filled

from flamingo_jax.config import LayerConfig
from flamingo_jax.models.attention import smear
from flamingo_jax.models.decoder import Decoder
from flamingo_jax.models.flamingo import Flamingo
from flamingo_jax.models.gated import media_visibility
from flamingo_jax.models.positions import causal, count, place

LENGTHS, MEDIA, LENGTH, LONGEST = (6, 9, 5), 2, 24, 9
CASES = [
    (positions, smeared, ("own", "previous")[(i + smeared) % 2])
    for i, positions in enumerate(("rope", "learned", "alibi", "relative"))
    for smeared in (False, True)
]
SEGMENTS = np.repeat([1, 2, 3, 0], [*LENGTHS, LENGTH - sum(LENGTHS)]).astype(np.int32)[None]
STARTS = np.cumsum((0, *LENGTHS))


@functools.cache
def documents():
    """{packed, apart: (tokens, media, media_index, mask)} of three documents of two media each; floats for pixels.

    Document d is made of the tokens 4 + 20 d to 23 + 20 d alone. Its first token, <BOS> in earnest, sees no medium.
    """
    rng = np.random.default_rng(0)
    rows = [rng.integers(4 + 20 * d, 24 + 20 * d, size) for d, size in enumerate(LENGTHS)]
    phi = [np.repeat([0, 1, 2], [1, 2, size - 3]) for size in LENGTHS]
    media = rng.normal(size=(3, MEDIA, 1, 16, 16, 3)).astype(np.float32)

    def pad(rows, length):
        return np.stack([np.pad(row, (0, length - len(row))) for row in rows]).astype(np.int32)

    further = [np.where(index, index + MEDIA * d, 0) for d, index in enumerate(phi)]
    packed = [pad([np.concatenate(part)], LENGTH) for part in (rows, further)]
    apart = [pad(part, LONGEST) for part in (rows, phi)]
    return {
        "packed": (packed[0], media.reshape(1, 3 * MEDIA, *media.shape[2:]), packed[1], SEGMENTS),
        "apart": (apart[0], media, apart[1], apart[0] > 0),
    }


@functools.cache
def made(config, positions, smeared, visible):
    """(model, variables): a layer with a window of three and one without, gates open."""
    options = {"positions": positions, "smear": smeared, "max_positions": LENGTH, "tied": False, "depth": 2}
    language = dataclasses.replace(config.language, layers=(LayerConfig(3), LayerConfig(0)), pattern=(0, 1), **options)
    gated = dataclasses.replace(config.gated, visible=visible, gate_init=1.0, every=1)
    resampler = dataclasses.replace(config.resampler, depth=1)
    model = Flamingo(dataclasses.replace(config, language=language, gated=gated, resampler=resampler), (3,))
    variables = filled(0, model, *documents()["apart"])

    def opened(path, leaf):
        return jnp.ones_like(leaf) if path[-1].key.endswith("_gate") else leaf

    return model, jax.tree_util.tree_map_with_path(opened, variables)


@functools.cache
def encoded(config, name):
    """The documents with latents in the place of their media, the same in all cases: [B, N, R, D]."""
    (model, variables), (tokens, media, *rest) = made(config, *CASES[0]), documents()[name]
    return tokens, jax.jit(functools.partial(model.apply, method="encode"))(variables, media), *rest


def token_losses(model, method, variables, tokens, media, media_index, mask):
    """-log p(tokens[l + 1]), float32 [B, L - 1]."""
    logits = model.apply(variables, tokens, media, media_index, mask, method=method)[:, :-1]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1)[..., 0]


def decoded(config, case, *inputs):
    """``token_losses`` of a case, given latents."""
    model, variables = made(config, *case)
    return np.asarray(jax.jit(functools.partial(token_losses, model, "decode"))(variables, *inputs))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_documents_of_a_row_give_what_they_give_apart(model_config, case):
    packed, apart = (decoded(model_config, case, *encoded(model_config, name)) for name in ("packed", "apart"))
    for row, (start, length) in enumerate(zip(STARTS[:-1], LENGTHS, strict=True)):
        actual, expected = packed[0, start : start + length - 1], apart[row, : length - 1]
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_a_bool_mask_does_not_tell_documents_apart(model_config):
    """The comparison above can fail: the first document stays, the others hear of it."""
    *inputs, segments = encoded(model_config, "packed")
    apart, joined = (decoded(model_config, CASES[1], *inputs, mask)[0] for mask in (segments, segments > 0))
    felt = np.abs(apart - joined) > 1e-3
    assert not felt[: LENGTHS[0] - 1].any() and felt[LENGTHS[0] + 1 : sum(LENGTHS) - 1].mean() > 0.8


def test_no_gradient_crosses_from_one_document_to_another(model_config):
    """Of every document's loss by every document's pixels and token embeddings: its own alone are not exactly zero."""
    model, variables = made(model_config, "learned", True, "previous")
    tokens, media, phi, segments = documents()["packed"]

    @jax.jit
    def gradient(weights):
        def loss(media, table):
            embedding = {**variables["frozen"]["decoder"]["embedding"], "table": table}
            frozen = {**variables["frozen"], "decoder": {**variables["frozen"]["decoder"], "embedding": embedding}}
            losses = token_losses(model, None, {**variables, "frozen": frozen}, tokens, media, phi, segments)
            return (losses * weights).sum()

        return jax.grad(loss, (0, 1))(media, variables["frozen"]["decoder"]["embedding"]["table"])

    for d in range(3):
        inside = (segments[:, :-1] == d + 1) & (segments[:, 1:] == d + 1)
        pixels, table = (np.abs(part) for part in gradient(inside.astype(np.float32)))
        assert (pixels.sum((0, 2, 3, 4, 5)).reshape(3, MEDIA) > 0).all(1).tolist() == [d == other for other in range(3)]
        assert not pixels[0, np.arange(3 * MEDIA) // MEDIA != d].any()
        rows = table[4:].reshape(3, 20, -1).sum((1, 2))
        assert (rows > 0).tolist() == [d == other for other in range(3)]


@pytest.mark.parametrize("case", CASES[1::2], ids=str)
def test_one_segment_is_the_bool_mask_bit_for_bit(model_config, case):
    """Padded on the right, on the left, in the middle and not at all; what padding gives is the same too."""
    mask = np.ones((4, LONGEST), bool)
    mask[0, 6:] = mask[1, :2] = mask[2, 4] = False
    tokens, _, phi, _ = (np.concatenate([part, part[:1]]) for part in documents()["apart"])
    phi = np.where(mask, np.maximum(phi, 2), 0)  # no token names the first medium
    latents = np.random.default_rng(1).normal(size=(4, MEDIA, *model_config.media_shape)).astype(np.float32)
    one, other = (decoded(model_config, case, tokens, latents, phi, known) for known in (mask, mask.astype(np.int32)))
    np.testing.assert_array_equal(one, other)


def test_masks_and_positions_are_the_drawn_ones():
    drawn = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0]]
    np.testing.assert_array_equal(causal(jnp.array([[1, 1, 2, 2, 0]]), 0, 5)[0], np.array(drawn, bool))
    assert count(jnp.array([[1, 1, 1, 2, 2, 3, 0]])).tolist() == [[0, 1, 2, 0, 1, 0, 0]]
    assert count(jnp.array([[False, False, True, True, True]])).tolist() == [[0, 0, 0, 1, 2]]
    keys, segments = jnp.arange(1.0, 6.0).reshape(1, 1, 5, 1), jnp.array([[1, 1, 1, 2, 2]])
    np.testing.assert_allclose(smear(keys, jnp.array([0.5]), segments)[0, 0, :, 0], [1.0, 1.5, 2.5, 4.0, 4.5])


@pytest.mark.parametrize(
    "phi, segments, expected",
    [
        ([1, 2, 3], [1, 2, 2], [[1, 0, 0], [0, 1, 0], [0, 1, 1]]),
        ([0, 1, 0, 3, 0], [1, 1, 2, 2, 0], [[0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]]),  # 2: of nobody
        ([1, 1, 0, 2, 3], [1, 1, 2, 3, 3], [[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 1, 1]]),  # text alone
    ],
)
def test_previous_media_are_those_of_the_document(phi, segments, expected):
    phi, segments = jnp.array([phi]), jnp.array([segments])
    assert media_visibility(phi, 3, "previous", segments)[0].tolist() == expected
    np.testing.assert_array_equal(media_visibility(phi, 3, "own", segments), media_visibility(phi, 3))


def test_a_bool_mask_costs_what_it_cost(model_config):
    """Programs have the operations of the bool mask's definition; segments alone are compared, which is seen here."""
    known, keys, share = jnp.ones((1, 5), bool), jnp.ones((1, 1, 5, 2)), jnp.ones(1)

    def program(function, known):
        return str(jax.make_jaxpr(function)(known))

    def defined(known):
        return (jnp.arange(5) <= 0 + jnp.arange(5)[:, None]) & known[:, None, :]

    assert program(lambda known: causal(known, 0, 5), known) == program(defined, known)
    assert program(count, known) == program(lambda known: jnp.maximum(jnp.cumsum(known, axis=1) - 1, 0), known)
    for call in (lambda known: place(model_config.language, known, None, 5), lambda known: smear(keys, share, known)):
        assert " eq " not in program(call, known) and " eq " in program(call, known.astype(jnp.int32))


def test_a_cache_refuses_segments_and_weights_are_made_from_them(model_config):
    model = Decoder(model_config.language, jnp.float32)
    tokens, segments = jnp.ones((1, 4), jnp.int32), jnp.array([[1, 1, 2, 2]])
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, segments)
    assert jax.tree.structure(shapes) == jax.tree.structure(jax.eval_shape(model.init, jax.random.key(0), tokens))
    variables = {**filled(0, model, tokens), "cache": model.cache(1, 8)}
    with pytest.raises(ValueError, match="mask is int32, the segments of packed documents, but a cache"):
        model.apply(variables, tokens, mask=segments, method="decode", mutable=["cache"])
