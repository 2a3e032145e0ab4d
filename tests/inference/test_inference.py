"""Cached decoding and scoring agree with plain forward passes of a tiny real model."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.config import (
    GatedConfig,
    LanguageConfig,
    ModelConfig,
    NFNetConfig,
    ResamplerConfig,
    TextTowerConfig,
)
from flamingo_jax.inference.decoding import bucket, greedy
from flamingo_jax.inference.scoring import pad_candidates, score
from flamingo_jax.models.flamingo import Flamingo

VOCAB, EOC, PAD, STEPS = 40, 3, 0, 6
CONFIG = ModelConfig(
    language=LanguageConfig(vocab_size=VOCAB, width=32, depth=3, heads=2),
    vision=NFNetConfig(widths=(16,), depths=(1,), strides=(1,), stem=(8, 16), group_size=8),
    resampler=ResamplerConfig(width=32, depth=1, heads=2, head_size=16, latents=4, frames=2),
    gated=GatedConfig(every=2, heads=2, head_size=16, gate_init=1.0),  # depth 3: one group of 2 and a remainder
    text_tower=TextTowerConfig(width=16, depth=1, heads=1, embedding=16),
    dtype="float32",
    remat="none",
)


@functools.cache
def tiny():
    """(model, variables, latents [4, 3, R, D]); all weights are random, norms and gates too, so that each matters.

    Drawn by numpy: compiling the initialisers takes longer than all of these tests.
    """
    model, rng = Flamingo(CONFIG, (EOC,)), np.random.default_rng(0)
    media = rng.integers(0, 256, (4, 3, 1, 16, 16, 3)).astype(np.uint8)
    tokens = jnp.zeros((4, 5), jnp.int32)
    shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), tokens, jnp.asarray(media), tokens))

    def draw(leaf):
        scale = 1.0 if leaf.ndim < 2 else 0.7 / np.sqrt(leaf.shape[-2])
        return jnp.asarray(rng.normal(0.0, scale, leaf.shape), leaf.dtype)

    variables = {key: jax.tree.map(draw, shapes[key]) for key in ("params", "frozen")}
    encode = jax.jit(lambda variables, media: model.apply(variables, media, method="encode"))
    return model, variables, encode(variables, media)


def prompts(lengths=(5, 9, 7, 3), width=10):
    """Left-padded random prompts: tokens, media_index, mask; the index steps through 0, 1, 2, 3."""
    rng = np.random.default_rng(2)
    tokens = np.full((len(lengths), width), PAD, np.int32)
    index, mask = np.zeros_like(tokens), np.zeros(tokens.shape, bool)
    for row, length in enumerate(lengths):
        tokens[row, -length:] = rng.integers(5, VOCAB, length)
        index[row, -length:] = np.sort(rng.integers(0, 4, length))
        mask[row, -length:] = True
    return tokens, index, mask


@functools.cache
def plain():
    model = tiny()[0]
    return jax.jit(lambda variables, *args: model.apply(variables, *args, method="decode"))


def uncached_logits(row, tokens, index, mask, latents):
    """Logits [L, V] of one prompt alone, without padding or cache; padded on the right to share a compilation."""
    keep = mask[row]
    length = keep.sum()
    padded = [np.zeros((1, 20), np.int32), np.zeros((1, 20), np.int32), np.zeros((1, 20), bool)]
    for target, values in zip(padded, (tokens[row][keep], index[row][keep], True), strict=True):
        target[0, :length] = values
    tokens, index, mask = padded
    return np.asarray(plain()(tiny()[1], tokens, latents[row : row + 1], index, mask))[0, :length]


def append(tokens, index, mask, extra):
    """Appends tokens [B, E] that belong to each prompt's last medium."""
    more = np.repeat(index[:, -1:], extra.shape[1], axis=1)
    return np.hstack([tokens, extra]), np.hstack([index, more]), np.hstack([mask, np.ones(extra.shape, bool)])


def test_greedy_equals_the_uncached_argmax():
    model, variables, latents = tiny()
    tokens, index, mask = prompts()
    got = np.asarray(greedy(model, variables, tokens, latents, index, mask, steps=STEPS, eoc=EOC))
    assert got.shape == (4, STEPS) and got.dtype == np.int32
    for row in range(4):
        one = [part[row : row + 1] for part in (tokens, index, mask)]
        expected = []
        while len(expected) < STEPS and EOC not in expected:
            logits = uncached_logits(0, *one, latents[row : row + 1])[-1]
            expected.append(int(logits.argmax()))
            one = append(*one, np.array([expected[-1:]]))
        expected += [EOC] * (STEPS - len(expected))
        assert got[row].tolist() == expected


def test_after_the_first_eoc_comes_nothing_else():
    model, variables, latents = tiny()
    tokens, index, mask = prompts()
    free = np.asarray(greedy(model, variables, tokens, latents, index, mask, steps=STEPS, eoc=EOC))
    stop = int(free[0, 2])  # let the third token of the first row play <EOC>
    first = free[0].tolist().index(stop)
    got = np.asarray(greedy(model, variables, tokens, latents, index, mask, steps=STEPS, eoc=stop))
    assert got[0].tolist() == free[0, :first].tolist() + [stop] * (STEPS - first)


def test_padding_neighbours_and_unused_media_do_not_change_results():
    model, variables, latents = tiny()
    tokens, index, mask = prompts()
    index = np.minimum(index, 2)
    run = functools.partial(greedy, model, variables, steps=STEPS, eoc=EOC)
    expected = run(tokens, latents, index, mask)
    wide = [np.pad(part, ((0, 0), (22, 0))) for part in (tokens, index, mask)]
    np.testing.assert_array_equal(run(wide[0], latents, *wide[1:]), expected)
    unused = latents.at[:, 2].set(7.0)
    np.testing.assert_array_equal(run(tokens, unused, index, mask), expected)
    other = tokens.copy()
    other[1:] = 5
    np.testing.assert_array_equal(run(other, latents, index, mask)[0], expected[0])


@pytest.mark.parametrize("length", [1, 3])
def test_scores_are_sums_of_log_probabilities(length):
    model, variables, latents = tiny()
    tokens, index, mask = prompts()
    rng = np.random.default_rng(3)
    lists = [[rng.integers(3, VOCAB, rng.integers(1, length + 1)).tolist() for _ in range(5)] for _ in range(4)]
    lists[0][0] = rng.integers(3, VOCAB, length).tolist()
    candidates, candidate_mask = pad_candidates(lists, fill=PAD)
    got = np.asarray(score(model, variables, tokens, latents, index, mask, candidates, candidate_mask))
    wide = [np.pad(part, ((0, 0), (22, 0))) for part in (tokens, index, mask)]
    padded = score(model, variables, wide[0], latents, *wide[1:], candidates, candidate_mask)
    np.testing.assert_allclose(got, padded, atol=1e-4)
    expected = np.zeros((4, 5))
    for row in range(4):
        for column, answer in enumerate(lists[row]):
            one = append(*(part[row : row + 1] for part in (tokens, index, mask)), np.array([answer]))
            logits = uncached_logits(0, *one, latents[row : row + 1])
            log_p = jax.nn.log_softmax(logits, axis=-1)[-len(answer) - 1 : -1]
            expected[row, column] = log_p[np.arange(len(answer)), answer].sum()
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_prompts_see_their_media():
    model, variables, latents = tiny()
    tokens, index, mask = prompts()
    candidates, candidate_mask = pad_candidates([[[5, EOC], [6, EOC]]] * 4, fill=PAD)
    scores = [
        np.asarray(score(model, variables, tokens, part, index, mask, candidates, candidate_mask))
        for part in (latents, latents[:, ::-1])
    ]
    assert np.abs(scores[0] - scores[1]).max() > 1e-3


def test_a_prompt_without_media_sees_none():
    model, variables, latents = tiny()
    tokens, index, mask = prompts()
    index = np.zeros_like(index)
    runs = [
        greedy(model, variables, tokens, part, index, mask, steps=STEPS, eoc=EOC) for part in (latents, 5 * latents)
    ]
    np.testing.assert_array_equal(*runs)


def test_candidates_must_be_alike_in_number_and_not_empty():
    with pytest.raises(ValueError, match="same number"):
        pad_candidates([[[1]], [[1], [2]]], fill=0)
    with pytest.raises(ValueError, match="non-empty"):
        pad_candidates([[[1], []]], fill=0)


def test_bucket():
    assert [bucket(n) for n in (0, 1, 32, 33, 64)] == [32, 32, 32, 64, 64]
