"""The Perceiver Resampler: any number of frames and cells -> a fixed number of latents (paper 2.1, figure 5)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from flamingo_jax.config import ResamplerConfig
from flamingo_jax.models.axes import named
from flamingo_jax.models.layers import Attention, Einsum, FeedForward, Norm, squared_relu


class ResamplerBlock(nn.Module):
    """latents [B, R, D] attend to features [B, S, D] and themselves; then a feed-forward. Returns (latents, None)."""

    config: ResamplerConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, latents: jax.Array, features: jax.Array):
        features = Norm(self.dtype, centred=True, name="media_norm")(features)
        queries = Norm(self.dtype, centred=True, name="latent_norm")(latents)
        keys = jnp.concatenate([features, queries], axis=1)
        attention = Attention(self.config.heads, self.config.head_size, self.dtype, name="attention")
        latents = latents + attention(queries, keys)
        hidden = Norm(self.dtype, centred=True, name="mlp_norm")(latents)
        return latents + FeedForward(squared_relu, self.dtype, name="mlp")(hidden), None


class Resampler(nn.Module):
    """features [B, T, S, C] -> latents [B, R, D]. T may be at most ``config.frames``; ValueError otherwise."""

    config: ResamplerConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        config = self.config
        batch, frames, cells, channels = features.shape
        if frames > config.frames:
            raise ValueError(
                f"A medium has {frames} frames, but the resampler has {config.frames} temporal embeddings."
            )
        project = Einsum((channels, config.width), ("features", "embed"), channels, self.dtype, name="project")
        x = project("BTSC,CD->BTSD", features)
        init = named(nn.initializers.normal(0.02), "frames", "embed")
        time = self.param("time", init, (config.frames, config.width), jnp.float32)
        x = x + time[:frames, None].astype(self.dtype)
        x = x.reshape(batch, frames * cells, config.width)

        init = named(nn.initializers.normal(1.0), "latents", "embed")
        latents = self.param("latents", init, (config.latents, config.width), jnp.float32).astype(self.dtype)
        latents = jnp.broadcast_to(latents, (batch, *latents.shape))
        scan = nn.scan(
            ResamplerBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=config.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        latents, _ = scan(config, self.dtype, name="layers")(latents, x)
        return Norm(self.dtype, centred=True, name="norm")(latents)
