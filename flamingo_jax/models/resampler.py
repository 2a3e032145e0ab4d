"""The Perceiver Resampler: any number of frames and cells -> a fixed number of latents (paper 2.1, figure 5)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flamingo_jax.config import ResamplerConfig
from flamingo_jax.models.attention import Attention
from flamingo_jax.models.axes import constrain, named
from flamingo_jax.models.layers import Einsum, FeedForward, Norm


def mixing(source: int, target: int) -> np.ndarray:
    """Weights [target, source] that interpolate linearly between embeddings, ends on ends; fewer are the first ones.

    3 -> 5:  1, (1+2)/2, 2, (2+3)/2, 3        3 -> 2:  1, 2
    """
    if target <= source:
        return np.eye(target, source, dtype=np.float32)
    at = np.linspace(0, source - 1, target)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(source))).astype(np.float32)


def averaging(source: int, target: int) -> np.ndarray:
    """Weights [target, source] that average equal stretches of a sequence (and repeat where it is too short)."""
    edges = np.linspace(0, source, target + 1)
    share = np.minimum(edges[1:, None], np.arange(1, source + 1)) - np.maximum(edges[:-1, None], np.arange(source))
    return (np.maximum(share, 0) / np.diff(edges)[:, None]).astype(np.float32)


class ResamplerBlock(nn.Module):
    """One layer: x [B, M, D] attends to ``features`` [B, S, D] and itself (perceiver), to itself (transformer), or to
    nothing (mlp); then a feed-forward. Returns (x, None)."""

    config: ResamplerConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, features: jax.Array | None):
        config = self.config

        x = constrain(x, "images", None, None)

        def norm(name):
            return Norm(self.dtype, centred=True, epsilon=config.epsilon, name=name)

        if config.kind != "mlp":
            queries = norm("latent_norm")(x)
            keys = queries
            if config.kind == "perceiver":
                keys = jnp.concatenate([norm("media_norm")(features), queries], axis=1)
            attention = Attention(
                config.heads,
                config.head_size,
                self.dtype,
                qk_norm=config.qk_norm,
                qk_centred=True,
                qk_bias=True,
                qk_epsilon=config.epsilon,
                rows="images",
                name="attention",
            )
            x = x + attention(queries, keys)
        mlp = FeedForward(config.activation, self.dtype, config.mlp_width, rows="images", name="mlp")
        return x + mlp(norm("mlp_norm")(x)), None


class Resampler(nn.Module):
    """features [B, T, S, C] -> latents [B, R, D]. More frames than ``config.frames`` get interpolated embeddings."""

    config: ResamplerConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        config = self.config
        batch, frames, cells, channels = features.shape
        x = features
        if config.project:
            shape = (channels, config.width)
            axes = ("features", "embed")
            project = Einsum(shape, axes, channels, self.dtype, rows="images", name="project")
            x = project("BTSC,CD->BTSD", features)
        if config.frames:
            init = named(nn.initializers.normal(0.02), "frames", "embed")
            time = self.param("time", init, (config.frames, config.width), jnp.float32)
            time = time[:frames] if frames <= config.frames else jnp.asarray(mixing(config.frames, frames)) @ time
            x = x + time[:, None].astype(self.dtype)
        x = x.reshape(batch, frames * cells, config.width)
        if config.kind == "mlp":
            x = jnp.einsum("RS,BSD->BRD", jnp.asarray(averaging(x.shape[1], config.latents), self.dtype), x)
            x = self._layers(x, None)
        else:
            init = named(nn.initializers.normal(1.0), "latents", "embed")
            latents = self.param("latents", init, (config.latents, config.width), jnp.float32).astype(self.dtype)
            latents = jnp.broadcast_to(latents, (batch, *latents.shape))
            if config.kind == "perceiver":
                x = self._layers(latents, x)
            else:
                x = self._layers(jnp.concatenate([x, latents], axis=1), None)[:, -config.latents :]
        return Norm(self.dtype, centred=True, epsilon=config.epsilon, name="norm")(x)

    def _layers(self, x: jax.Array, features: jax.Array | None) -> jax.Array:
        scan = nn.scan(
            ResamplerBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.config.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scan(self.config, self.dtype, name="layers")(x, features)[0]
