"""A folder as the public libraries write it -> the model that it is, its weights still in the files."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util as traverse

from flamingo_jax.config import suggest
from flamingo_jax.convert import clip, folder, vision
from flamingo_jax.convert import flamingo as whole
from flamingo_jax.convert.language import ignored, language_rules
from flamingo_jax.convert.language_config import FAMILIES, language_config
from flamingo_jax.convert.open_flamingo import load_open_flamingo
from flamingo_jax.convert.pretrained import Pretrained
from flamingo_jax.convert.public import needing, read_config
from flamingo_jax.convert.reader import Checkpoint
from flamingo_jax.convert.rules import without
from flamingo_jax.convert.shapes import assemble, bridge_shapes, decoder_shapes, encoder_shapes
from flamingo_jax.convert.stored import plan
from flamingo_jax.convert.tokenizer import load_tokenizer
from flamingo_jax.convert.vision import vision_config, with_pixels


def find(path: pathlib.Path, config: Mapping[str, Any] | None = None) -> Pretrained:
    """The model of a folder, a public one or ours; ``config`` stands for its ``config.json``.

    Raises ValueError when there is nothing to load, the family or one of its options is not implemented, or config and
    weights do not fit each other (all that is missing, left over or of a wrong shape is listed).
    """
    config = read_config(path) if config is None else config
    try:
        return _reader(config)(path, config)
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from None
    except (TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{path}: a value of config.json is of a wrong type or size: {error}.") from error


def _reader(config: Mapping[str, Any]) -> Callable[[pathlib.Path, Mapping[str, Any]], Pretrained]:
    if config.get("model_type") == folder.MODEL_TYPE:
        return folder.read_folder
    if "cross_attn_every_n_layers" in config:
        return load_open_flamingo
    if config.get("model_type") == "idefics":
        return load_idefics
    return load_language if is_language(config) else load_vision


def is_language(config: Mapping[str, Any]) -> bool:
    """Whether a public config is one of a language model. ValueError for a model type that is nothing we know."""
    kind = config.get("model_type")
    if kind in FAMILIES:
        return True
    untyped = "vision_cfg" in config.get("model_cfg", config) or "architecture" in config  # OpenCLIP's files, timm's
    if untyped or kind in vision.FAMILIES or kind in vision.TOWERS:
        return False
    if kind is None:
        raise ValueError("config.json has no model_type, so it is not known what model it describes.")
    known = (*FAMILIES, *vision.FAMILIES, *vision.TOWERS, "idefics")
    raise ValueError(f"model_type={kind!r} is not implemented; {suggest(kind, known)}.")


def _tree(flat: Mapping[str, Any]) -> dict:
    return traverse.unflatten_dict(flat, sep="/")


def load_language(path: pathlib.Path, config: Mapping[str, Any]) -> Pretrained:
    """A public language model: a bare decoder."""
    ours = language_config(config)
    rules, rename = language_rules(config, ours)
    ignore = (*ignored(ours), r"^(vision_tower|multi_modal_projector|model\.vision_tower)\.")
    weights = plan([(Checkpoint(path), rename)], rules, decoder_shapes(ours), ignore=ignore)
    return Pretrained(ours, _tree(weights), tokenizer=lambda: load_tokenizer(path), public={"language": config})


def load_vision(path: pathlib.Path, config: Mapping[str, Any]) -> Pretrained:
    """A public vision encoder; of a CLIP with its text tower, which is not looked at before it is asked for."""
    ours = with_pixels(path, vision_config(config))
    rules, strip, ignore = vision.SPELLINGS[vision.spelling(config)]
    files = [(Checkpoint(path), without(strip))]
    weights = plan(files, rules(ours), encoder_shapes(ours, pool=True), ignore=ignore)
    text = functools.partial(clip.load_text, path, config) if clip.has_text(config) else lambda: None
    return Pretrained(ours, _tree(weights), public={"vision": config}, text=text)


def load_idefics(path: pathlib.Path, config: Mapping[str, Any]) -> Pretrained:
    """An IDEFICS folder."""
    with needing("idefics"):
        ours = whole.idefics_config(config)
    ours = dataclasses.replace(ours, vision=with_pixels(path, ours.vision))
    checkpoint = Checkpoint(path)
    end = config.get("eos_token_id", 2)
    added = checkpoint.shapes.get("model.embed_tokens.additional_embedding.weight", (0,))[0]
    rules, rename = language_rules({"model_type": "llama"}, ours.language)
    ignore = (*ignored(ours.language), *whole.IDEFICS_IGNORED)
    rules = whole.idefics_rules(rules, ours)
    parts = plan([(checkpoint, rename)], rules, bridge_shapes(ours, added), ignore=ignore)
    new = tuple(range(ours.language.vocab_size, ours.language.vocab_size + added))
    return Pretrained(
        ours,
        assemble(_tree(parts), ours.gated),
        new,
        # The tokenizer's order: the fake token around images, <image>, and in later models <end_of_utterance>.
        image_token=new[1] if added > 1 else None,
        end_token=end[0] if isinstance(end, list) and end else end,
        tokenizer=lambda: load_tokenizer(path),
    )
