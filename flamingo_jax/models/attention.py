"""Multi-head attention with the options of the decoders, encoders, the resampler and the gated blocks."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from flamingo_jax.models import fused
from flamingo_jax.models.axes import constrain, named
from flamingo_jax.models.layers import Einsum, Norm
from flamingo_jax.models.positions import by_distance, rotate, sinusoids


def attend(q, k, v, mask=None, *, scale: float, bias=None, softcap: float = 0.0) -> jax.Array:
    """Dot-product attention: q [B, H, L, K], k and v [B, G, M, K], mask bool [B, L, M] (True: visible).

    G divides H: each key head serves H / G neighbouring query heads. bias: added to scaled scores, [B, H, L, M] or
    broadcast to it. softcap c: scores become c tanh(score / c). Softmax in float32. A query that sees no key at all
    gets zeros, not an average of what it must not see. Returns [B, H, L, K].
    """
    batch, heads, length, size = q.shape
    groups, count = k.shape[1:3]
    # Query heads that share a key head stand below each other, as if they were further queries: no copies of the keys.
    scores = jnp.einsum("BGLK,BGMK->BGLM", (q * scale).reshape(batch, groups, -1, size), k)
    scores = scores.reshape(batch, heads, length, count).astype(jnp.float32)
    if bias is not None:
        scores = scores + bias
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    if mask is not None:
        scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
    weights = nn.softmax(scores).astype(v.dtype).reshape(batch, groups, -1, count)
    x = jnp.einsum("BGLM,BGMK->BGLK", weights, v).reshape(batch, heads, length, size)
    if mask is not None:
        x = jnp.where(mask.any(-1)[:, None, :, None], x, 0)
    return x


def smear(keys: jax.Array, share: jax.Array, valid: jax.Array) -> jax.Array:
    """(1 - share) k[m] + share k[m - 1]: keys [B, H, M, K], share [H], valid bool [B, M] (Olsson et al. 2022).

    A key without a valid one before it stays as it is. With it a single layer can look up "what followed this token
    before"; without it that takes two layers that have to find each other, which a small model learns late or never.

    valid may be int [B, M], the segments of packed documents, 0 for padding: the first key of each stays as it is.

        valid  0 1 1 1   segments  1 1 1 2 2
        mixed  . . x x   mixed     . x x . x
    """
    before = jnp.pad(keys, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
    exists = jnp.pad(valid, ((0, 0), (1, 0)))[:, None, :-1, None]
    if valid.dtype != bool:
        exists = exists == valid[:, None, :, None]  # padding mixes with padding, which no query sees
    return keys + jnp.where(exists, share[:, None, None] * (before - keys), 0)


class Attention(nn.Module):
    """Multi-head attention of queries [B, L, D] over keys/values [B, M, Dk] -> [B, L, D].

    kv_heads: 0 for ``heads``. bias: of query, key, value and output projection. scale: 0 for K^-0.5. clip: bound of
    the projected values' size, 0 for none. qk_norm: none | head | heads | whole, with the ``qk_*`` kind of norm.
    relative: Transformer-XL's distances. smear: mixes into every key the one before it, one learnt share per head.
    rows: the logical axis of B: "batch", whose heads are divided among devices, or "images", divided themselves.
    window: of causal self-attention, 0 for all keys; with it devices' own kernels are used where there are such.
    """

    heads: int
    head_size: int
    dtype: jnp.dtype
    kv_heads: int = 0
    bias: tuple[bool, bool, bool, bool] = (False, False, False, False)
    scale: float = 0.0
    softcap: float = 0.0
    clip: float = 0.0
    qk_norm: str = "none"
    qk_centred: bool = False
    qk_bias: bool = False
    qk_unit_offset: bool = False
    qk_epsilon: float = 1e-5
    rope_interleaved: bool = False
    relative: bool = False
    smear: bool = False
    rows: str = "batch"
    window: int | None = None

    @nn.compact
    def __call__(
        self, queries, keys, mask=None, *, rope=None, bias=None, slot=None, known=None, documents=None
    ) -> jax.Array:
        """mask bool [B, L, M]. rope: tables of the queries' positions, for self-attention. bias: as in ``attend``.

        slot: the cache column that the first query is written to; keys and values then come from the ``cache``
        collection, [B, G, length, K], of which ``mask`` picks the visible. known: of the keys, as in ``smear``.
        documents: of self-attention (``fused.Documents``), where they and ``window`` say all that ``mask`` says.
        """
        kv_heads = self.kv_heads or self.heads
        q = self._project("query", queries, self.heads, "heads", self.bias[0])
        k = self._project("key", keys, kv_heads, "kv_heads", self.bias[1])
        v = self._project("value", keys, kv_heads, "kv_heads", self.bias[2])
        if self.qk_norm != "none":
            q, k = self._norm("query_norm", q), self._norm("key_norm", k)
        if rope is not None:
            q, k = (rotate(x, *rope, self.rope_interleaved) for x in (q, k))
        if slot is not None:
            k, v = self._cached("past_key", k, slot), self._cached("past_value", v, slot)
        if self.smear:
            share = nn.sigmoid(self.param("smear", named(nn.initializers.zeros, "vector"), (kv_heads,), jnp.float32))
            k = smear(k, share.astype(self.dtype), known)
        scale = self.scale or self.head_size**-0.5
        if self.relative:
            q, bias = self._relative(q, k.shape[2], queries.shape[-1], scale, slot)
        x = None
        if documents is not None and self.window is not None and bias is None:
            x = fused.attend(q, k, v, documents, scale=scale, window=self.window, softcap=self.softcap)
        if x is None:
            x = attend(q, k, v, mask, scale=scale, bias=bias, softcap=self.softcap)
        shape = (self.heads, self.head_size, queries.shape[-1])
        fan_in = self.heads * self.head_size
        out = Einsum(shape, ("heads", "head", "embed"), fan_in, self.dtype, int(self.bias[3]), self.rows, name="out")
        return out("BHLK,HKD->BLD", x)

    def _project(self, name: str, x: jax.Array, heads: int, axis: str, bias: bool) -> jax.Array:
        shape = (x.shape[-1], heads, self.head_size)
        layer = Einsum(shape, ("embed", axis, "head"), x.shape[-1], self.dtype, 2 * bias, self.rows, name=name)
        x = layer("BLD,DHK->BHLK", x)
        if self.clip:
            x = jnp.clip(x, -self.clip, self.clip)
        divided = ("act_heads", "length") if self.rows == "batch" else (None, None)
        return constrain(x, self.rows, *divided, None)

    def _norm(self, name: str, x: jax.Array) -> jax.Array:
        heads = 0 if self.qk_norm == "head" else x.shape[1]
        kind = (self.dtype, self.qk_centred, self.qk_epsilon, self.qk_bias, self.qk_unit_offset)
        return Norm(*kind, heads, self.qk_norm == "whole", name=name)(x)

    def _relative(self, q: jax.Array, count: int, width: int, scale: float, slot):
        """(q + u, scores of (q + v) against the encoded distances): Dai et al. 2019, equation of section 3.3."""
        shape = (width, self.heads, self.head_size)
        layer = Einsum(shape, ("embed", "heads", "head"), width, self.dtype, name="distance")
        encoded = layer("MD,DHK->HMK", jnp.asarray(sinusoids(count, width)))
        init = named(nn.initializers.zeros, "heads", "head")
        u, v = (
            self.param(name, init, shape[1:], jnp.float32).astype(self.dtype)[:, None]
            for name in ("content_bias", "distance_bias")
        )
        scores = jnp.einsum("BHLK,HMK->BHLM", (q + v) * scale, encoded)
        return q + u, by_distance(scores, 0 if slot is None else slot).astype(jnp.float32)  # moved while it is small

    def _cached(self, name: str, new: jax.Array, slot: jax.Array) -> jax.Array:
        store = self.variable("cache", name, jnp.zeros, new.shape, new.dtype)
        if not self.is_initializing():
            store.value = jax.lax.dynamic_update_slice(store.value, new.astype(store.value.dtype), (0, 0, slot, 0))
        return store.value
