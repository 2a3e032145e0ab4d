"""The two towers of the contrastive stage: NFNet and a bidirectional text encoder (paper B.1.3)."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from flamingo_jax.config import LanguageConfig, NFNetConfig, TextTowerConfig, ViTConfig
from flamingo_jax.models.axes import named
from flamingo_jax.models.embedding import Embedding
from flamingo_jax.models.encoder import ENCODERS
from flamingo_jax.models.language import Stack
from flamingo_jax.models.layers import Einsum, Norm
from flamingo_jax.models.positions import place


class TextTower(nn.Module):
    """tokens int [B, L], mask bool [B, L] -> mean of the last layer over unmasked tokens, float32 [B, D]."""

    config: TextTowerConfig
    vocab_size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        config = self.config
        layers = LanguageConfig(
            self.vocab_size, config.width, config.depth, config.heads, embedding_scale=config.width**0.5
        )
        positions, where = place(layers, mask, None, tokens.shape[1], bidirectional=True)
        x = Embedding(layers, self.dtype, name="embedding").encode(tokens, positions)
        x = Stack(layers, self.dtype, name="text")(x, jnp.asarray(layers.kinds(), jnp.int32), where)
        x = Norm(self.dtype, name="norm")(x).astype(jnp.float32)
        weight = mask.astype(jnp.float32)[..., None]
        return (x * weight).sum(1) / jnp.maximum(weight.sum(1), 1.0)


class Contrastive(nn.Module):
    """(images [B, S, S, 3], tokens, mask) -> unit vectors for images and texts, float32 [B, E], and 1 / temperature."""

    vision: NFNetConfig | ViTConfig
    text: TextTowerConfig
    vocab_size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: jax.Array, tokens: jax.Array, mask: jax.Array):
        features = ENCODERS[type(self.vision)](self.vision, self.dtype, name="vision")(images).astype(jnp.float32)
        features = features.reshape(features.shape[0], -1, features.shape[-1]).mean(1)
        pooled = TextTower(self.text, self.vocab_size, self.dtype, name="text_tower")(tokens, mask)
        init = named(nn.initializers.constant(math.log(1 / self.text.temperature)))
        scale = jnp.exp(self.param("log_scale", init, (), jnp.float32))
        return self._embed("image_projection", features), self._embed("text_projection", pooled), scale

    def _embed(self, name: str, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = Einsum((width, self.text.embedding), ("features", "joint"), width, jnp.float32, name=name)("BD,DE->BE", x)
        # A text of padding alone pools to zero; its loss counts for nothing, but the gradient of sqrt(0) would be NaN.
        square = jnp.square(x).sum(-1, keepdims=True)
        return x / jnp.sqrt(jnp.where(square > 0, square, 1.0))
