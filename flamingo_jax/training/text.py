"""The loss of text, by the logits of some positions at a time: those of all are the largest array of a step."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

LOGITS = 2**24  # that a device holds at a time, 64 MiB


def token_loss(
    head: Callable, hidden: jax.Array, tokens: jax.Array, weights: jax.Array, vocabulary: int, total=None
) -> jax.Array:
    """Mean cross-entropy of predicting tokens[l + 1] from head(hidden[l]), weighted by weights[l + 1]; float32 scalar.

    head: hidden states [B, n, E] -> float32 logits [B, n, V]; vocabulary: V. hidden [B, L, E], tokens int [B, L],
    weights [B, L]. Zero when nothing is weighted. total: what the sum is divided by instead of the ``token_weight``
    of these rows.

    Where positions are cut into several pieces, the backward pass computes the logits of each again.
    """
    total = token_weight(weights) if total is None else total
    targets = jnp.roll(tokens, -1, axis=1)
    weights = jnp.roll(weights, -1, axis=1).at[:, -1].set(0.0)

    def add(loss, piece):
        hidden, targets, weights = piece
        return loss + cross_entropy(head(hidden), targets, weights), None

    count = pieces(*tokens.shape, vocabulary)
    if count == 1:
        return add(0.0, (hidden, targets, weights))[0] / total
    cut = jax.tree.map(lambda leaf: _cut(leaf, count), (hidden, targets, weights))
    loss, _ = jax.lax.scan(jax.checkpoint(add, prevent_cse=False), jnp.zeros((), jnp.float32), cut)
    return loss / total


def token_weight(weights: jax.Array) -> jax.Array:
    """What the mean of ``token_loss`` is taken over: the weights [B, L] of tokens that have one before them."""
    return jnp.maximum(weights[:, 1:].sum(), 1.0)


def cross_entropy(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    """The weighted sum of -log softmax(logits [.., V])[targets [..]]."""
    # Picked by comparison rather than by index: no scatter in the gradient, and a split vocabulary stays split.
    picked = jnp.where(jnp.arange(logits.shape[-1]) == targets[..., None], logits, 0.0).sum(-1)
    return ((jax.nn.logsumexp(logits, axis=-1) - picked) * weights).sum()


def pieces(rows: int, length: int, vocabulary: int) -> int:
    """Into how many pieces positions are cut so that none has more than ``LOGITS`` on a device of the current mesh."""
    mesh = jax.sharding.get_abstract_mesh()  # of which some axes split rows, and the others the vocabulary
    devices = 1 if mesh.empty else mesh.size
    return min(-(-rows * length * vocabulary // (LOGITS * devices)), length)


def _cut(leaf: jax.Array, count: int) -> jax.Array:
    """[B, L, ..] -> [count, B, n, ..], with zeros after the end. Rows stay whole, on the devices where they are."""
    rows, length = leaf.shape[:2]
    size = -(-length // count)
    padded = jnp.pad(leaf, [(0, 0), (0, count * size - length), *[(0, 0)] * (leaf.ndim - 2)])
    return jnp.moveaxis(padded.reshape(rows, count, size, *leaf.shape[2:]), 1, 0)
