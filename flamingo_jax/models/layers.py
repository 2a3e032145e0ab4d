"""The layers that every transformer here is made of: einsum, norms, feed-forward, rotary positions, attention."""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from flamingo_jax.models.axes import constrain, named


class Einsum(nn.Module):
    """A weight of ``shape`` (logical ``axes``), applied by an einsum equation; float32 stored, ``dtype`` computed.

    ``fan_in`` is the number of inputs summed into one output: weights start as a truncated normal of variance
    1 / fan_in.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    fan_in: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, equation: str, x: jax.Array) -> jax.Array:
        init = nn.initializers.truncated_normal(1 / math.sqrt(self.fan_in))
        kernel = self.param("kernel", named(init, *self.axes), self.shape, jnp.float32)
        return jnp.einsum(equation, x.astype(self.dtype), kernel.astype(self.dtype))


class Norm(nn.Module):
    """Normalises the last dimension in float32. centred: LayerNorm with scale and offset; else RMSNorm with scale."""

    dtype: jnp.dtype
    centred: bool = False
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = x.astype(jnp.float32)  # statistics in bfloat16 lose the small differences that the norm is for
        if self.centred:
            x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        x = x * self.param("scale", named(nn.initializers.ones, "vector"), (width,), jnp.float32)
        if self.centred:
            x = x + self.param("offset", named(nn.initializers.zeros, "vector"), (width,), jnp.float32)
        return x.astype(self.dtype)


class FeedForward(nn.Module):
    """[.., D] -> [.., D] through 4 D hidden units and ``activation``."""

    activation: Callable[[jax.Array], jax.Array]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        hidden = 4 * width
        x = Einsum((width, hidden), ("embed", "mlp"), width, self.dtype, name="up")("...D,DF->...F", x)
        return Einsum((hidden, width), ("mlp", "embed"), hidden, self.dtype, name="down")(
            "...F,FD->...D", self.activation(x)
        )


def squared_relu(x: jax.Array) -> jax.Array:
    """max(x, 0)^2, the activation of all trainable layers (So et al. 2021; paper appendix A)."""
    return jnp.square(nn.relu(x))


ACTIVATIONS = {"gelu": nn.gelu, "squared_relu": squared_relu}


def rotate(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Rotary position embedding of x [B, H, L, K] at integer positions [B, L] (Su et al. 2021, halves convention)."""
    half = x.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[:, None, :, None].astype(jnp.float32) * frequency  # [B, 1, L, K/2]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Scaled dot-product attention: q [B, H, L, K], k and v [B, H, M, K], mask bool [B, L, M] (True: visible).

    Softmax in float32. A query that sees no key at all gets zeros, not an average of what it must not see.
    Returns [B, H, L, K].
    """
    scores = jnp.einsum("BHLK,BHMK->BHLM", q / math.sqrt(q.shape[-1]), k).astype(jnp.float32)
    if mask is None:
        return jnp.einsum("BHLM,BHMK->BHLK", nn.softmax(scores).astype(v.dtype), v)
    scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
    x = jnp.einsum("BHLM,BHMK->BHLK", nn.softmax(scores).astype(v.dtype), v)
    return jnp.where(mask.any(-1)[:, None, :, None], x, 0)


def smear(keys: jax.Array, share: jax.Array, valid: jax.Array) -> jax.Array:
    """(1 - share) k[m] + share k[m - 1]: keys [B, H, M, K], share [H], valid bool [B, M] (Olsson et al. 2022).

    A key without a valid one before it stays as it is. With it a single layer can look up "what followed this token
    before"; without it that takes two layers that have to find each other, which a small model learns late or never.
    """
    before = jnp.pad(keys, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
    exists = jnp.pad(valid, ((0, 0), (1, 0)))[:, None, :-1, None]
    return keys + jnp.where(exists, share[:, None, None] * (before - keys), 0)


class Attention(nn.Module):
    """Multi-head attention of queries [B, L, D] over keys/values [B, M, Dk]; ``out_width`` defaults to D.

    rotary: (positions [B, L], theta) for self-attention. slot: the cache position that the first query is written to;
    keys and values then come from the ``cache`` collection, [B, H, length, K], of which ``mask`` picks the visible.
    smear: mixes into every key the one before it, with one learnt share per head; ``valid`` bool [B, M] tells which
    keys are no padding.
    """

    heads: int
    head_size: int
    dtype: jnp.dtype
    smear: bool = False

    @nn.compact
    def __call__(self, queries, keys, mask=None, rotary=None, slot=None, valid=None) -> jax.Array:
        def project(name, x):
            shape = (x.shape[-1], self.heads, self.head_size)
            layer = Einsum(shape, ("embed", "heads", "head"), x.shape[-1], self.dtype, name=name)
            return constrain(layer("BLD,DHK->BHLK", x), "batch", "act_heads", "length", None)

        q, k, v = project("query", queries), project("key", keys), project("value", keys)
        if rotary is not None:
            q, k = (rotate(x, *rotary) for x in (q, k))
        if slot is not None:
            k, v = self._cached("past_key", k, slot), self._cached("past_value", v, slot)
        if self.smear:
            share = nn.sigmoid(self.param("smear", named(nn.initializers.zeros, "vector"), (self.heads,), jnp.float32))
            k = smear(k, share.astype(self.dtype), valid)
        x = attend(q, k, v, mask)
        width = queries.shape[-1]
        out = Einsum(
            (self.heads, self.head_size, width),
            ("heads", "head", "embed"),
            self.heads * self.head_size,
            self.dtype,
            name="out",
        )
        return out("BHLK,HKD->BLD", x)

    def _cached(self, name: str, new: jax.Array, slot: jax.Array) -> jax.Array:
        store = self.variable("cache", name, jnp.zeros, new.shape, new.dtype)
        if not self.is_initializing():
            store.value = jax.lax.dynamic_update_slice(store.value, new.astype(store.value.dtype), (0, 0, slot, 0))
        return store.value
