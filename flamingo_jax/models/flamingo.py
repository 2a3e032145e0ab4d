"""Flamingo: frozen vision encoder and language model, bridged by resampler and gated cross-attention (paper 2)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from flamingo_jax.config import GatedConfig, ModelConfig
from flamingo_jax.models.axes import constrain
from flamingo_jax.models.decoder import Decoder, empty_cache, group_layers
from flamingo_jax.models.encoder import ENCODERS
from flamingo_jax.models.freeze import freeze
from flamingo_jax.models.resampler import Resampler


class Flamingo(nn.Module):
    """Interleaved text and media -> logits.

    Collections: ``params`` holds resampler, gated blocks and the rows of ``new_tokens``; ``frozen`` the parts that
    ``config.frozen`` names.

    new_tokens: consecutive token ids with trainable rows, ``<EOC>`` among them.
    """

    config: ModelConfig
    new_tokens: tuple[int, ...]

    def setup(self):
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        encoder = ENCODERS[type(config.vision)]
        self.vision = (freeze(encoder) if "vision" in config.frozen else encoder)(config.vision, dtype)
        if config.resampler:
            self.resampler = Resampler(config.resampler, dtype)
        arguments = (config.language, dtype, config.remat, config.gated, self.new_tokens, config.frozen)
        self.decoder = Decoder(*arguments, config.kernels)

    def encode(self, media: jax.Array) -> jax.Array:
        """media [B, N, T, S, S, 3] -> latents [B, N, R, D]. Every frame is seen by itself (paper 2.1).

        Images of uint8 are normalised as the encoder wants it, others are taken as they are. Without a resampler the
        latents are the features of all frames. ValueError for more media than ``config.media``.
        """
        batch, count, frames = media.shape[:3]
        if self.config.media and count > self.config.media:
            raise ValueError(f"{count} media per sequence; the config's model.media allows {self.config.media}.")
        features = self.vision(media.reshape(batch * count * frames, *media.shape[3:]))
        features = features.reshape(batch * count, frames, -1, features.shape[-1])
        latents = self.resampler(features) if self.config.resampler else features
        # Out of the images' sharding, into that of the texts, whose devices each need all of their latents.
        return constrain(latents.reshape(batch, count, -1, latents.shape[-1]), "batch", None, None, None)

    def decode(self, tokens, latents, media_index, mask=None) -> jax.Array:
        """tokens int, mask bool [B, L], latents [B, N, R, D] -> float32 logits [B, L, V].

        media_index int [B, L]: each token's medium, counted from 1, 0 for none; or bool [B, L, N], the media it sees.
        mask may be int, the segments of packed documents, as ``Decoder``'s; their media are numbered on along the row.
        With a mutable ``cache`` collection (see ``cache``) the tokens continue what it holds.
        """
        return self.decoder(tokens, mask, latents, media_index)

    def __call__(self, tokens, media, media_index, mask=None) -> jax.Array:
        return self.decode(tokens, self.encode(media), media_index, mask)

    def cache(self, batch: int, length: int) -> dict:
        """The ``cache`` that ``decode`` continues: zeros for ``batch`` sequences of up to ``length`` tokens."""
        latents = jax.ShapeDtypeStruct((batch, 1, *self.config.media_shape), jnp.dtype(self.config.dtype))
        return empty_cache(self, batch, length, latents)


def assemble(language: dict | None, vision: dict | None, gated: GatedConfig) -> dict:
    """A bare language model's weights and a vision encoder's in ``Flamingo``'s layout: ``frozen``, when both are."""
    parts = {"decoder": group_layers(language, gated) if language else None, "vision": vision}
    return {name: weights for name, weights in parts.items() if weights}
