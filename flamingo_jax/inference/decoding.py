"""Cached decoding: one pass over the prompt, then one token at a time.

Prompts of different length share a batch by *left* padding, so that all continue at the same column; the model counts
positions from the mask, and results do not depend on the padding. Every function is compiled once per shape: pad
lengths to few values (``bucket``).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

BUCKET = 32


def bucket(length: int, multiple: int = BUCKET) -> int:
    """The next multiple of ``multiple``, at least one: few different lengths mean few compilations."""
    return max(1, -(-length // multiple)) * multiple


@functools.partial(jax.jit, static_argnames=("model", "room"))
def prefill(model, variables, tokens, latents, media_index, mask, *, room: int):
    """Reads the prompts.

    Args:
        model: a ``Flamingo`` module, or a bare ``Decoder`` (latents and media_index are None).
        variables: its collections.
        tokens: int [B, L], left-padded. latents: [B, N, R, D]. media_index: int [B, L].
        mask: bool [B, L], False where padded.
        room: for how many further tokens the cache shall have room.

    Returns:
        (float32 logits [B, V] of the first new token, cache).
    """
    cache = model.cache(tokens.shape[0], tokens.shape[1] + room)
    logits, updated = model.apply(
        {**variables, "cache": cache}, tokens, latents, media_index, mask=mask, method="decode", mutable=["cache"]
    )
    return logits[:, -1], updated["cache"]


def extend(model, variables, cache, tokens, medium, mask=None):
    """Continues a cache by tokens int [B, L] that all see one ``medium``, as ``last_medium`` gives it.

    Returns (float32 logits [B, L, V], cache). Call it inside ``jax.jit``.
    """
    latents, index = medium
    if index is not None:
        index = jnp.broadcast_to(index[:, None], (*tokens.shape, *index.shape[1:]))
    logits, updated = model.apply(
        {**variables, "cache": cache}, tokens, latents, index, mask=mask, method="decode", mutable=["cache"]
    )
    return logits, updated["cache"]


def last_medium(model, latents: jax.Array | None, media_index: jax.Array | None):
    """What the tokens after the prompt see: (latents [B, N, R, D], index). They see what the last prompt token sees.

    With the paper's mask (2.3) that is one medium, and those before it are of no more use once the prompt is read:
    N = 1 and index int [B] is 1, or 0 for a prompt without media. Where tokens may see several media all are kept, with
    the last token's index. (None, None) for a bare language model.
    """
    if latents is None:
        return None, None
    last = jnp.asarray(media_index)[:, -1]
    if last.ndim > 1 or model.config.gated.visible != "own":
        return jnp.asarray(latents), last
    place = jnp.maximum(last - 1, 0)[:, None, None, None]
    return jnp.take_along_axis(jnp.asarray(latents), place, axis=1), jnp.minimum(last, 1)


def greedy(model, variables, tokens, latents, media_index, mask, *, steps: int, eoc: int, room: int = 0) -> jax.Array:
    """The most probable token, again and again, until ``eoc``.

    Args:
        model, variables, tokens, latents, media_index, mask: as in ``prefill``.
        steps: new tokens at most.
        eoc: id of ``<EOC>``.
        room: new tokens that the cache has room for; 0 for a bucket of them, so that compilations are few.

    Returns:
        int32 [B, steps]; from the first ``eoc`` on every entry is ``eoc``.
    """
    logits, cache = prefill(model, variables, tokens, latents, media_index, mask, room=room or bucket(steps))
    return _continue(model, variables, cache, logits, last_medium(model, latents, media_index), steps=steps, eoc=eoc)


@functools.partial(jax.jit, static_argnames=("model", "steps"))
def _continue(model, variables, cache, logits, medium, *, steps: int, eoc: int) -> jax.Array:
    batch = logits.shape[0]

    def unfinished(state):
        step, done = state[0], state[1]
        return (step < steps) & ~done.all()

    def generate(state):
        step, done, out, logits, cache = state
        token = jnp.where(done, eoc, logits.argmax(-1).astype(jnp.int32))
        out = jax.lax.dynamic_update_slice(out, token[:, None], (0, step))
        logits, cache = extend(model, variables, cache, token[:, None], medium)
        return step + 1, done | (token == eoc), out, logits[:, 0], cache

    out = jnp.full((batch, steps), eoc, jnp.int32)
    start = (jnp.int32(0), jnp.zeros((batch,), bool), out, logits, cache)
    return jax.lax.while_loop(unfinished, generate, start)[2]
