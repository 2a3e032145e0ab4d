"""Gated cross-attention from text to media: GATED XATTN-DENSE (paper 2.2, figure 4)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from flamingo_jax.config import GatedConfig
from flamingo_jax.models.attention import Attention
from flamingo_jax.models.axes import named
from flamingo_jax.models.layers import FeedForward, Norm


def media_visibility(media_index: jax.Array, media: int, visible: str = "own", segments=None) -> jax.Array:
    """Which media a text token sees, bool [B, L, N] (paper 2.3).

    media_index int [B, L]: phi, 0 for none, i for the i-th medium; or bool [B, L, N], which is returned as it is.
    own: that medium and no other; previous: that one and all before it. With N = 2:

        phi = 0   . .   . .
        phi = 1   x .   x .
        phi = 2   . x   x x
                  own   previous

    segments int [B, L], or None: each token's document in a row that packs several, 0 for padding. The media are
    numbered on along the row; each belongs to the document that names it, and no other sees it. With N = 3:

        segment 1, phi = 1   x . .   x . .
        segment 2, phi = 2   . x .   . x .
        segment 2, phi = 3   . . x   . x x
                             own     previous
    """
    if media_index.ndim == 3:
        return media_index.astype(bool)
    number = jnp.arange(1, media + 1)
    if visible == "own":
        return media_index[..., None] == number
    seen = media_index[..., None] >= number
    if segments is None:
        return seen
    owner = jnp.where(media_index[..., None] == number, segments[..., None], 0).max(1)
    # A medium that nobody names is of the document before it, or of the first: never shown to a later one.
    owner = jnp.maximum(jax.lax.cummax(owner, axis=1), 1)
    return seen & (owner[:, None] == segments[..., None])


def index_media(tokens: jax.Array, image: int, end: int | None = None) -> jax.Array:
    """phi of every token, int [B, L]: how many ``<image>`` tokens have come, itself included; 0 for none (paper 2.3).

    end: a token that closes a document: it and what follows see nothing until the next ``<image>`` (packed documents).

        tokens  a <image> b <image> c <end> d <image> e
        phi     0    1    1    2    2   0   0    3    3
    """
    is_image = tokens == image
    index = jnp.cumsum(is_image, axis=1)
    if end is None:
        return index
    places = jnp.arange(tokens.shape[1])
    last = [jax.lax.cummax(jnp.where(hit, places, -1), axis=1) for hit in (is_image, tokens == end)]
    return jnp.where(last[1] > last[0], 0, index)


def media_mask(seen: jax.Array, latents: int) -> jax.Array:
    """Visibility of media [B, L, N] -> of their latents, [B, L, N * R]. With N = 2, R = 2:

    . .   . . . .
    x .   x x . .
    . x   . . x x
    """
    return jnp.repeat(seen, latents, axis=-1)


class GatedCrossAttention(nn.Module):
    """x [B, L, D], latents [B, N, R, D'], seen bool [B, L, N] -> [B, L, D].

    x + tanh(a) attention(x, latents), then + tanh(b) feed-forward; both gates start at ``gate_init`` (0 in the paper:
    the untrained bridge leaves the language model as it was). Norms as the paper's first version has them: on queries,
    on keys/values (shared), on the feed-forward's input. A token that sees no medium gets exactly zero from attention.
    """

    config: GatedConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, latents: jax.Array, seen: jax.Array) -> jax.Array:
        config = self.config
        batch, media, count, width = latents.shape
        keys = latents.reshape(batch, media * count, width)
        if config.media_norm:
            keys = self._norm("media_norm")(keys)
        attention = Attention(
            config.heads,
            config.head_size,
            self.dtype,
            qk_norm=config.qk_norm,
            qk_centred=config.norm == "layer",
            qk_bias=True,
            qk_epsilon=config.epsilon,
            name="attention",
        )
        y = attention(self._norm("text_norm")(x), keys, media_mask(seen, count))
        x = x + self._gated("attention_gate", y)
        if config.mlp == "none":
            return x
        hidden = config.mlp_width or 4 * x.shape[-1]
        mlp = FeedForward(config.activation, self.dtype, hidden, config.mlp == "gated", name="mlp")
        y = mlp(self._norm("mlp_norm")(x))
        if not config.unseen_mlp:
            y = jnp.where(seen.any(-1, keepdims=True), y, 0)
        return x + self._gated("mlp_gate", y)

    def _norm(self, name: str) -> Norm:
        return Norm(self.dtype, self.config.norm == "layer", self.config.epsilon, name=name)

    def _gated(self, name: str, y: jax.Array) -> jax.Array:
        if self.config.gate == "none":
            return y
        scalar = self.config.gate == "scalar"
        init = named(nn.initializers.constant(self.config.gate_init), *[] if scalar else ["vector"])
        gate = self.param(name, init, () if scalar else (y.shape[-1],), jnp.float32)
        return jnp.tanh(gate).astype(self.dtype) * y
