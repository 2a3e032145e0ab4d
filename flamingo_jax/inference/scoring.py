"""Log-likelihoods of candidate answers: close-ended evaluation (paper 3.1)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from flamingo_jax.inference.decoding import bucket, extend, last_medium, prefill


def score(model, variables, tokens, latents, media_index, mask, candidates, candidate_mask) -> jax.Array:
    """log p(candidate | prompt) of every candidate: the sum over its tokens, not normalised (as in the paper).

    The prompt is read once; its cache is then repeated for the candidates.

    Args:
        model, variables, tokens, latents, media_index, mask: the prompts, as in ``decoding.prefill``.
        candidates: int [B, C, K], right-padded. Let each end with ``<EOC>``, or a word scores like every word that it
            begins.
        candidate_mask: bool [B, C, K], False where padded.

    Returns:
        float32 [B, C].
    """
    logits, cache = prefill(model, variables, tokens, latents, media_index, mask, room=bucket(candidates.shape[2]))
    medium = last_medium(model, latents, media_index)
    return _rank(model, variables, cache, logits, medium, jnp.asarray(candidates), jnp.asarray(candidate_mask))


@functools.partial(jax.jit, static_argnames=("model",))
def _rank(model, variables, cache, logits, medium, candidates, mask) -> jax.Array:
    batch, count, length = candidates.shape
    first = jnp.take_along_axis(jax.nn.log_softmax(logits), candidates[:, :, 0], axis=1)
    if length == 1:
        return first * mask[:, :, 0]
    rows = candidates.reshape(batch * count, length)
    cache = jax.tree.map(lambda leaf, axis: _repeat(leaf, count, axis), cache, _batch_axes(model))
    medium = jax.tree.map(lambda part: jnp.repeat(part, count, axis=0), medium)  # (None, None) without media
    logits, _ = extend(model, variables, cache, rows[:, :-1], medium, mask.reshape(rows.shape)[:, :-1])
    rest = jnp.take_along_axis(jax.nn.log_softmax(logits), rows[:, 1:, None], axis=2).reshape(batch, count, -1)
    # Padding may hold -inf, which no product with a mask removes.
    return first + jnp.where(mask[:, :, 1:], rest, 0.0).sum(-1)


def _repeat(leaf: jax.Array, count: int, axis: int) -> jax.Array:
    return leaf if axis < 0 else jnp.repeat(leaf, count, axis=axis)


@functools.lru_cache(maxsize=8)
def _batch_axes(model) -> dict:
    """For every leaf of the cache the axis that grows with the batch, -1 for none: layers are stacked in front."""
    one, two = (jax.eval_shape(lambda size=size: model.cache(size, 1)) for size in (1, 2))

    def axis(a, b):
        differing = [i for i, (x, y) in enumerate(zip(a.shape, b.shape, strict=True)) if x != y]
        return differing[0] if differing else -1

    return jax.tree.map(axis, one, two)


def pad_candidates(candidates: list[list[list[int]]], fill: int) -> tuple[np.ndarray, np.ndarray]:
    """Token lists per prompt and candidate -> int32 [B, C, K] and its bool mask; K is the longest one's length.

    Raises ValueError when prompts have different numbers of candidates, or a candidate has no token.
    """
    counts = {len(row) for row in candidates}
    if len(counts) != 1 or 0 in counts or not all(tokens for row in candidates for tokens in row):
        raise ValueError(f"Every prompt needs the same number of non-empty candidates; the numbers are {counts}.")
    length = max(len(tokens) for row in candidates for tokens in row)
    out = np.full((len(candidates), counts.pop(), length), fill, np.int32)
    mask = np.zeros(out.shape, bool)
    for row, lists in enumerate(candidates):
        for column, tokens in enumerate(lists):
            out[row, column, : len(tokens)] = tokens
            mask[row, column, : len(tokens)] = True
    return out, mask
