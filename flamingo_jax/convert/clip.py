"""What a public CLIP has beside its vision encoder (``vision.py``): the text tower and the projections."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util as traverse

from flamingo_jax.config import ClipTextConfig, LanguageConfig
from flamingo_jax.convert.pretrained import Pretrained
from flamingo_jax.convert.public import activation, needing, refuse
from flamingo_jax.convert.reader import Checkpoint
from flamingo_jax.convert.rules import Rule, linear, norm, prefixed, without
from flamingo_jax.convert.shapes import clip_text_shapes
from flamingo_jax.convert.stored import plan
from flamingo_jax.convert.tokenizer import load_tokenizer
from flamingo_jax.convert.vision import open_clip_blocks, transformers_blocks, vision_config
from flamingo_jax.data.tokenizer import Tokenizer

_LIKE_GPT = {"norm": "layer", "positions": "learned", "qkv_bias": True, "out_bias": True, "mlp_bias": True}


def _transformers(config: Mapping[str, Any]) -> ClipTextConfig:
    usual = {"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12}
    usual |= {"num_attention_heads": 8, "max_position_embeddings": 77, "eos_token_id": 49407}
    given = {**usual, **config["text_config"]}
    tower = LanguageConfig(
        vocab_size=given["vocab_size"],
        width=given["hidden_size"],
        depth=given["num_hidden_layers"],
        heads=given["num_attention_heads"],
        mlp_width=given["intermediate_size"],
        max_positions=given["max_position_embeddings"],
        epsilon=given.get("layer_norm_eps", 1e-5),
        activation=activation(given.get("hidden_act", "quick_gelu")),
        **_LIKE_GPT,
    )
    # Configs of before July 2023 say 2, which is wrong, and mean the highest id.
    end = given["vocab_size"] - 1 if given["eos_token_id"] == 2 else given["eos_token_id"]
    return ClipTextConfig(tower, config.get("projection_dim", 512), end, vision_config(config).width)


# Options of OpenCLIP's text towers that change the numbers and have only their usual value here.
_OPEN_CLIP_USUAL = {
    "act_kwargs": {}, "embed_cls": False, "final_ln_after_pool": False, "hf_model_name": None, "ls_init_value": None,
    "no_causal_mask": False, "norm_kwargs": {}, "pool_type": "argmax", "proj_bias": False, "proj_type": "linear",
}  # fmt: skip


def _open_clip(config: Mapping[str, Any]) -> ClipTextConfig:
    model = config.get("model_cfg", config)
    given = {"vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "context_length": 77, **model["text_cfg"]}
    refuse({"model_type": "open_clip's text tower", **given}, **_OPEN_CLIP_USUAL)
    tower = LanguageConfig(
        vocab_size=given["vocab_size"],
        width=given["width"],
        depth=given["layers"],
        heads=given["heads"],
        mlp_width=int(given["width"] * given.get("mlp_ratio", 4.0)),
        max_positions=given["context_length"],
        activation="quick_gelu" if model.get("quick_gelu") else "gelu",
        **_LIKE_GPT,
    )
    return ClipTextConfig(tower, model["embed_dim"], given["vocab_size"] - 1)


def _transformers_rules(config: ClipTextConfig) -> list[Rule]:
    return [
        Rule("text_model.embeddings.token_embedding.weight", "tower/embedding/table"),
        Rule("text_model.embeddings.position_embedding.weight", "tower/embedding/positions"),
        *prefixed(transformers_blocks(), "text_model.encoder.layers.{i}.", "tower/language/blocks/"),
        *norm("text_model.final_layer_norm", "tower/norm"),
        *linear("text_projection", "text_projection"),
        *linear("visual_projection", "image_projection"),
    ]


def _open_clip_rules(config: ClipTextConfig) -> list[Rule]:
    return [
        Rule("token_embedding.weight", "tower/embedding/table"),
        Rule("positional_embedding", "tower/embedding/positions"),
        *prefixed(open_clip_blocks(config.tower.width), "transformer.resblocks.{i}.", "tower/language/blocks/"),
        *norm("ln_final", "tower/norm"),
        Rule("text_projection", "text_projection/kernel"),
    ]


def has_text(config: Mapping[str, Any]) -> bool:
    """Whether a public config of a vision encoder describes a whole CLIP."""
    return config.get("model_type") == "clip" or "text_cfg" in config.get("model_cfg", config)


def load_text(path: pathlib.Path, config: Mapping[str, Any]) -> Pretrained:
    """The text tower and the projections of a public CLIP's folder, whose tokenizer must be a ``tokenizer.json``.

    Raises ValueError for options that are not implemented, and when config and weights do not fit each other.
    """
    with needing("the text tower of a CLIP"):
        if config.get("model_type") == "clip":
            ours, rules, strip, others = _transformers(config), _transformers_rules, "", r"^vision_model\."
        else:
            ours, rules, strip, others = _open_clip(config), _open_clip_rules, r"text\.", r"^visual\."
    ignore = (others, r"^logit_(scale|bias)$", r"^attn_mask$")
    weights = plan([(Checkpoint(path), without(strip))], rules(ours), clip_text_shapes(ours), ignore=ignore)
    return Pretrained(ours, traverse.unflatten_dict(weights, sep="/"), tokenizer=lambda: clip_tokenizer(path, ours))


def clip_tokenizer(path: pathlib.Path, config: ClipTextConfig) -> Tokenizer:
    """Raises ValueError when the folder has no ``tokenizer.json``, or one that ends texts with another token."""
    if not (path / "tokenizer.json").exists():  # CLIP's older files are read as GPT-2's, whose words end otherwise
        raise ValueError(f"{path} has no tokenizer.json, which the text tower needs.")
    found = load_tokenizer(path)
    if found.eos != config.end_token:
        raise ValueError(
            f"{path}: the tokenizer ends texts with the id {found.eos}, but the text tower reads the state at "
            f"{config.end_token}."
        )
    return found
