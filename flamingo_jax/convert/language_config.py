"""``config.json`` of a public language model, in the older or today's spelling, -> ``LanguageConfig``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flamingo_jax.config import LanguageConfig, LayerConfig, RopeConfig, suggest
from flamingo_jax.convert.layer_config import layers, rope, windowed, windows
from flamingo_jax.convert.public import activation, needing, refuse


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
    act = config.get("hidden_activation")
    if config["model_type"] == "gemma":  # whose first files say "gelu" and mean the approximation by tanh
        act = act or config.get("hidden_act")
        act = "gelu_pytorch_tanh" if act == "gelu" else act
    options = {"unit_offset": True, "embedding_scale": config["hidden_size"] ** 0.5}
    return llama(config, **options, activation=activation(act or "gelu_pytorch_tanh"), **more)


def gemma2(config: Mapping[str, Any], **more) -> dict[str, Any]:
    return gemma(
        config,
        placement="sandwich",
        attention_scale=config["query_pre_attn_scalar"] ** -0.5,
        logit_softcap=config.get("final_logit_softcapping") or 0.0,
        **{
            "softcap": config.get("attn_logit_softcapping") or 0.0,
            **windowed(config, lambda i: i % 2 == 0),
            **more,
        },
    )


def gemma3(config: Mapping[str, Any]) -> dict[str, Any]:
    every = config.get("sliding_window_pattern", 6)
    if config.get("rope_parameters"):
        full, local = (rope(config, part) for part in ("full_attention", "sliding_attention"))
    else:
        full = rope(config, theta=1e6)
        local = RopeConfig(theta=config.get("rope_local_base_freq", 10000.0))
    kinds = (LayerConfig(0, full), LayerConfig(config["sliding_window"] or 0, local))
    sliding = windows(config, lambda i: (i + 1) % every != 0)
    # The library has no soft cap in Gemma 3's attention, whatever its config says.
    return gemma2(config, qk_norm="head", softcap=0.0, **layers(kinds[is_local] for is_local in sliding))


def olmo3(config: Mapping[str, Any]) -> dict[str, Any]:
    full = rope(config, "full_attention", theta=5e5)
    nested = "sliding_attention" in (config.get("rope_parameters") or {})
    local = rope(config, "sliding_attention") if nested else RopeConfig(theta=full.theta)
    sliding = windows(config, lambda i: (i + 1) % 4 != 0)
    kinds = (LayerConfig(0, full), LayerConfig(config["sliding_window"] or 0, local))
    return llama(config, placement="branch", qk_norm="whole", **layers(kinds[is_local] for is_local in sliding))


def smollm3(config: Mapping[str, Any]) -> dict[str, Any]:
    depth, every = config["num_hidden_layers"], config.get("no_rope_layer_interval", 4)
    has_rope = config.get("no_rope_layers") or [int((i + 1) % every != 0) for i in range(depth)]  # 1: has rope
    turned, window = rope(config, theta=2e6), config.get("sliding_window") if config.get("use_sliding_window") else 0
    sliding = windows(config, lambda i: not has_rope[i])
    kinds = (
        LayerConfig((window or 0) * is_local, turned if turns else None)
        for is_local, turns in zip(sliding, has_rope, strict=True)
    )
    return llama(config, **layers(kinds))


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
        out_bias=False,
        placement="parallel" if config.get("use_parallel_residual") else "pre",
        qk_norm="heads" if config.get("qk_layernorm") else "none",
        layers=(LayerConfig(rope=rope(config, fraction=0.25)),),
    )


def phi(config: Mapping[str, Any]) -> dict[str, Any]:
    return layer_norm(
        config,
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
        config,
        placement="parallel_two" if config.get("use_parallel_residual", True) else "pre",
        qkv_bias=bias,
        out_bias=bias,
        layers=(LayerConfig(rope=rope(given, fraction=config.get("rotary_pct", 0.25))),),
    )


def gptj(config: Mapping[str, Any]) -> dict[str, Any]:
    size = config["n_embd"] // config["n_head"]
    turned = RopeConfig(fraction=(config["rotary_dim"] or size) / size, interleaved=True)
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
        "max_positions": config["n_positions"],
        "norm": "layer",
        "epsilon": config.get("layer_norm_epsilon", 1e-5),
        "positions": "learned",
        "activation": activation(config.get("activation_function", "gelu_new")),
        "mlp_bias": True,
        "tied": config.get("tie_word_embeddings", True),
    } | more


def gpt2(config: Mapping[str, Any]) -> dict[str, Any]:
    refuse(config, add_cross_attention=False)
    scale = 0.0 if config.get("scale_attn_weights", True) else 1.0
    return gpt(config, qkv_bias=True, out_bias=True, attention_scale=scale)


def opt(config: Mapping[str, Any]) -> dict[str, Any]:
    before, bias = config.get("do_layer_norm_before", True), config.get("enable_bias", True)
    affine = config.get("layer_norm_elementwise_affine", True)
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
        "norm_scale": affine,
        "norm_bias": affine,
        "final_norm": before and not config.get("_remove_final_layer_norm", False),
        "positions": "learned",
        "position_offset": 2,
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp_bias": bias,
        "activation": activation(config.get("activation_function", "relu")),
        "tied": config.get("tie_word_embeddings", True),
    }


# What transformers' own MPT ("MptForCausalLM") takes from a config; it computes the rest as MPT-7B does.
_MPT_KEYS = ("d_model", "n_heads", "n_layers", "vocab_size", "max_seq_len", "layer_norm_epsilon", "tie_word_embeddings")


def mpt(config: Mapping[str, Any]) -> dict[str, Any]:
    """MPT as its makers have it, or as transformers has it; and MosaicGPT, whose attention options stand at the top."""
    mosaic = config["model_type"] == "mosaic_gpt"
    prefix = "attn_" if mosaic else ""
    attention = config if mosaic else {"alibi": True, **(config.get("attn_config") or {})}
    refuse(config, embedding_fraction=1.0)
    for key in ("prefix_lm", "attn_uses_sequence_id"):
        refuse({"model_type": config["model_type"], **attention}, **{key: False})
    if any(name.startswith("Mpt") for name in config.get("architectures") or ()):
        attention = {"alibi": True, **{key: attention.get(key) for key in ("clip_qkv", "softmax_scale")}}
        config = {"model_type": "mpt", **{key: config[key] for key in _MPT_KEYS if key in config}}
    width, bias, scale = config["d_model"], not config.get("no_bias", True), config.get("logit_scale")
    learned = "learned" if config.get("learned_pos_emb", True) else "none"
    return {
        "vocab_size": config["vocab_size"],
        "width": width,
        "depth": config["n_layers"],
        "heads": config["n_heads"],
        "mlp_width": int(width * config.get("mlp_ratio" if mosaic else "expansion_ratio", 4)),
        "max_positions": config.get("max_seq_len", 2048),
        "norm": "layer",
        "norm_bias": bias,
        "epsilon": config.get("layer_norm_epsilon", 1e-5),
        "positions": "alibi" if attention.get("alibi", False) else learned,
        "alibi_max": float(attention.get("alibi_bias_max", 8)),
        "attention_scale": attention.get("softmax_scale") or 0.0,
        "clip_qkv": attention.get(f"{prefix}clip_qkv") or 0.0,
        "qk_norm": "whole" if attention.get(f"{prefix}qk_ln") else "none",
        "qk_norm_bias": bias,
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp_bias": bias,
        "activation": "gelu",
        "tied": config.get("tie_word_embeddings", True),
        "logit_scale": width**-0.5 if scale == "inv_sqrt_d_model" else float(scale or 1.0),
    }


# What a family's config means where it is silent and does not mean what LLaMA's would.
USUAL: dict[str, dict[str, Any]] = {
    "gemma": {"num_key_value_heads": 16, "head_dim": 256, "tie_word_embeddings": True},
    "gemma2": {"num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True, "query_pre_attn_scalar": 256}
    | {"sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": {"num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True}
    | {"query_pre_attn_scalar": 256, "sliding_window": 4096, "num_attention_heads": 8, "vocab_size": 262208}
    | {"max_position_embeddings": 131072},
    "gpt2": {"n_positions": 1024},
    "gpt_neox": {"hidden_act": "gelu"},
    "gptj": {"n_positions": 2048, "rotary_dim": 64},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "olmo2": {"rms_norm_eps": 1e-5},
    "olmo3": {"rms_norm_eps": 1e-5, "sliding_window": 4096},
    "phi": {"hidden_act": "gelu_new"},
    "phi3": {"rms_norm_eps": 1e-5},
    "qwen2": {"sliding_window": 4096},
    "qwen3": {"head_dim": 128, "sliding_window": 4096},
    "smollm3": {"num_key_value_heads": 4, "tie_word_embeddings": True},
}


def gemma3_text_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The text model of a Gemma 3 for text and images."""
    return gemma3({**USUAL["gemma3_text"], **config["text_config"], "model_type": "gemma3_text"})


def all_windowed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Mistral and Phi 3: the window is every layer's, whatever ``layer_types`` says, and there are no biases."""
    kinds = windowed({**config, "layer_types": None}, lambda i: True)
    return llama(config, qkv_bias=False, out_bias=False, mlp_bias=False, **kinds)


# model_type -> config.json -> options
FAMILIES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3": gemma3_text_of,
    "gemma3_text": gemma3,
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "gptj": gptj,
    "granite": granite,
    "llama": llama,
    "mistral": all_windowed,
    "mosaic_gpt": mpt,
    "mpt": mpt,
    "olmo2": lambda config: llama(config, placement="branch", qk_norm="whole"),
    "olmo3": olmo3,
    "opt": opt,
    "phi": phi,
    "phi3": all_windowed,
    "qwen2": lambda config: qwen(config, qkv_bias=True, out_bias=False),
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
        return LanguageConfig(**FAMILIES[kind]({**USUAL.get(kind, {}), **config}))
