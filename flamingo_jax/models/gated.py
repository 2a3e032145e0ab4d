"""Gated cross-attention from text to media: GATED XATTN-DENSE (paper 2.2, figure 4)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from flamingo_jax.config import GatedConfig
from flamingo_jax.models.axes import named
from flamingo_jax.models.layers import Attention, FeedForward, Norm, squared_relu


def media_mask(media_index: jax.Array, media: int, latents: int) -> jax.Array:
    """Which latents a text token sees: those of its own medium, phi(l), and no others (paper 2.3).

    media_index int [B, L]: 0 for none, i for the i-th medium. Returns bool [B, L, N * R]; with N = 2, R = 2:

        phi = 0   . . . .
        phi = 1   x x . .
        phi = 2   . . x x
    """
    owner = jnp.repeat(jnp.arange(1, media + 1), latents)
    return media_index[:, :, None] == owner


class GatedCrossAttention(nn.Module):
    """x [B, L, D], latents [B, N, R, D'], media_index int [B, L] -> [B, L, D].

    x + tanh(a) attention(x, latents), then + tanh(b) feed-forward; both gates are one scalar each and start at
    ``gate_init`` (0 in the paper: the untrained bridge leaves the language model as it was). Layer norms as the
    paper's first version has them: on queries, on keys/values (shared), on the feed-forward's input.
    """

    config: GatedConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, latents: jax.Array, media_index: jax.Array) -> jax.Array:
        batch, media, count, width = latents.shape
        keys = Norm(self.dtype, centred=True, name="media_norm")(latents.reshape(batch, media * count, width))
        queries = Norm(self.dtype, centred=True, name="text_norm")(x)
        mask = media_mask(media_index, media, count)
        attention = Attention(self.config.heads, self.config.head_size, self.dtype, name="attention")
        x = x + self._gate("attention_gate") * attention(queries, keys, mask)
        hidden = FeedForward(squared_relu, self.dtype, name="mlp")(Norm(self.dtype, centred=True, name="mlp_norm")(x))
        return x + self._gate("mlp_gate") * hidden

    def _gate(self, name: str) -> jax.Array:
        init = named(nn.initializers.constant(self.config.gate_init))
        return jnp.tanh(self.param(name, init, (), jnp.float32)).astype(self.dtype)
