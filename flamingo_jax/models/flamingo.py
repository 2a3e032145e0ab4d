"""Flamingo: frozen vision encoder and language model, bridged by resampler and gated cross-attention (paper 2)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from flamingo_jax.config import ModelConfig
from flamingo_jax.models.freeze import freeze
from flamingo_jax.models.language import Decoder, group_layers
from flamingo_jax.models.nfnet import NFNet
from flamingo_jax.models.resampler import Resampler


class Flamingo(nn.Module):
    """Interleaved text and media -> logits.

    Collections: ``params`` holds resampler, gated blocks and the ``<EOC>`` row; ``frozen`` the rest.

    eoc: token id of ``<EOC>``.
    """

    config: ModelConfig
    eoc: int

    def setup(self):
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        self.vision = freeze(NFNet)(config.vision, dtype)
        self.resampler = Resampler(config.resampler, dtype)
        self.decoder = Decoder(config.language, dtype, config.remat, config.gated, self.eoc)

    def encode(self, media: jax.Array) -> jax.Array:
        """media uint8 [B, N, T, S, S, 3] -> latents [B, N, R, D]. Every frame is seen by itself (paper 2.1)."""
        batch, count, frames = media.shape[:3]
        features = self.vision(media.reshape(batch * count * frames, *media.shape[3:]))
        features = features.reshape(batch * count, frames, -1, features.shape[-1])
        latents = self.resampler(features)
        return latents.reshape(batch, count, *latents.shape[1:])

    def decode(self, tokens, latents, media_index, mask=None) -> jax.Array:
        """tokens int, media_index int, mask bool [B, L], latents [B, N, R, D] -> float32 logits [B, L, V].

        With a mutable ``cache`` collection (see ``cache``) the tokens continue what it holds.
        """
        return self.decoder(tokens, mask, latents, media_index)

    def __call__(self, tokens, media, media_index, mask=None) -> jax.Array:
        return self.decode(tokens, self.encode(media), media_index, mask)

    def cache(self, batch: int, length: int) -> dict:
        """The ``cache`` that ``decode`` continues: zeros for ``batch`` sequences of up to ``length`` tokens."""
        config = self.config.resampler
        latents = jax.ShapeDtypeStruct((batch, 1, config.latents, config.width), jnp.dtype(self.config.dtype))
        tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
        shapes = jax.eval_shape(
            lambda *args: self.init(jax.random.key(0), *args, method="decode"), tokens, latents, tokens
        )
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nn.meta.unbox(shapes["cache"]))


def assemble(language: dict, vision: dict, every: int) -> dict:
    """The ``frozen`` collection from a bare language model's weights and a vision encoder's."""
    return {"decoder": group_layers(language, every), "vision": vision}
