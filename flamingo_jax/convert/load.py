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

from flamingo_jax.config import GatedConfig, LanguageConfig, ModelConfig, NFNetConfig, ViTConfig, suggest
from flamingo_jax.convert import flamingo as whole
from flamingo_jax.convert import vision
from flamingo_jax.convert.language import ignored, language_rules
from flamingo_jax.convert.language_config import FAMILIES, language_config
from flamingo_jax.convert.public import needing
from flamingo_jax.convert.reader import Checkpoint
from flamingo_jax.convert.rules import convert, without
from flamingo_jax.convert.vision import vision_config
from flamingo_jax.models import flamingo
from flamingo_jax.models.decoder import Decoder, depth_of, group_bridge
from flamingo_jax.models.encoder import ENCODERS
from flamingo_jax.models.gated import GatedCrossAttention
from flamingo_jax.models.resampler import Resampler


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """A folder's ``config.json``. Raises ValueError when it is missing or no JSON."""
    if path.is_file():
        raise ValueError(f"{path} is a file; give the folder that holds it.")
    if not path.is_dir():
        raise ValueError(f"There is no folder {path}; download a public model into a folder first.")
    file = next((path / name for name in ("config.json", "open_clip_config.json") if (path / name).exists()), None)
    if file is None:
        raise ValueError(f"{path} has no config.json, which says what model it holds.")
    try:
        config = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is no JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} must hold an object, not {type(config).__name__}.")
    return config


def shapes_of(module: nn.Module, *inputs, **options) -> dict[str, tuple[int, ...]]:
    """{path: shape} of a module's weights, without making any."""
    variables = jax.eval_shape(lambda key: module.init(key, *inputs, **options), jax.random.key(0))
    flat = traverse.flatten_dict(nn.meta.unbox(variables["params"]), sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def read(checkpoint: Checkpoint, rules, shapes, **options) -> dict:
    """The tree of weights that ``convert`` reads."""
    return traverse.unflatten_dict(convert(checkpoint, rules, shapes, **options), sep="/")


def load_language(
    path: pathlib.Path, config: Mapping[str, Any], dtype: str | None = None
) -> tuple[LanguageConfig, dict]:
    """(config, weights of the bare decoder) of a public language model's folder."""
    ours = language_config(config)
    rules, rename = language_rules(config, ours)
    ignore = (*ignored(ours), r"^(vision_tower|multi_modal_projector|model\.vision_tower)\.")
    weights = read(Checkpoint(path), rules, decoder_shapes(ours), rename=rename, ignore=ignore, dtype=dtype)
    return ours, weights


def decoder_shapes(config: LanguageConfig) -> dict[str, tuple[int, ...]]:
    """{path: shape} of a bare decoder's weights."""
    return shapes_of(Decoder(config, jnp.float32), jnp.zeros((1, 2), jnp.int32))


def load_vision(
    path: pathlib.Path, config: Mapping[str, Any], dtype: str | None = None
) -> tuple[ViTConfig | NFNetConfig, dict]:
    """(config, weights) of a public vision encoder's folder."""
    ours = vision_config(config)
    rules, strip, ignore = vision.SPELLINGS[vision.spelling(config)]
    options = {"rename": without(strip), "ignore": ignore, "dtype": dtype}
    return ours, read(Checkpoint(path), rules(ours), encoder_shapes(ours, pool=True), **options)


def encoder_shapes(config: ViTConfig | NFNetConfig, pool: bool = False) -> dict[str, tuple[int, ...]]:
    """{path: shape} of an encoder's weights; pool: with those of the pooled vector, where it has some."""
    options = {"pool": pool} if isinstance(config, ViTConfig) else {}
    images = jnp.zeros((1, 64, 64, 3), jnp.float32)
    return shapes_of(ENCODERS[type(config)](config, jnp.float32), images, **options)


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


def load_idefics(path: pathlib.Path, config: Mapping[str, Any], dtype: str | None = None):
    """(config, ids of the new tokens, {"params", "frozen"}) of an IDEFICS folder."""
    with needing("idefics"):
        ours = whole.idefics_config(config)
    checkpoint = Checkpoint(path)
    added = checkpoint.shapes.get("model.embed_tokens.additional_embedding.weight", (0,))[0]
    rules, rename = language_rules({"model_type": "llama"}, ours.language)
    parts = read(
        checkpoint,
        whole.idefics_rules(rules, ours),
        bridge_shapes(ours, added),
        rename=rename,
        ignore=(*ignored(ours.language), *whole.IDEFICS_IGNORED),
        dtype=dtype,
    )
    first = ours.language.vocab_size
    return ours, tuple(range(first, first + added)), assemble(parts, ours.gated)


def is_language(config: Mapping[str, Any]) -> bool:
    """Whether a public config is one of a language model. ValueError for a model type that is nothing we know."""
    kind = config.get("model_type")
    if kind in FAMILIES:
        return True
    untyped = "vision_cfg" in config.get("model_cfg", config) or "architecture" in config  # OpenCLIP's files, timm's
    if untyped or kind in vision.FAMILIES or kind in vision.TOWERS:
        return False
    if kind is None:
        raise ValueError("The config has no model_type, so it is not known what model it describes.")
    known = (*FAMILIES, *vision.FAMILIES, *vision.TOWERS, "idefics")
    raise ValueError(f"model_type={kind!r} is not implemented; {suggest(kind, known)}.")


def load_open_flamingo_folder(path: pathlib.Path, config: Mapping[str, Any], dtype: str | None = None):
    """(config, ids of the new tokens, {"params", "frozen"}) of a folder with ``params.safetensors`` and a config."""
    with needing("OpenFlamingo"):
        tower, language = config["vision"], config["lm"]
        described = {
            "embed_dim": 1,  # the projection is not used
            "quick_gelu": tower.get("act") == "quick_gelu",
            "vision_cfg": {
                "layers": tower["layers"],
                "width": tower["width"],
                "patch_size": tower["patch"],
                "image_size": tower["image"],
                "head_width": tower["width"] // tower["heads"],
                "mlp_ratio": tower.get("mlp_ratio", 4),
            },
        }
        tokens = (config["eoc_token_id"], config["media_token_id"])
        every = config["cross_attn_every_n_layers"]
    encoder = vision.open_clip(described)
    ours, variables = load_open_flamingo(path / "params.safetensors", language, encoder, every, tokens, dtype)
    return ours, tokens, variables


def load_open_flamingo(
    file: pathlib.Path,
    language: Mapping[str, Any],
    vision: ViTConfig,
    every: int,
    new_tokens: tuple[int, ...],
    dtype: str | None = None,
):
    """(config, {"params", "frozen"}) of a file with all weights under OpenFlamingo's names.

    language: the language model's ``config.json``. vision: the CLIP tower. every: ``cross_attn_every_n_layers``.
    new_tokens: ids of ``<|endofchunk|>`` and ``<image>``, in this order.
    """
    if new_tokens[1] != new_tokens[0] + 1:
        raise ValueError(f"OpenFlamingo's <image> must have the id after <|endofchunk|>'s, but they are {new_tokens}.")
    ours = whole.open_flamingo_config(language_config(language), vision, every)
    rules, rename = whole.open_flamingo_rules(*language_rules(language, ours.language), ours, new_tokens)
    ignore = tuple(pattern.replace("^", r"^lang_encoder\.") for pattern in ignored(ours.language))
    parts = read(
        Checkpoint(file),
        rules,
        bridge_shapes(ours, len(new_tokens)),
        rename=rename,
        ignore=(*ignore, *whole.OPEN_FLAMINGO_IGNORED),
        dtype=dtype,
    )
    return ours, assemble(parts, ours.gated)
