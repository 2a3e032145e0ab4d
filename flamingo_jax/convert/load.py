"""A public checkpoint as it is -> the model that it is and its weights, in memory."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util as traverse
import jax
import jax.numpy as jnp

from flamingo_jax.config import LanguageConfig
from flamingo_jax.convert.language import ignored, language_rules
from flamingo_jax.convert.language_config import language_config
from flamingo_jax.convert.reader import Checkpoint
from flamingo_jax.convert.rules import convert
from flamingo_jax.models.decoder import Decoder


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """A folder's ``config.json``. Raises ValueError when it is missing or no JSON."""
    file = path / "config.json"
    if not file.exists():
        raise ValueError(f"{path} has no config.json, which says what model it holds.")
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is no JSON: {error}.") from None


def shapes_of(module: nn.Module, *inputs, **options) -> dict[str, tuple[int, ...]]:
    """{path: shape} of a module's weights, without making any."""
    variables = jax.eval_shape(lambda key: module.init(key, *inputs, **options), jax.random.key(0))
    flat = traverse.flatten_dict(nn.meta.unbox(variables["params"]), sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def load_language(path: pathlib.Path, config: Mapping[str, Any], dtype: str | None = None) -> tuple[LanguageConfig, dict]:
    """(config, weights of the bare decoder) of a public language model's folder."""
    ours = language_config(config)
    kind = config["model_type"]
    rules, strip = language_rules("gemma3_text" if kind == "gemma3" else kind, ours)
    shapes = shapes_of(Decoder(ours, jnp.float32), jnp.zeros((1, 2), jnp.int32))
    ignore = (*ignored(ours), r"^(vision_tower|multi_modal_projector|model\.vision_tower)\.")
    flat = convert(Checkpoint(path), rules, shapes, strip=strip, ignore=ignore, dtype=dtype)
    return ours, traverse.unflatten_dict(flat, sep="/")
