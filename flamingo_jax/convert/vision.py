"""Public vision encoders: ``config.json`` -> our options, and tables of names."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from flamingo_jax.config import NFNetConfig, ViTConfig, suggest
from flamingo_jax.convert.public import activation, needing, read_json, refuse
from flamingo_jax.convert.rules import Rule, fused, linear, norm, prefixed

CLIP_PIXELS = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
IMAGENET_PIXELS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def _side(patch: int | tuple[int, int]) -> int:
    """Side of a patch, for which files may say [16, 16]."""
    sides = {patch} if isinstance(patch, int) else set(patch)
    if len(sides) > 1:
        raise ValueError(f"patch_size={patch} is not implemented, only square patches.")
    return sides.pop()


def _grid(size: int | tuple[int, int], patch: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height // _side(patch), width // _side(patch)


def _vit(config: Mapping[str, Any], **more) -> dict[str, Any]:
    """Options that all transformers spell alike."""
    refuse(config, num_channels=3)
    return {
        "width": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "patch_size": _side(config["patch_size"]),
        "epsilon": config.get("layer_norm_eps", 1e-6),
    } | more


def clip(config: Mapping[str, Any]) -> ViTConfig:
    given = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 32, **config}
    grid = _grid(given.get("image_size", 224), given["patch_size"])
    return ViTConfig(
        **_vit(given, epsilon=given.get("layer_norm_eps", 1e-5)),
        grid=grid,
        mlp_width=given.get("intermediate_size", 3072),
        activation=activation(given.get("hidden_act", "quick_gelu")),
        class_token=True,
        patch_bias=False,
        position_class=True,
        pre_norm=True,
        final_norm=False,
        pool="class",
        pool_norm=True,
        **CLIP_PIXELS,
    )


def siglip(config: Mapping[str, Any]) -> ViTConfig:
    """SigLIP, SigLIP 2 of one size, and NaFlex, whose table is a square of ``num_patches``."""
    given = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16, **config}
    naflex = config["model_type"].startswith("siglip2")
    side = int(given.get("num_patches", 256) ** 0.5)
    return ViTConfig(
        **_vit(given),
        grid=(side, side) if naflex else _grid(given.get("image_size", 224), given["patch_size"]),
        mlp_width=given.get("intermediate_size", 3072),
        activation=activation(given.get("hidden_act", "gelu_pytorch_tanh")),
        resize="bilinear_antialias" if naflex else "bicubic",
        pool="map" if given.get("vision_use_head", True) else "none",
    )


def dinov2(config: Mapping[str, Any]) -> ViTConfig:
    registered = config["model_type"] == "dinov2_with_registers"
    usual = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    given = {**usual, "patch_size": 16 if registered else 14, **config}
    hidden, bias = int(given["hidden_size"] * given.get("mlp_ratio", 4)), given.get("qkv_bias", True)
    gated = given.get("use_swiglu_ffn", False)
    return ViTConfig(
        **_vit(given),
        grid=_grid(given.get("image_size", 224), given["patch_size"]),
        mlp_width=(int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden,
        mlp="gated" if gated else "plain",
        activation="silu" if gated else activation(given.get("hidden_act", "gelu")),
        class_token=True,
        registers=given.get("num_register_tokens", 4) if registered else 0,
        position_class=True,
        query_bias=bias,
        key_bias=bias,
        value_bias=bias,
        layer_scale=True,
        resize="bicubic_antialias" if registered else "bicubic",
        pool="class",
        **IMAGENET_PIXELS,
    )


def dinov3(config: Mapping[str, Any]) -> ViTConfig:
    given = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 16, **config}
    return ViTConfig(
        **_vit(given, epsilon=given.get("layer_norm_eps", 1e-5)),
        grid=_grid(given.get("image_size", 224), given["patch_size"]),
        mlp_width=given.get("intermediate_size", 1536),
        mlp="gated" if given.get("use_gated_mlp", False) else "plain",
        mlp_bias=given.get("mlp_bias", True),
        activation=activation(given.get("hidden_act", "gelu")),
        class_token=True,
        registers=given.get("num_register_tokens", 0),
        positions="rope",
        rope_theta=given.get("rope_theta") or (given.get("rope_parameters") or {}).get("rope_theta", 100.0),
        query_bias=given.get("query_bias", True),
        key_bias=given.get("key_bias", False),
        value_bias=given.get("value_bias", True),
        out_bias=given.get("proj_bias", True),
        layer_scale=True,
        pool="class",
        **IMAGENET_PIXELS,
    )


# Options of OpenCLIP's towers, and of timm's NFNets, that change the numbers and have only their usual value here.
_OPEN_CLIP_USUAL = {
    "act_kwargs": {}, "attentional_pool": False, "final_ln_after_pool": False, "global_average_pool": False,
    "input_patchnorm": False, "ls_init_value": None, "no_ln_pre": False, "norm_kwargs": {},
    "pool_type": "tok", "pos_embed_type": "learnable",
}  # fmt: skip
_NFNET_USUAL = {
    "attn_layer": "se", "attn_gain": 2.0, "attn_kwargs": {"rd_ratio": 0.5}, "bottle_ratio": 0.5, "ch_div": 8,
    "extra_conv": True, "gamma_in_act": True, "reg": False, "same_padding": True, "skipinit": True,
    "stem_type": "deep_quad", "width_factor": 1.0,
}  # fmt: skip


def open_clip(config: Mapping[str, Any]) -> ViTConfig:
    """``open_clip_config.json``, or its ``model_cfg``."""
    model = config.get("model_cfg", config)
    tower = model["vision_cfg"]
    if isinstance(tower["layers"], (list, tuple)) or "timm_model_name" in tower:
        raise ValueError("open_clip: only the plain vision transformers are implemented, no ResNet and no timm tower.")
    refuse({"model_type": "open_clip", **tower}, **_OPEN_CLIP_USUAL)
    width, patch = tower["width"], _side(tower["patch_size"])
    pixels = config.get("preprocess_cfg") or {}
    return ViTConfig(
        width=width,
        depth=tower["layers"],
        heads=width // tower.get("head_width", 64),
        patch_size=patch,
        grid=_grid(tower.get("image_size", 224), patch),
        mlp_width=int(width * tower.get("mlp_ratio", 4.0)),
        activation="quick_gelu" if model.get("quick_gelu") else "gelu",
        epsilon=1e-5,
        class_token=True,
        patch_bias=False,
        position_class=True,
        pre_norm=True,
        resize="bicubic_antialias",
        final_norm=False,
        pool="class",
        pool_norm=True,
        projection=model["embed_dim"],
        **{key: tuple(pixels.get(key) or CLIP_PIXELS[key]) for key in ("mean", "std")},
    )


def nfnet(config: Mapping[str, Any]) -> NFNetConfig:
    """timm's ``dm_nfnet_f0`` .. ``f6`` by name, or by their sizes where the file gives them."""
    name = config["architecture"].split(".")[0]
    refuse({**config, "model_type": name}, **_NFNET_USUAL)
    if "depths" in config:
        stem, alpha = config["stem_chs"], config["alpha"]
        sizes = {"widths": tuple(config["channels"]), "depths": tuple(config["depths"])}
        expansion = int(config["num_features"])
        more = {"group_size": config["group_size"], "variance_epsilon": config["std_conv_eps"]}
    else:
        known = {f"dm_nfnet_f{i}": i for i in range(7)}
        if name not in known:
            raise ValueError(f"The architecture {name!r} is not implemented; {suggest(name, known)}.")
        scale = known[name] + 1
        stem, alpha, expansion = 128, 0.2, 3072
        sizes = {"widths": (256, 512, 1536, 1536), "depths": (scale, 2 * scale, 6 * scale, 3 * scale)}
        more = {"variance_epsilon": 1e-5}
    return NFNetConfig(
        **sizes,
        strides=(1, 2, 2, 2),
        stem=(stem // 8, stem // 4, stem // 2, stem),
        expansion=expansion,
        alpha=alpha,
        activation=activation(config.get("act_layer", "gelu")),
        variance_floor=0.0,
        **more,
    )


# model_type -> config.json -> options. Multimodal files have the encoder's under "vision_config".
FAMILIES: dict[str, Callable[[Mapping[str, Any]], ViTConfig]] = {
    "clip_vision_model": clip,
    "dinov2": dinov2,
    "dinov2_with_registers": dinov2,
    "dinov3_vit": dinov3,
    "siglip_vision_model": siglip,
    "siglip2_vision_model": siglip,
}
TOWERS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model", "siglip2": "siglip2_vision_model"}


def vision_config(config: Mapping[str, Any]) -> ViTConfig | NFNetConfig:
    """The encoder that a public config describes. Raises ValueError naming what is not implemented."""
    kind = config.get("model_type")
    with needing(kind or "a vision encoder"):
        if kind in TOWERS:
            return vision_config({**config["vision_config"], "model_type": TOWERS[kind]})
        if kind in FAMILIES:
            return FAMILIES[kind](config)
        if "vision_cfg" in config.get("model_cfg", config):
            return open_clip(config)
        if "architecture" in config:
            return nfnet(config)
    known = (*FAMILIES, *TOWERS, "open_clip", "dm_nfnet_f0 .. f6")
    raise ValueError(f"model_type={kind!r} is not implemented as a vision encoder; {suggest(kind, known)}.")


def with_pixels(path: pathlib.Path, config: ViTConfig | NFNetConfig) -> ViTConfig | NFNetConfig:
    """The encoder with the mean and spread of pixels that the folder's image processor has, where it has one.

    Raises ValueError when they are no three numbers.
    """
    file = path / "preprocessor_config.json"
    given = read_json(file) if file.exists() else {}
    pixels = {ours: given[f"image_{ours}"] for ours in ("mean", "std") if given.get(f"image_{ours}") is not None}
    try:
        pixels = {name: tuple(map(float, values)) for name, values in pixels.items()}
    except (TypeError, ValueError):
        raise ValueError(f"{file}: image_mean and image_std must be numbers.") from None
    if any(len(values) != 3 for values in pixels.values()) or min(pixels.get("std", (1.0,))) <= 0:
        raise ValueError(f"{file}: image_mean and image_std must be three numbers each, the latter above 0.")
    return dataclasses.replace(config, **pixels)


def transformers_blocks() -> list[Rule]:
    """A block of CLIP's and SigLIP's towers, of images and of text, as transformers names it."""
    blocks = norm("layer_norm1", "attention_norm") + norm("layer_norm2", "mlp_norm")
    for name, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")):
        blocks += linear(f"self_attn.{name}", f"attention/{ours}")
    return blocks + linear("mlp.fc1", "mlp/up") + linear("mlp.fc2", "mlp/down")


def transformers_rules(config: ViTConfig) -> list[Rule]:
    """CLIP and SigLIP as transformers names them."""
    patch = "transpose" if config.resize == "bilinear_antialias" else "conv"  # NaFlex has a matrix, not a convolution
    return [
        Rule("embeddings.class_embedding", "class", "vector"),
        Rule("embeddings.position_embedding.weight", "positions"),
        *linear("embeddings.patch_embedding", "patch", patch),
        *norm("pre_layrnorm", "pre_norm"),
        *prefixed(transformers_blocks(), "encoder.layers.{i}.", "layers/"),
        *norm("post_layernorm", "norm"),
        Rule("head.probe", "probe", "batch"),
        *_in_proj("head.attention", "pool_attention", config.width),
        *norm("head.layernorm", "pool_norm"),
        *linear("head.mlp.fc1", "pool_mlp/up"),
        *linear("head.mlp.fc2", "pool_mlp/down"),
    ]


def _in_proj(source: str, target: str, width: int) -> list[Rule]:
    """torch's ``MultiheadAttention``."""
    parts = {f"{target}/{name}": width for name in ("query", "key", "value")}
    return fused(f"{source}.in_proj", parts, dot="_") + linear(f"{source}.out_proj", f"{target}/out")


def dinov2_rules(config: ViTConfig) -> list[Rule]:
    blocks = norm("norm1", "attention_norm") + norm("norm2", "mlp_norm")
    for name in ("query", "key", "value"):
        blocks += linear(f"attention.attention.{name}", f"attention/{name}")
    blocks += linear("attention.output.dense", "attention/out")
    blocks += [Rule("layer_scale1.lambda1", "attention_scale"), Rule("layer_scale2.lambda1", "mlp_scale")]
    if config.mlp == "gated":
        blocks += fused("mlp.weights_in", {"mlp/gate": config.mlp_width, "mlp/up": config.mlp_width})
        blocks += linear("mlp.weights_out", "mlp/down")
    else:
        blocks += linear("mlp.fc1", "mlp/up") + linear("mlp.fc2", "mlp/down")
    return [
        Rule("embeddings.cls_token", "class", "batch"),
        Rule("embeddings.register_tokens", "registers", "batch"),
        Rule("embeddings.position_embeddings", "positions", "batch"),
        *linear("embeddings.patch_embeddings.projection", "patch", "conv"),
        *prefixed(blocks, "encoder.layer.{i}.", "layers/"),
        *norm("layernorm", "norm"),
    ]


def dinov3_rules(config: ViTConfig) -> list[Rule]:
    blocks = norm("norm1", "attention_norm") + norm("norm2", "mlp_norm")
    for name, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("o_proj", "out")):
        blocks += linear(f"attention.{name}", f"attention/{ours}")
    blocks += [Rule("layer_scale1.lambda1", "attention_scale"), Rule("layer_scale2.lambda1", "mlp_scale")]
    for name in ("gate", "up", "down"):
        blocks += linear(f"mlp.{name}_proj", f"mlp/{name}")
    return [
        Rule("embeddings.cls_token", "class", "batch"),
        Rule("embeddings.register_tokens", "registers", "batch"),
        *linear("embeddings.patch_embeddings", "patch", "conv"),
        *prefixed(blocks, "layer.{i}.", "layers/"),
        *norm("norm", "norm"),
    ]


def open_clip_blocks(width: int) -> list[Rule]:
    """A block of OpenCLIP's towers, of images and of text."""
    blocks = norm("ln_1", "attention_norm") + norm("ln_2", "mlp_norm") + _in_proj("attn", "attention", width)
    return blocks + linear("mlp.c_fc", "mlp/up") + linear("mlp.c_proj", "mlp/down")


def open_clip_rules(config: ViTConfig, prefix: str = "visual.") -> list[Rule]:
    rules = [
        Rule("class_embedding", "class", "vector"),
        Rule("positional_embedding", "positions"),
        *linear("conv1", "patch", "conv"),
        *norm("ln_pre", "pre_norm"),
        *prefixed(open_clip_blocks(config.width), "transformer.resblocks.{i}.", "layers/"),
        *norm("ln_post", "norm"),
        Rule("proj", "projection/kernel"),
    ]
    return prefixed(rules, prefix)


def _conv(source: str, target: str) -> list[Rule]:
    """A convolution with standardised weights and gains."""
    return [
        Rule(f"{source}.weight", f"{target}/kernel", "conv"),
        Rule(f"{source}.gain", f"{target}/gain", "gain"),
        Rule(f"{source}.bias", f"{target}/bias"),
    ]


def timm_rules(config: NFNetConfig) -> list[Rule]:
    block = [Rule("skipinit_gain", "skip_gain")]
    for name, ours in (("downsample.conv", "shortcut"), ("conv1", "reduce"), ("conv2", "conv_a"), ("conv2b", "conv_b")):
        block += _conv(name, ours)
    block += _conv("conv3", "expand")
    for name, ours in (("fc1", "squeeze"), ("fc2", "excite")):
        block += linear(f"attn_last.{name}", f"gate/{ours}", "pointwise")
    rules = _conv("final_conv", "expansion")
    for i in range(len(config.stem)):
        rules += _conv(f"stem.conv{i + 1}", f"stem_{i}")
    for stage, depth in enumerate(config.depths):
        rules += prefixed(block, f"stages.{stage}.0.", f"stage_{stage}_first/")
        others = "{i}" if depth > 2 else "1"  # a single one is not stacked
        rules += prefixed(block, f"stages.{stage}.{others}.", f"stage_{stage}_rest/", first=1)
    return rules


# How files name their tensors: spelling -> (rules of a config, what stands before the names, names of other towers).
SPELLINGS = {
    "transformers": (
        transformers_rules,
        r"vision_model\.",
        (r"^text_model\.", r"^logit_(scale|bias)$", r"^(visual|text)_projection\."),
    ),
    "dinov2": (dinov2_rules, r"dinov2(_with_registers)?\.", (r"mask_token$", r"^classifier\.")),
    "dinov3": (dinov3_rules, r"(dinov3_vit|model)\.", (r"mask_token$",)),
    "open_clip": (open_clip_rules, "", (r"^(?!visual\.)",)),
    "timm": (timm_rules, "", (r"^head\.",)),
}


def spelling(config: Mapping[str, Any]) -> str:
    """How the file of a public config names its tensors, a key of ``SPELLINGS``."""
    kind = config.get("model_type", "")
    if kind.startswith("dinov"):
        return kind[:6]
    return "timm" if "architecture" in config else "transformers" if kind else "open_clip"
