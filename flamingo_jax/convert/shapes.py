"""Names and shapes of our weights, in the layout of files: one part after another, the layers of each stacked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util as traverse
import jax
import jax.numpy as jnp

from flamingo_jax.config import ClipTextConfig, GatedConfig, LanguageConfig, ModelConfig, NFNetConfig, ViTConfig
from flamingo_jax.models import flamingo
from flamingo_jax.models.decoder import Decoder, depth_of, group_bridge
from flamingo_jax.models.encoder import ENCODERS
from flamingo_jax.models.gated import GatedCrossAttention
from flamingo_jax.models.resampler import Resampler


def shapes_of(module: nn.Module, *inputs, **options) -> dict[str, tuple[int, ...]]:
    """{path: shape} of a module's weights, without making any."""
    variables = jax.eval_shape(lambda key: module.init(key, *inputs, **options), jax.random.key(0))
    flat = traverse.flatten_dict(nn.meta.unbox(variables["params"]), sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def decoder_shapes(config: LanguageConfig) -> dict[str, tuple[int, ...]]:
    """{path: shape} of a bare decoder's weights."""
    return shapes_of(Decoder(config, jnp.float32), jnp.zeros((1, 2), jnp.int32))


def encoder_shapes(config: ViTConfig | NFNetConfig, pool: bool = False) -> dict[str, tuple[int, ...]]:
    """{path: shape} of an encoder's weights; pool: with those of the pooled vector, where it has some."""
    options = {"pool": pool} if isinstance(config, ViTConfig) else {}
    images = jnp.zeros((1, 64, 64, 3), jnp.float32)
    return shapes_of(ENCODERS[type(config)](config, jnp.float32), images, **options)


def clip_text_shapes(config: ClipTextConfig) -> dict[str, tuple[int, ...]]:
    """{path: shape} of the weights of a CLIP's text tower and of the projections beside it."""
    shapes = {f"tower/{path}": shape for path, shape in decoder_shapes(config.tower).items()}
    shapes["text_projection/kernel"] = (config.tower.width, config.embedding)
    if config.image_width:
        shapes["image_projection/kernel"] = (config.image_width, config.embedding)
    return shapes


def bridge_shapes(config: ModelConfig, new_tokens: int) -> dict[str, tuple[int, ...]]:
    """{path: shape} of all weights of a whole model, with the layers of each part stacked in order."""
    language, (latents, width) = config.language, config.media_shape
    parts = {
        "language": decoder_shapes(language),
        "vision": encoder_shapes(config.vision),
        "gated": shapes_of(
            GatedCrossAttention(config.gated, jnp.float32),
            jnp.zeros((1, 1, language.width)),
            jnp.zeros((1, 1, latents, width)),
            jnp.zeros((1, 1, 1), bool),
        ),
    }
    if config.resampler:
        features = jnp.zeros((1, 1, 1, config.vision.feature_width))
        parts["resampler"] = shapes_of(Resampler(config.resampler, jnp.float32), features)
    _, groups, remainder = config.gated.groups(language.depth)
    count = groups + (remainder > 0)
    parts["gated"] = {path: (count, *shape) for path, shape in parts["gated"].items()}
    shapes = {f"{part}/{path}": shape for part, paths in parts.items() for path, shape in paths.items()}
    if new_tokens:
        shapes["new_rows"] = (new_tokens, language.embedding_width)
    if new_tokens and not language.tied:
        shapes["new_head_rows"] = shapes["new_rows"]
    return shapes


def assemble(parts: Mapping[str, Any], gated: GatedConfig) -> dict[str, dict]:
    """{"params", "frozen"} of ``Flamingo`` from the parts of a whole model (``bridge_shapes``)."""
    rows = {name: parts[name] for name in ("new_rows", "new_head_rows") if name in parts}
    trained = {"decoder": {**group_bridge(parts["gated"], gated, depth_of(parts["language"])), **rows}}
    if "resampler" in parts:
        trained["resampler"] = parts["resampler"]
    return {"params": trained, "frozen": flamingo.assemble(parts["language"], parts["vision"], gated)}
