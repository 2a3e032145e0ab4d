"""OpenFlamingo's checkpoints: what was trained, beside the public language model and CLIP tower that were not."""

from __future__ import annotations

import functools
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util as traverse

from flamingo_jax.config import ViTConfig
from flamingo_jax.convert import flamingo as whole
from flamingo_jax.convert import vision
from flamingo_jax.convert.language import ignored, language_rules
from flamingo_jax.convert.language_config import language_config
from flamingo_jax.convert.pretrained import Pretrained
from flamingo_jax.convert.public import needing, read_config
from flamingo_jax.convert.reader import Checkpoint
from flamingo_jax.convert.rules import without
from flamingo_jax.convert.shapes import assemble, bridge_shapes
from flamingo_jax.convert.stored import plan
from flamingo_jax.convert.tokenizer import load_tokenizer

FILES = ("params.safetensors", "checkpoint.pt")  # ours; as the project released its own
END = "<|endofchunk|>"
_GATED = re.compile(r"\.(\d+)\.gated_cross_attn_layer\.|gated_cross_attn_layers\.(\d+)\.")


def load_open_flamingo(path: pathlib.Path, config: Mapping[str, Any]) -> Pretrained:
    """The model of a folder with a checkpoint (``FILES``) and a ``config.json``.

    config: "lm" and "vision" are the parts' own configs, when the checkpoint holds their weights too, or folders that
    hold them ("../mpt-7b"). "cross_attn_every_n_layers", "eoc_token_id" and "media_token_id" (``<|endofchunk|>``,
    ``<image>``) may be null where the checkpoint and the language model's tokenizer tell. "checkpoint" is the file's
    name, where it has another.
    """
    with needing("OpenFlamingo"):
        language, tower = config["lm"], config["vision"]
    files = [config["checkpoint"]] if "checkpoint" in config else FILES
    file = next((path / name for name in files if (path / name).exists()), None)
    if file is None:
        raise ValueError(f"{path} has no checkpoint; looked for {', '.join(files)}.")
    checkpoint = Checkpoint(file)
    language, language_files = _part(path, "lm", language)
    tower, tower_files = _part(path, "vision", tower)
    rules, rename = language_rules(language, language_config(language))
    names = whole.open_flamingo_names(checkpoint.shapes, rules, rename)
    table = next(rule.source for rule in rules if rule.target == "embedding/table")
    if rows := [checkpoint.shapes[name] for name, renamed in names.items() if renamed == f"lang_encoder.{table}"]:
        language = {**language, "vocab_size": rows[0][0]}  # the table was resized for the new tokens
    elif language_files:
        raise ValueError(
            f"{file} has no {table}, so that the rows of its new tokens are lost: OpenFlamingo does not save them when "
            "the embeddings of this language model were frozen."
        )
    tower_config, tower_rules, tower_strip, tower_ignored = _tower(tower)
    vocabulary = functools.partial(load_tokenizer, path / config["lm"], END) if language_files else lambda: None
    every, new = _every(file, checkpoint, config), _new_tokens(path, config, vocabulary)
    ours = whole.open_flamingo_config(language_config(language), tower_config, every)
    files = [(one, lambda name: f"lang_encoder.{rename(name)}") for one in language_files]
    files += [(one, lambda name: "vision_encoder." + without(tower_strip)(name)) for one in tower_files]
    parts = plan(
        [*files, (checkpoint, names.get)],
        whole.open_flamingo_rules(rules, tower_rules(ours.vision), ours, new),
        bridge_shapes(ours, len(new)),
        ignore=(
            *(pattern.replace("^", r"^lang_encoder\.") for pattern in ignored(ours.language)),
            *(pattern.replace("^", r"^vision_encoder\.") for pattern in (*tower_ignored, *whole.UNUSED_OF_CLIP)),
        ),
    )
    return Pretrained(
        ours,
        assemble(traverse.unflatten_dict(parts, sep="/"), ours.gated),
        new,
        image_token=new[1],
        tokenizer=vocabulary,
        public={"language": language, "vision": tower},
    )


def _part(path: pathlib.Path, name: str, given: Any) -> tuple[Mapping[str, Any], list[Checkpoint]]:
    """(config, files) of the language model or the tower."""
    if isinstance(given, Mapping):
        return given, []
    if not isinstance(given, str):
        raise ValueError(f'OpenFlamingo: "{name}" must be a config or a folder, but is {given!r}.')
    folder = path / given
    return read_config(folder), [Checkpoint(folder)]


def _tower(config: Mapping[str, Any]):
    """(config of the encoder, its table, what stands before its names, names that are none of its)."""
    if "layers" not in config:
        return vision.vision_config(config), *vision.SPELLINGS[vision.spelling(config)]
    return describe_tower(config), lambda ours: vision.open_clip_rules(ours, ""), "", ()


def describe_tower(config: Mapping[str, Any]) -> ViTConfig:
    """The CLIP tower of OpenFlamingo's "vision" as we write it, in few words."""
    with needing("OpenFlamingo's vision"):
        tower = {
            "layers": config["layers"],
            "width": config["width"],
            "patch_size": config["patch"],
            "image_size": config["image"],
            "head_width": config["width"] // config["heads"],
            "mlp_ratio": config.get("mlp_ratio", 4),
        }
    return vision.open_clip({"embed_dim": 1, "quick_gelu": config.get("act") == "quick_gelu", "vision_cfg": tower})


def _every(file: pathlib.Path, checkpoint: Checkpoint, config: Mapping[str, Any]) -> int:
    """Before the last of how many blocks there is a gated layer."""
    found = sorted({int(match[1] or match[2]) for name in checkpoint.shapes if (match := _GATED.search(name))})
    if not found:
        raise ValueError(f"{file} holds no gated cross-attention.")
    every = config["cross_attn_every_n_layers"]
    every = found[0] + 1 if every is None else every
    if not isinstance(every, int) or every < 1 or found != list(range(every - 1, found[-1] + 1, every)):
        raise ValueError(
            f"{file} has gated layers before blocks {found}, which cross_attn_every_n_layers={every} does not give."
        )
    return every


def _new_tokens(path: pathlib.Path, config: Mapping[str, Any], vocabulary: Callable) -> tuple[int, int]:
    """Ids of ``<|endofchunk|>`` and ``<image>``: as given, or those after the language model's own."""
    ids = config.get("eoc_token_id"), config.get("media_token_id")
    if None in ids:
        if (found := vocabulary()) is None:
            raise ValueError(
                f"{path}: nothing says which ids <|endofchunk|> and <image> have: give eoc_token_id and "
                "media_token_id, or the tokenizer's files in the language model's folder."
            )
        ids = found.eoc, found.image
    if ids[1] != ids[0] + 1:
        raise ValueError(f"OpenFlamingo's <image> must have the id after <|endofchunk|>'s, but they are {ids}.")
    return ids
