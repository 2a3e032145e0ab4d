"""Public language models -> the bare decoder's weights: one table of names per spelling."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from flamingo_jax.config import LanguageConfig
from flamingo_jax.convert.rules import Rule, fused, linear, norm, prefixed

_QKV = ("query", "key", "value")


def _sizes(config: LanguageConfig) -> dict[str, int]:
    """Rows of the projections that are stored as one."""
    heads = (config.heads, config.kv_heads, config.kv_heads)
    return {f"attention/{name}": count * config.head_size for name, count in zip(_QKV, heads, strict=True)}


def _separate(at: str) -> list[Rule]:
    """Queries, keys and values that are stored one by one."""
    return [rule for name in _QKV for rule in linear(f"{at}.{name[0]}_proj", f"attention/{name}")]


def _decoder(blocks: list[Rule], at: str, outside: list[Rule]) -> list[Rule]:
    """Rules of the blocks, whose names begin with ``at``, and those outside of them."""
    return outside + prefixed(blocks, f"{at}.{{i}}.", "language/blocks/")


# Where the norms of a block are, by placement: {public: ours}.
_NORMS = {
    "pre": {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"},
    "parallel": {"input_layernorm": "attention_norm"},
    "branch": {"post_attention_layernorm": "attention_norm", "post_feedforward_layernorm": "mlp_norm"},
    "sandwich": {
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "attention_post_norm",
        "pre_feedforward_layernorm": "mlp_norm",
        "post_feedforward_layernorm": "mlp_post_norm",
    },
}


def llama_rules(config: LanguageConfig) -> list[Rule]:
    """LLaMA's names, and those of its many variants."""
    blocks = _separate("self_attn")
    for name, ours in (("q", "query"), ("k", "key")):
        blocks += norm(f"self_attn.{name}_norm", f"attention/{ours}_norm")
    blocks += linear("self_attn.o_proj", "attention/out")
    for name in ("gate", "up", "down"):
        blocks += linear(f"mlp.{name}_proj", f"mlp/{name}")
    for name, ours in _NORMS[config.placement].items():
        blocks += norm(name, ours)
    outside = [Rule("embed_tokens.weight", "embedding/table"), Rule("lm_head.weight", "embedding/head")]
    return _decoder(blocks, "layers", outside + norm("norm", "norm"))


def phi3_rules(config: LanguageConfig) -> list[Rule]:
    return llama_rules(config) + prefixed(
        fused("self_attn.qkv_proj", _sizes(config))
        + fused("mlp.gate_up_proj", {"mlp/gate": config.mlp_width, "mlp/up": config.mlp_width}),
        "layers.{i}.",
        "language/blocks/",
    )


def stablelm_rules(config: LanguageConfig) -> list[Rule]:
    per_head = [
        Rule(f"self_attn.{name}_layernorm.norms.{{h}}.weight", f"attention/{ours}_norm/scale")
        for name, ours in (("q", "query"), ("k", "key"))
    ]
    return llama_rules(config) + prefixed(per_head, "layers.{i}.", "language/blocks/")


def phi_rules(config: LanguageConfig) -> list[Rule]:
    blocks = linear("self_attn.dense", "attention/out") + linear("mlp.fc1", "mlp/up") + linear("mlp.fc2", "mlp/down")
    blocks += _separate("self_attn")
    for name, ours in (("q", "query"), ("k", "key")):
        blocks += norm(f"self_attn.{name}_layernorm", f"attention/{ours}_norm")
    blocks += norm("input_layernorm", "attention_norm")
    outside = [Rule("embed_tokens.weight", "embedding/table"), *_head("lm_head")]
    return _decoder(blocks, "layers", outside + norm("final_layernorm", "norm"))


def _head(name: str) -> list[Rule]:
    return [Rule(f"{name}.weight", "embedding/head"), Rule(f"{name}.bias", "embedding/head_bias")]


def gpt_neox_rules(config: LanguageConfig) -> list[Rule]:
    blocks = []
    for part, ours in enumerate(_QKV):
        source, target = "attention.query_key_value", f"attention/{ours}"
        blocks += [
            Rule(f"{source}.weight", f"{target}/kernel", "interleaved", part=part),
            Rule(f"{source}.bias", f"{target}/bias", "interleaved", part=part),
        ]
    blocks += linear("attention.dense", "attention/out")
    blocks += linear("mlp.dense_h_to_4h", "mlp/up") + linear("mlp.dense_4h_to_h", "mlp/down")
    blocks += norm("input_layernorm", "attention_norm") + norm("post_attention_layernorm", "mlp_norm")
    outside = [Rule("embed_in.weight", "embedding/table"), *_head("lm_head")]
    return _decoder(blocks, "layers", outside + norm("final_layer_norm", "norm"))


def gptj_rules(config: LanguageConfig) -> list[Rule]:
    blocks = linear("attn.out_proj", "attention/out") + linear("mlp.fc_in", "mlp/up") + linear("mlp.fc_out", "mlp/down")
    blocks += _separate("attn")
    outside = [Rule("wte.weight", "embedding/table"), *_head("lm_head")]
    return _decoder(blocks + norm("ln_1", "attention_norm"), "h", outside + norm("ln_f", "norm"))


def gpt2_rules(config: LanguageConfig) -> list[Rule]:
    """GPT-2 stores its matrices as (in, out)."""
    blocks = fused("attn.c_attn", _sizes(config), op="copy", axis=1) + linear("attn.c_proj", "attention/out", "copy")
    blocks += linear("mlp.c_fc", "mlp/up", "copy") + linear("mlp.c_proj", "mlp/down", "copy")
    blocks += norm("ln_1", "attention_norm") + norm("ln_2", "mlp_norm")
    outside = [Rule("wte.weight", "embedding/table"), Rule("wpe.weight", "embedding/positions"), *_head("lm_head")]
    return _decoder(blocks, "h", outside + norm("ln_f", "norm"))


def opt_rules(config: LanguageConfig) -> list[Rule]:
    blocks = linear("self_attn.out_proj", "attention/out") + linear("fc1", "mlp/up") + linear("fc2", "mlp/down")
    blocks += _separate("self_attn")
    blocks += norm("self_attn_layer_norm", "attention_norm") + norm("final_layer_norm", "mlp_norm")
    outside = [
        Rule("embed_tokens.weight", "embedding/table"),
        Rule("embed_positions.weight", "embedding/positions"),
        Rule("project_in.weight", "embedding/widen", "transpose"),
        Rule("project_out.weight", "embedding/narrow", "transpose"),
        *_head("lm_head"),
    ]
    return _decoder(blocks, "layers", outside + norm("final_layer_norm", "norm"))


def _mpt_rules(config: LanguageConfig, norms: tuple[str, str], up: str, down: str, final: str) -> list[Rule]:
    blocks = fused("attn.Wqkv", _sizes(config)) + linear("attn.out_proj", "attention/out")
    blocks += linear(up, "mlp/up") + linear(down, "mlp/down")
    blocks += norm(norms[0], "attention_norm") + norm(norms[1], "mlp_norm")
    blocks += norm("attn.q_ln", "attention/query_norm") + norm("attn.k_ln", "attention/key_norm")
    outside = [Rule("wte.weight", "embedding/table"), Rule("wpe.weight", "embedding/positions"), *_head("lm_head")]
    return _decoder(blocks, "blocks", outside + norm(final, "norm"))


def mpt_rules(config: LanguageConfig) -> list[Rule]:
    return _mpt_rules(config, ("norm_1", "norm_2"), "ffn.up_proj", "ffn.down_proj", "norm_f")


def mosaic_rules(config: LanguageConfig) -> list[Rule]:
    return _mpt_rules(config, ("ln_1", "ln_2"), "mlp.mlp_up", "mlp.mlp_down", "ln_f")


# model_type -> (rules of a config, what stands before the names); the families that are not here are LLaMA's.
RULES = {
    "gpt2": (gpt2_rules, r"transformer\."),
    "gpt_neox": (gpt_neox_rules, r"gpt_neox\."),
    "gptj": (gptj_rules, r"transformer\."),
    "mosaic_gpt": (mosaic_rules, r"transformer\."),
    "mpt": (mpt_rules, r"transformer\."),
    "opt": (opt_rules, r"(model\.)?decoder\."),
    "phi": (phi_rules, r"model\."),
    "phi3": (phi3_rules, r"model\."),
    "stablelm": (stablelm_rules, r"model\."),
}


def language_rules(public: Mapping[str, Any], config: LanguageConfig) -> tuple[list[Rule], Callable[[str], str]]:
    """(rules, renaming from a file's names to the rules') of the family of a ``public`` config."""
    usual = (llama_rules, r"(model\.language_model|language_model\.model|model)\.")
    table, strip = RULES.get(public["model_type"], usual)
    rules = table(config)
    if public.get("scale_attn_by_inverse_layer_idx"):  # GPT-2's scores in layer i are divided by i + 1: its queries are
        rules = [dataclasses.replace(rule, falling="attention/query/" in rule.target) for rule in rules]
    # The head of GPT-NeoX has two names.
    return rules, lambda name: re.sub(r"^embed_out\.", "lm_head.", re.sub(f"^({strip})", "", name))


def ignored(config: LanguageConfig) -> tuple[str, ...]:
    """Tensors of a checkpoint that repeat another one."""
    return (r"^lm_head\.weight$",) if config.tied else ()


# What stands before the names in files of today; the families that are not here have LLaMA's "model.".
_PREFIXES = {"gpt2": "transformer.", "gpt_neox": "gpt_neox.", "gptj": "transformer.", "mosaic_gpt": "transformer."}
_PREFIXES |= {"mpt": "transformer.", "opt": "model.decoder."}


def public_name(kind: str, name: str) -> str:
    """The name in a file of the family ``kind`` of what the rules call ``name``."""
    if name.startswith("lm_head."):
        return name.replace("lm_head.", "embed_out.") if kind == "gpt_neox" else name
    return _PREFIXES.get(kind, "model.") + name
