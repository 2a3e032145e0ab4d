"""Images and texts in the common space of a CLIP (Radford et al. 2021, figure 3): unit vectors, float32 [B, E]."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from flamingo_jax.models.decoder import Decoder
from flamingo_jax.models.vit import ViT


@functools.partial(jax.jit, static_argnames=("encoder",))
def embed_images(encoder: ViT, weights: Mapping, projections: Mapping, images: jax.Array) -> jax.Array:
    """images uint8 or normalised floats [B, H, W, 3]. projections: "image_projection", unless the encoder has it."""
    _, pooled = encoder.apply({"params": weights}, images, pool=True)
    return _unit(pooled, projections.get("image_projection"))


@functools.partial(jax.jit, static_argnames=("tower",))
def embed_texts(tower: Decoder, weights: Mapping, end_token: int, tokens: jax.Array) -> jax.Array:
    """tokens int [B, L], in each row an ``end_token``: what comes after the first one changes nothing.

    weights: "tower" and "text_projection", as ``convert.shapes.clip_text_shapes`` has them.
    """
    _, state = tower.apply({"params": weights["tower"]}, tokens, mutable=["intermediates"])  # logits are not computed
    (hidden,) = state["intermediates"]["hidden"]
    ends = (tokens == end_token).argmax(1)
    return _unit(jnp.take_along_axis(hidden, ends[:, None, None], axis=1)[:, 0], weights["text_projection"])


def _unit(x: jax.Array, projection: Mapping | None) -> jax.Array:
    """Projected in float32: errors of bfloat16 are a hundredth of a similarity."""
    x = x.astype(jnp.float32)
    if projection is not None:
        x = jnp.einsum("BD,DE->BE", x, projection["kernel"].astype(jnp.float32), precision="highest")
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
