"""Ours -> what is written: our own folders, and the names and configs of OpenFlamingo and IDEFICS, where the
architecture fits, by the same tables backwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.traverse_util as traverse
import numpy as np

from flamingo_jax.config import LanguageConfig, ModelConfig, ViTConfig
from flamingo_jax.convert import flamingo as whole
from flamingo_jax.convert import folder, open_flamingo
from flamingo_jax.convert.language import language_rules, public_name
from flamingo_jax.convert.language_config import language_config
from flamingo_jax.convert.pretrained import Pretrained
from flamingo_jax.convert.public import ACTIVATIONS
from flamingo_jax.convert.rules import write
from flamingo_jax.convert.vision import open_clip_rules

# Options that say how a model is used or trained, not what it is.
_FREE = ("dtype", "int8", "kernels", "remat", "frozen", "media", "text_tower", "gate_init", "resize", "max_positions")
_PUBLIC_ACTIVATION = {ours: name for name, ours in reversed(ACTIVATIONS.items())}


class _Layers:
    """One weight's layers, which lie in several stacks, as one: what ``rules.write`` asks of an array."""

    def __init__(self, stacks: list[tuple[Any, int]]):
        """stacks: (leaf, how many of its first axes count layers), bottom to top."""
        self.places = [(leaf, at) for leaf, lead in stacks for at in np.ndindex(tuple(leaf.shape[:lead]))]
        leaf, lead = stacks[0]
        self.shape = (len(self.places), *leaf.shape[lead:])

    def __getitem__(self, where: tuple[int, ...]):
        leaf, at = self.places[where[0]]
        return leaf[(*at, *where[1:])]


def _parts(model: Pretrained) -> dict[str, Any]:
    """The weights in the layout of files (``shapes.bridge_shapes``), the inverse of ``shapes.assemble``."""
    flat: dict[str, Any] = {}
    for tree in (model.weights.get("frozen", {}), model.weights["params"]):
        flat |= traverse.flatten_dict(tree, sep="/")
    stacks: dict[str, dict[str, tuple[Any, int]]] = {}
    out = {}
    for path, leaf in flat.items():
        name = path.removeprefix("decoder/")
        where, _, rest = name.partition("/")
        if where == "below":
            stacks.setdefault(f"language/language/{rest}", {})[where] = leaf, 1
        elif where in ("groups", "remainder"):
            part = "language/" if rest.startswith("language/") else ""
            lead = (where == "groups") + (part != "")
            stacks.setdefault(part + rest, {})[where] = leaf, lead
        else:
            own = name == path or name in ("new_rows", "new_head_rows")
            out[name if own else f"language/{name}"] = leaf
    for path, found in stacks.items():
        out[path] = _Layers([found[where] for where in ("below", "groups", "remainder") if where in found])
    return out


def _refuse(what: str, there: Any, here: Any) -> None:
    """Raises ValueError listing where ``here`` (this model) differs from what the format can say, ``there``."""

    def differences(there, here, path):
        for field in dataclasses.fields(here):
            a, b = getattr(there, field.name), getattr(here, field.name)
            if field.name in _FREE or a == b:
                continue
            if dataclasses.is_dataclass(b) and type(a) is type(b):
                yield from differences(a, b, f"{path}{field.name}.")
            else:
                yield f"{path}{field.name}: {b} here, {a} there"

    if found := list(differences(there, here, "")):
        raise ValueError(f"This model is no {what}: {'; '.join(found)}.")


def _whole(model: Pretrained, what: str) -> ModelConfig:
    config = model.config
    if not isinstance(config, ModelConfig):
        raise ValueError(f"Only whole models can be exported as {what}, not a {type(config).__name__}.")
    if not isinstance(config.vision, ViTConfig):
        raise ValueError(f"This model is no {what}: its vision encoder is a {type(config.vision).__name__}.")
    if config.gated.graft:
        raise ValueError(f"This model is no {what}: gated.graft={config.gated.graft}.")
    return config


def _llama(config: LanguageConfig) -> dict[str, Any]:
    """The public config of a decoder, were it a LLaMA."""
    rope = config.layers[0].rope
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": config.vocab_rows,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "max_position_embeddings": config.max_positions or 2048,
        "rms_norm_eps": config.epsilon,
        "hidden_act": _PUBLIC_ACTIVATION.get(config.activation, config.activation),
        "tie_word_embeddings": config.tied,
        "rope_parameters": {"rope_type": "default", "rope_theta": rope.theta if rope else 10000.0},
    }


def to_idefics(model: Pretrained) -> tuple[dict[str, dict], Iterator[tuple[str, np.ndarray]]]:
    """({file: its object}, tensors under IDEFICS' names). Raises ValueError saying in what the model is no IDEFICS."""
    config = _whole(model, "IDEFICS")
    language, vision, resampler, gated = config.language, config.vision, config.resampler, config.gated
    first = model.new_tokens[0] if model.new_tokens else language.vocab_rows
    if first != language.vocab_rows:
        raise ValueError(
            f"This model is no IDEFICS: its new tokens begin at {first}, not after the {language.vocab_rows} rows of "
            "the language model's table."
        )
    description = _llama(language) | {
        "model_type": "idefics",
        "architectures": ["IdeficsForVisionText2Text"],
        "additional_vocab_size": len(model.new_tokens),
        "cross_layer_interval": gated.every,
        "qk_layer_norms": gated.qk_norm == "head",
        "alpha_type": "vector" if gated.gate == "vector" else "float",
        "use_resampler": resampler is not None,
        "eos_token_id": model.end_token,
        "vision_config": {
            "model_type": "idefics_vision",
            "embed_dim": vision.width,
            "image_size": vision.grid[0] * vision.patch_size,
            "patch_size": vision.patch_size,
            "num_hidden_layers": vision.depth,
            "num_attention_heads": vision.heads,
            "intermediate_size": vision.mlp_width,
            "hidden_act": _PUBLIC_ACTIVATION[vision.activation],
            "layer_norm_eps": vision.epsilon,
        },
    }
    for key in ("num_key_value_heads", "head_dim"):  # which IDEFICS does not have
        description.pop(key)
    if resampler:
        description["perceiver_config"] = {
            "model_type": "idefics_perciever",
            "use_resampler": True,
            "resampler_depth": resampler.depth,
            "resampler_n_heads": resampler.heads,
            "resampler_head_dim": resampler.head_size,
            "resampler_n_latents": resampler.latents,
            "qk_layer_norms_perceiver": resampler.qk_norm == "head",
        }
    described = whole.idefics_config(description)
    pixels = {"mean": vision.mean, "std": vision.std}  # which stand in a file of their own
    described = dataclasses.replace(described, vision=dataclasses.replace(described.vision, **pixels))
    _refuse("IDEFICS", described, config)
    rules, _ = language_rules({"model_type": "llama"}, language)

    def tensors():
        for name, tensor in write(whole.idefics_rules(rules, config), _parts(model.here())):
            yield name if name.startswith("lm_head.") else f"model.{name}", tensor
        for name, fill in (("weight", np.ones), ("bias", np.zeros)):  # of an output that IDEFICS does not use
            yield f"model.vision_model.post_layernorm.{name}", fill(vision.width, np.float32)

    size = vision.grid[0] * vision.patch_size
    processor = {"image_mean": vision.mean, "image_std": vision.std, "image_size": size}
    return {"config.json": description, "preprocessor_config.json": processor}, tensors()


def to_open_flamingo(model: Pretrained) -> tuple[dict[str, dict], Iterator[tuple[str, np.ndarray]]]:
    """({file: its object}, tensors under OpenFlamingo's names). Raises ValueError saying in what the model is none.

    Its language model must be one that a public config describes: the one that it started from, or a LLaMA.
    """
    config = _whole(model, "OpenFlamingo")
    tower, language, new = config.vision, config.language, model.new_tokens
    public = dict(model.public.get("language") or _llama(language))
    try:
        described = language_config(public)
    except ValueError as error:
        raise ValueError(f"This model is no OpenFlamingo: of its language model, {error}") from None
    rows = {"vocab_size": language.vocab_size, "vocab_rows": language.vocab_rows}
    described = dataclasses.replace(described, **rows)
    if len(new) < 2 or model.image_token != new[1]:
        raise ValueError(
            "This model is no OpenFlamingo: it has no trained rows for both <|endofchunk|> and <image>, whose ids must "
            f"follow each other; its new tokens are {new}."
        )
    open_clip = {
        "image": tower.grid[0] * tower.patch_size,
        "patch": tower.patch_size,
        "width": tower.width,
        "layers": tower.depth,
        "heads": tower.heads,
        "mlp_ratio": tower.mlp_width / tower.width,
        "act": tower.activation,
    }
    described_tower = open_flamingo.describe_tower(open_clip)
    _refuse("OpenFlamingo", whole.open_flamingo_config(described, described_tower, config.gated.every), config)
    count = language.vocab_size if language.vocab_size > new[-1] else new[-1] + 1
    description = {
        "cross_attn_every_n_layers": config.gated.every,
        "lm": {**public, "vocab_size": count},
        "vision": open_clip,
        "eoc_token_id": new[0],
        "media_token_id": new[1],
    }
    rules, _ = language_rules(public, language)
    names = whole.open_flamingo_rules(rules, open_clip_rules(tower, ""), config, new[:2])
    rename = _open_flamingo_name(public["model_type"], whole.blocks(rules))

    def tensors():
        parts = _parts(model.here())
        for ours, rows in (("table", "new_rows"), ("head", "new_head_rows")):
            path = f"language/embedding/{ours}"
            if path in parts:
                parts[path] = _with_rows(parts[path], parts.pop(rows), new[0], count)
        for name, tensor in write(names, parts):
            yield rename(name), tensor

    return {"config.json": description}, tensors()


def _with_rows(table: Any, rows: Any, first: int, count: int) -> np.ndarray:
    """The language model's table with the new tokens' rows in it, of ``count`` rows in all."""
    table, rows = np.asarray(table), np.asarray(rows)
    out = np.zeros((count, table.shape[1]), rows.dtype)
    out[: min(count, len(table))] = table[:count]
    out[first : first + len(rows)] = rows[: max(count - first, 0)]
    return out


def _open_flamingo_name(kind: str, blocks: str) -> Callable[[str], str]:
    """From the rules' names to OpenFlamingo's: layers of the language model are wrapped."""

    def rename(name: str) -> str:
        if not name.startswith("lang_encoder."):
            return name
        rest = name.removeprefix("lang_encoder.")
        if rest.startswith(f"{blocks}.") and ".gated_cross_attn_layer." not in rest:
            number, _, own = rest.removeprefix(f"{blocks}.").partition(".")
            rest = f"{blocks}.{number}.decoder_layer.{own}"
        return f"lang_encoder.{public_name(kind, rest)}"

    return rename


EXPORTS: Mapping[str, tuple[Callable, str]] = {  # name -> (files and tensors of a model, the file of weights)
    "orbax": (folder.to_ours, folder.WEIGHTS),
    "safetensors": (folder.to_ours, "model.safetensors"),
    "idefics": (to_idefics, "model.safetensors"),
    "open_flamingo": (to_open_flamingo, open_flamingo.FILES[0]),
}
