"""``config.json`` of a public language model, in the older or today's spelling, -> ``LanguageConfig``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from flamingo_jax.config import LanguageConfig, LayerConfig, RopeConfig, suggest
from flamingo_jax.convert.public import activation, needing, refuse


def rope(
    config: Mapping[str, Any], part: str | None = None, theta: float = 10000.0, fraction: float = 1.0
) -> RopeConfig:
    """Rotary options: ``rope_parameters`` (today; ``part``: of a kind of layer) or ``rope_theta``, ``rope_scaling``."""
    given = config.get("rope_parameters") or {}
    if part in given:
        given = given[part]
    if not given:
        given = {"rope_theta": config.get("rope_theta", theta), **(config.get("rope_scaling") or {})}
    kind = given.get("rope_type", given.get("type", "default"))
    known = {"default": "none", "linear": "linear", "llama3": "llama3", "yarn": "yarn"}
    if kind not in known:
        raise ValueError(
            f"{config['model_type']}: the rope scaling {kind!r} is not implemented; {suggest(kind, known)}."
        )
    factor = float(given.get("factor") or 1.0)
    key = "original_max_position_embeddings"
    original = config.get(key) or given.get(key) or config.get("max_position_embeddings", 0)
    return RopeConfig(
        theta=float(given.get("rope_theta", config.get("rope_theta", theta))),
        fraction=given.get("partial_rotary_factor", config.get("partial_rotary_factor", fraction)),
        scaling=known[kind],
        factor=factor,
        original_length=int(original) if kind in ("llama3", "yarn") else 0,
        low_frequency=float(given.get("low_freq_factor", 1.0)),
        high_frequency=float(given.get("high_freq_factor", 4.0)),
        beta_fast=float(given.get("beta_fast") or 32.0),
        beta_slow=float(given.get("beta_slow") or 1.0),
        truncate=given.get("truncate", True),
        magnitude=_magnitude(given, factor) if kind == "yarn" else 0.0,
    )


def _magnitude(given: Mapping[str, Any], factor: float) -> float:
    """YaRN's factor on cos and sin, where a config gives it; 0 for the usual one."""

    def scale(weight):
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if given.get("attention_factor") is not None:
        return float(given["attention_factor"])
    if given.get("mscale") and given.get("mscale_all_dim"):
        return scale(given["mscale"]) / scale(given["mscale_all_dim"])
    return 0.0


def windows(config: Mapping[str, Any], local: Callable[[int], bool]) -> tuple[bool, ...]:
    """Which layers have a sliding window: ``layer_types`` or, where it is absent, ``local`` of the layer's index."""
    kinds = config.get("layer_types")
    if kinds is None:
        return tuple(local(i) for i in range(config["num_hidden_layers"]))
    for kind in kinds:
        if kind not in ("sliding_attention", "full_attention"):
            raise ValueError(
                f"{config['model_type']}: the layer type {kind!r} is not implemented; "
                "known here: full_attention, sliding_attention."
            )
    return tuple(kind == "sliding_attention" for kind in kinds)


def layers(sliding: tuple[bool, ...], full: LayerConfig, local: LayerConfig) -> dict[str, Any]:
    """``layers`` and ``pattern`` of a model whose layers are of two kinds, or of one."""
    if not any(sliding):
        return {"layers": (full,), "pattern": (0,)}
    if all(sliding):
        return {"layers": (local,), "pattern": (0,)}
    return {"layers": (full, local), "pattern": tuple(int(is_local) for is_local in sliding)}


def windowed(config: Mapping[str, Any], local: Callable[[int], bool], **options) -> dict[str, Any]:
    """Layers with one kind of rope, some of them with ``sliding_window``."""
    turned, window, sliding = rope(config, **options), config.get("sliding_window") or 0, windows(config, local)
    return layers(sliding if window else (False,), LayerConfig(0, turned), LayerConfig(window, turned))


def llama(config: Mapping[str, Any], **more) -> dict[str, Any]:
    """Options of LLaMA, of which most families are variants."""
    heads, width = config["num_attention_heads"], config["hidden_size"]
    bias = config.get("attention_bias", False)
    options = {
        "vocab_size": config["vocab_size"],
        "width": width,
        "depth": config["num_hidden_layers"],
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "head_size": config.get("head_dim") or width // heads,
        "mlp_width": config["intermediate_size"],
        "max_positions": config.get("max_position_embeddings", 0),
        "epsilon": config.get("rms_norm_eps", 1e-6),
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp": "gated",
        "mlp_bias": config.get("mlp_bias", False),
        "activation": activation(config.get("hidden_act", "silu")),
        "tied": config.get("tie_word_embeddings", False),
    }
    if "layers" not in more:
        options["layers"] = (LayerConfig(rope=rope(config)),)
    return options | more


def layer_norm(config: Mapping[str, Any], **more) -> dict[str, Any]:
    """Options of the families with LayerNorm and a plain feed-forward with biases."""
    refuse(config, pretraining_tp=1)
    return llama(
        config,
        norm="layer",
        epsilon=config.get("layer_norm_eps", config.get("layer_norm_epsilon", 1e-5)),
        **{"mlp": "plain", "mlp_bias": True} | more,
    )


def qwen(config: Mapping[str, Any], **more) -> dict[str, Any]:
    first = config.get("max_window_layers", 28)
    used = config.get("use_sliding_window", False)
    return llama(
        config, **windowed(config if used else {**config, "sliding_window": None}, lambda i: i >= first), **more
    )


def gemma(config: Mapping[str, Any], **more) -> dict[str, Any]:
    refuse(config, use_bidirectional_attention=False)
    # The first Gemma files say "gelu" and mean the approximation by tanh.
    act = config.get("hidden_activation") or "gelu_pytorch_tanh"
    return llama(
        {"head_dim": 256, "tie_word_embeddings": True, **config},
        unit_offset=True,
        embedding_scale=config["hidden_size"] ** 0.5,
        activation=activation(act),
        **more,
    )


def gemma2(config: Mapping[str, Any], **more) -> dict[str, Any]:
    return gemma(
        config,
        placement="sandwich",
        attention_scale=config.get("query_pre_attn_scalar", 256) ** -0.5,
        softcap=config.get("attn_logit_softcapping") or 0.0,
        logit_softcap=config.get("final_logit_softcapping") or 0.0,
        **{**windowed(config, lambda i: i % 2 == 0), **more},
    )


def gemma3(config: Mapping[str, Any]) -> dict[str, Any]:
    usual = {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    }  # multimodal files leave them out
    config = {**usual, "max_position_embeddings": 131072, **config}
    every = config.get("sliding_window_pattern", 6)
    if config.get("rope_parameters"):
        full, local = (rope(config, part) for part in ("full_attention", "sliding_attention"))
    else:
        full = rope(config, theta=1e6)
        local = RopeConfig(theta=config.get("rope_local_base_freq", 10000.0))
    kinds = layers(
        windows(config, lambda i: (i + 1) % every != 0),
        LayerConfig(0, full),
        LayerConfig(config.get("sliding_window", 4096), local),
    )
    return gemma2(config, qk_norm="head", **kinds)


def olmo3(config: Mapping[str, Any]) -> dict[str, Any]:
    full = rope(config, "full_attention")
    nested = "sliding_attention" in (config.get("rope_parameters") or {})
    local = rope(config, "sliding_attention") if nested else RopeConfig(theta=full.theta)
    sliding = windows(config, lambda i: (i + 1) % 4 != 0)
    kinds = layers(sliding, LayerConfig(0, full), LayerConfig(config.get("sliding_window", 4096), local))
    return llama(config, placement="branch", qk_norm="whole", **kinds)


def smollm3(config: Mapping[str, Any]) -> dict[str, Any]:
    depth, every = config["num_hidden_layers"], config.get("no_rope_layer_interval", 4)
    turned = config.get("no_rope_layers") or [int((i + 1) % every != 0) for i in range(depth)]  # 1: has rope
    refuse(config, use_sliding_window=False)
    kinds = (LayerConfig(rope=rope(config, theta=2e6)), LayerConfig(rope=None))
    tied = {"tie_word_embeddings": True, **config}
    return llama(tied, layers=kinds, pattern=tuple(int(not has_rope) for has_rope in turned))


def granite(config: Mapping[str, Any]) -> dict[str, Any]:
    return llama(
        config,
        embedding_scale=float(config.get("embedding_multiplier", 1.0)),
        residual_scale=float(config.get("residual_multiplier", 1.0)),
        attention_scale=float(config.get("attention_multiplier", 1.0)),
        logit_scale=1.0 / config.get("logits_scaling", 1.0),
    )


def stablelm(config: Mapping[str, Any]) -> dict[str, Any]:
    return layer_norm(
        config,
        mlp="gated",
        mlp_bias=False,
        qkv_bias=config.get("use_qkv_bias", False),
        placement="parallel" if config.get("use_parallel_residual") else "pre",
        qk_norm="heads" if config.get("qk_layernorm") else "none",
        layers=(LayerConfig(rope=rope(config, fraction=0.25)),),
    )


def phi(config: Mapping[str, Any]) -> dict[str, Any]:
    return layer_norm(
        {"hidden_act": "gelu_new", **config},
        placement="parallel",
        qkv_bias=True,
        out_bias=True,
        head_bias=True,
        qk_norm="head" if config.get("qk_layernorm") else "none",
        qk_norm_bias=True,
        layers=(LayerConfig(rope=rope(config, fraction=0.5)),),
    )


def gpt_neox(config: Mapping[str, Any]) -> dict[str, Any]:
    bias = config.get("attention_bias", True)
    given = {"rope_theta": config.get("rotary_emb_base", 10000.0), **config}
    return layer_norm(
        {"hidden_act": "gelu", **config},
        placement="parallel_two" if config.get("use_parallel_residual", True) else "pre",
        qkv_bias=bias,
        out_bias=bias,
        layers=(LayerConfig(rope=rope(given, fraction=config.get("rotary_pct", 0.25))),),
    )


def gptj(config: Mapping[str, Any]) -> dict[str, Any]:
    size = config["n_embd"] // config["n_head"]
    turned = RopeConfig(fraction=(config.get("rotary_dim") or size) / size, interleaved=True)
    return gpt(config, placement="parallel", tied=config.get("tie_word_embeddings", False), head_bias=True) | {
        "positions": "rope",
        "layers": (LayerConfig(rope=turned),),
    }


def gpt(config: Mapping[str, Any], **more) -> dict[str, Any]:
    """GPT-2's spelling."""
    width = config["n_embd"]
    return {
        "vocab_size": config["vocab_size"],
        "width": width,
        "depth": config["n_layer"],
        "heads": config["n_head"],
        "mlp_width": config.get("n_inner") or 4 * width,
        "max_positions": config.get("n_positions", 2048),
        "norm": "layer",
        "epsilon": config.get("layer_norm_epsilon", 1e-5),
        "positions": "learned",
        "activation": activation(config.get("activation_function", "gelu_new")),
        "mlp_bias": True,
        "tied": config.get("tie_word_embeddings", True),
    } | more


def gpt2(config: Mapping[str, Any]) -> dict[str, Any]:
    refuse(config, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    scale = 0.0 if config.get("scale_attn_weights", True) else 1.0
    config = {"n_positions": 1024, **config}
    return gpt(config, qkv_bias=True, out_bias=True, attention_scale=scale)


def opt(config: Mapping[str, Any]) -> dict[str, Any]:
    refuse(config, layer_norm_elementwise_affine=True)
    before, bias = config.get("do_layer_norm_before", True), config.get("enable_bias", True)
    return {
        "vocab_size": config["vocab_size"],
        "width": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "mlp_width": config["ffn_dim"],
        "embedding_width": config.get("word_embed_proj_dim") or config["hidden_size"],
        "max_positions": config.get("max_position_embeddings", 2048),
        "placement": "pre" if before else "post",
        "norm": "layer",
        "final_norm": before and not config.get("_remove_final_layer_norm", False),
        "positions": "learned",
        "position_offset": 2,
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp_bias": bias,
        "activation": activation(config.get("activation_function", "relu")),
        "tied": config.get("tie_word_embeddings", True),
    }


def mpt(config: Mapping[str, Any]) -> dict[str, Any]:
    """MPT as transformers has it, and MosaicGPT, whose attention options stand at the top."""
    mosaic = config["model_type"] == "mosaic_gpt"
    prefix = "attn_" if mosaic else ""
    attention = config if mosaic else {"alibi": True, **(config.get("attn_config") or {})}
    refuse(config, no_bias=True, embedding_fraction=1.0, logit_scale=None, tie_word_embeddings=True)
    if not attention.get("alibi", False):
        raise ValueError(f"{config['model_type']}: alibi=False is not implemented, only alibi=True.")
    for key in ("prefix_lm", f"{prefix}uses_sequence_id"):
        refuse({"model_type": config["model_type"], **attention}, **{key: False})
    width = config["d_model"]
    return {
        "vocab_size": config["vocab_size"],
        "width": width,
        "depth": config["n_layers"],
        "heads": config["n_heads"],
        "mlp_width": int(width * config.get("mlp_ratio" if mosaic else "expansion_ratio", 4)),
        "max_positions": config.get("max_seq_len", 2048),
        "norm": "layer",
        "norm_bias": False,
        "epsilon": config.get("layer_norm_epsilon", 1e-5),
        "positions": "alibi",
        "alibi_max": float(attention.get("alibi_bias_max", 8)),
        "attention_scale": attention.get("softmax_scale") or 0.0,
        "clip_qkv": attention.get(f"{prefix}clip_qkv") or 0.0,
        "qk_norm": "whole" if attention.get(f"{prefix}qk_ln") else "none",
        "activation": "gelu",
    }


# model_type -> config.json -> options
FAMILIES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3": lambda config: gemma3({**config["text_config"], "model_type": "gemma3_text"}),
    "gemma3_text": gemma3,
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "gptj": gptj,
    "granite": granite,
    "llama": llama,
    "mistral": lambda config: llama(config, **windowed(config, lambda i: True)),
    "mosaic_gpt": mpt,
    "mpt": mpt,
    "olmo2": lambda config: llama(config, placement="branch", qk_norm="whole"),
    "olmo3": olmo3,
    "opt": opt,
    "phi": phi,
    "phi3": lambda config: llama(config, **windowed(config, lambda i: True)),
    "qwen2": lambda config: qwen(config, qkv_bias=True),
    "qwen3": lambda config: qwen(config, qk_norm="head"),
    "smollm3": smollm3,
    "stablelm": stablelm,
}


def language_config(config: Mapping[str, Any]) -> LanguageConfig:
    """The decoder that a public ``config.json`` describes.

    Raises ValueError for a model type or an option that is not implemented, naming it and what is.
    """
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(f"model_type={kind!r} is not implemented as a language model; {suggest(kind, FAMILIES)}.")
    with needing(kind):
        return LanguageConfig(**FAMILIES[kind](config))
