"""OpenFlamingo and IDEFICS: their configs and names, whole models."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flamingo_jax.config import GatedConfig, LanguageConfig, ModelConfig, ResamplerConfig, ViTConfig
from flamingo_jax.convert.language_config import llama
from flamingo_jax.convert.public import activation, refuse
from flamingo_jax.convert.rules import Rule, fused, linear, norm, prefixed
from flamingo_jax.convert.vision import CLIP_PIXELS, transformers_rules

# Names that training wrappers leave in OpenFlamingo's files.
_WRAPPERS = r"(^module\.|_checkpoint_wrapped_module\.|_fsdp_wrapped_module\.)"


def open_flamingo_config(language: LanguageConfig, vision: ViTConfig, every: int) -> ModelConfig:
    """OpenFlamingo's bridge between the two: 8 heads of 64, gated layers before the last of ``every`` blocks.

    Source: mlfoundations/open_flamingo, ``src/helpers.py`` and ``src/factory.py`` at version 2.0.1.
    """
    return ModelConfig(
        language=language,
        vision=dataclasses.replace(vision, patches_only=True, final_norm=False, pool="none", projection=0),
        resampler=ResamplerConfig(
            width=vision.width, depth=6, heads=8, head_size=64, frames=0, project=False, activation="gelu"
        ),
        gated=GatedConfig(every=every, first=every - 1, heads=8, head_size=64, media_norm=False, activation="gelu"),
        dtype="float32",
    )


def open_flamingo_rules(
    language: list[Rule], tower: list[Rule], config: ModelConfig, new_tokens: tuple[int, ...]
) -> list[Rule]:
    """Names of a checkpoint with all weights; targets as ``shapes.assemble`` wants them.

    language, tower: the parts' own tables. new_tokens: ids of ``<|endofchunk|>`` and ``<image>``, whose rows stand in
    the language model's table.
    """
    gated = [
        *norm("attn.norm", "text_norm"),
        *linear("attn.to_q", "attention/query"),
        *fused("attn.to_kv", {"attention/key": 512, "attention/value": 512}),
        *linear("attn.to_out", "attention/out"),
        *norm("ff.0", "mlp_norm"),
        *linear("ff.1", "mlp/up"),
        *linear("ff.3", "mlp/down"),
        Rule("attn_gate", "attention_gate", "vector"),
        Rule("ff_gate", "mlp_gate", "vector"),
    ]
    layer = [
        *norm("0.norm_media", "media_norm"),
        *norm("0.norm_latents", "latent_norm"),
        *linear("0.to_q", "attention/query"),
        *fused("0.to_kv", {"attention/key": 512, "attention/value": 512}),
        *linear("0.to_out", "attention/out"),
        *norm("1.0", "mlp_norm"),
        *linear("1.1", "mlp/up"),
        *linear("1.3", "mlp/down"),
    ]
    resampler = [
        Rule("latents", "latents"),
        *prefixed(layer, "layers.{i}.", "layers/"),
        *norm("norm", "norm"),
    ]
    rows = {rule.target: rule.source for rule in language if rule.target in ("embedding/table", "embedding/head")}
    cut = (0, new_tokens[0], new_tokens[-1] + 1)
    return [
        *prefixed(language, "lang_encoder.", "language/"),
        *prefixed(tower, "vision_encoder.", "vision/"),
        *prefixed(resampler, "perceiver.", "resampler/"),
        *prefixed(
            gated,
            f"lang_encoder.{blocks(language)}.{{i}}.gated_cross_attn_layer.",
            "gated/",
            first=config.gated.first,
            step=config.gated.every,
        ),
        Rule(f"lang_encoder.{rows['embedding/table']}", "new_rows", cut=cut),
        Rule(f"lang_encoder.{rows.get('embedding/head', '')}", "new_head_rows", cut=cut),
    ]


def blocks(language: list[Rule]) -> str:
    """What stands before the number of a block in a language model's names."""
    return next(rule.source.split(".{i}.")[0] for rule in language if rule.target.startswith("language/blocks/"))


def open_flamingo_names(
    names: Iterable[str], language: list[Rule], spelled: Callable[[str], str]
) -> dict[str, str | None]:
    """{name in a checkpoint: name in the rules}, None for what repeats another tensor.

    Wrappers leave parts of their names, and the gated layers and blocks stand in lists of their own beside the language
    model's, in files of the first version in these alone.
    """
    out = {name: re.sub(_WRAPPERS, "", name) for name in names}
    alone = not any(".gated_cross_attn_layer." in name for name in out.values())

    def rename(name: str) -> str | None:
        if not name.startswith("lang_encoder."):
            return name
        rest = name.removeprefix("lang_encoder.").replace(".decoder_layer.", ".")
        if match := re.match(r"gated_cross_attn_layers\.(\d+)\.(.*)", rest):
            return f"lang_encoder.{blocks(language)}.{match[1]}.gated_cross_attn_layer.{match[2]}" if alone else None
        return None if rest.startswith("old_decoder_blocks.") else f"lang_encoder.{spelled(rest)}"

    return {name: rename(plain) for name, plain in out.items()}


# Of the tower, OpenFlamingo uses the patches before these, under OpenCLIP's names and transformers'.
UNUSED_OF_CLIP = (r"^(ln_post|post_layernorm|proj)(\.|$)",)


def idefics_config(config: Mapping[str, Any]) -> ModelConfig:
    """The whole model that an IDEFICS ``config.json`` describes: today's, 2023's nested or its first, flat spelling."""
    if config.get("alpha_type") != "vector":
        refuse(config, alpha_type="float")
    vision = dict(config.get("vision_config") or {})
    perceiver = {**config, **(config.get("perceiver_config") or {})}
    flat = {key.removeprefix("vision_"): value for key, value in config.items() if key.startswith("vision_")}
    vision = {**flat, **vision}
    width, patch = vision.get("embed_dim", 768), vision.get("patch_size", 14)
    side = vision.get("image_size", 224) // patch
    options = llama({"max_position_embeddings": config.get("max_sequence_length", 0), **config})
    language = LanguageConfig(**options)
    encoder = ViTConfig(
        width=width,
        depth=vision.get("num_hidden_layers", 32),
        heads=vision.get("num_attention_heads", 16),
        patch_size=patch,
        grid=(side, side),
        mlp_width=vision.get("intermediate_size", 5120),
        activation=activation(vision.get("hidden_act", "gelu")),
        epsilon=vision.get("layer_norm_eps", 1e-5),
        class_token=True,
        patch_bias=False,
        position_class=True,
        pre_norm=True,
        final_norm=False,
        resize="bicubic_shifted",
        **CLIP_PIXELS,
    )
    resampler = ResamplerConfig(
        width=width,
        depth=perceiver.get("resampler_depth", 6),
        heads=perceiver.get("resampler_n_heads", 16),
        head_size=perceiver.get("resampler_head_dim", 96),
        latents=perceiver.get("resampler_n_latents", 64),
        frames=0,
        project=False,
        activation="relu",
        qk_norm="head" if perceiver.get("qk_layer_norms_perceiver", False) else "none",
    )
    gated = GatedConfig(
        every=config.get("cross_layer_interval", 1),
        heads=language.heads,
        head_size=language.head_size,
        gate="vector" if config.get("alpha_type") == "vector" else "scalar",
        norm="rms",
        media_norm=False,
        epsilon=language.epsilon,
        qk_norm="head" if config.get("qk_layer_norms", False) else "none",
        mlp="gated",
        mlp_width=language.mlp_width,
        activation=language.activation,
    )
    used = config.get("use_resampler", perceiver.get("use_resampler", False))  # today's sub-config may contradict
    return ModelConfig(language, encoder, resampler if used else None, gated, dtype="float32")


def idefics_rules(language: list[Rule], config: ModelConfig) -> list[Rule]:
    """Names of IDEFICS without the leading ``model.``; targets as ``shapes.assemble`` wants them."""
    gate = "channels" if config.gated.gate == "vector" else "vector"
    gated = [
        *norm("input_layernorm", "text_norm"),
        *norm("post_attention_layernorm", "mlp_norm"),
        *norm("cross_attn.q_layer_norm", "attention/query_norm"),
        *norm("cross_attn.k_layer_norm", "attention/key_norm"),
        Rule("alpha_cross_attn", "attention_gate", gate),
        Rule("alpha_dense", "mlp_gate", gate),
    ]
    for name, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("o_proj", "out")):
        gated += linear(f"cross_attn.{name}", f"attention/{ours}")
    for name in ("gate", "up", "down"):
        gated += linear(f"mlp.{name}_proj", f"mlp/{name}")
    layer = [
        *norm("0.context_layer_norm", "media_norm"),
        *norm("0.latents_layer_norm", "latent_norm"),
        *norm("0.q_layer_norm", "attention/query_norm"),
        *norm("0.k_layer_norm", "attention/key_norm"),
        *norm("1.ln", "mlp_norm"),
        *linear("1.fc", "mlp/up"),
        *linear("1.c_proj", "mlp/down"),
    ]
    for name, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("output_proj", "out")):
        layer += linear(f"0.{name}", f"attention/{ours}")
    resampler = [Rule("latents", "latents"), *prefixed(layer, "blocks.{i}.", "layers/"), *norm("layer_norm", "norm")]
    return [
        *prefixed(language, "", "language/"),
        *prefixed(transformers_rules(config.vision), "vision_model.", "vision/"),
        *prefixed(resampler, "perceiver_resampler.", "resampler/"),
        *prefixed(gated, "gated_cross_attn_layers.{i}.", "gated/"),
        Rule("embed_tokens.additional_embedding.weight", "new_rows"),
        Rule("lm_head.additional_fc.weight", "new_head_rows"),
    ]


IDEFICS_IGNORED = (r"^vision_model\.post_layernorm\.",)
