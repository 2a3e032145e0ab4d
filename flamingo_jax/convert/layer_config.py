"""What differs between the layers of a public language model, and their rotary positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flamingo_jax.config import LayerConfig, RopeConfig, suggest

# Public names of rope's scalings -> ours. "dynamic" changes nothing up to max_position_embeddings, which bounds ours.
SCALINGS = {
    "default": "none",
    "dynamic": "none",
    "linear": "linear",
    "llama3": "llama3",
    "longrope": "longrope",
    "su": "longrope",
    "yarn": "yarn",
}


def rope(
    config: Mapping[str, Any], part: str | None = None, theta: float = 10000.0, fraction: float = 1.0
) -> RopeConfig:
    """Rotary options: ``rope_parameters`` (today; ``part``: of a kind of layer) or ``rope_theta``, ``rope_scaling``."""
    given = config.get("rope_parameters") or {}
    if part in given:
        given = given[part]
    if not given:
        given = {"rope_theta": config.get("rope_theta", theta), **(config.get("rope_scaling") or {})}
    kind, family = given.get("rope_type", given.get("type", "default")), config["model_type"]
    if kind not in SCALINGS:
        raise ValueError(f"{family}: the rope scaling {kind!r} is not implemented; {suggest(kind, SCALINGS)}.")
    longest = config.get("max_position_embeddings", 0)
    if kind == "dynamic" and not longest:
        raise ValueError(f"{family}: rope scaling 'dynamic' needs max_position_embeddings.")
    scaling = SCALINGS["longrope" if kind == "yarn" and family == "phi3" else kind]  # Phi 3's older name for it
    options = {
        "theta": float(given.get("rope_theta", config.get("rope_theta", theta))),
        "fraction": given.get("partial_rotary_factor", config.get("partial_rotary_factor", fraction)),
    }
    if scaling == "none":
        return RopeConfig(**options)
    key = "original_max_position_embeddings"
    original, factor = config.get(key) or given.get(key) or longest, given.get("factor")
    if factor is None and scaling in ("yarn", "longrope") and original:
        factor = longest / original
    if factor is None:
        raise ValueError(f"{family}: rope scaling {kind!r} needs its factor.")
    factor = float(factor)
    options |= {"scaling": scaling, "factor": factor}
    if scaling != "linear":
        options["original_length"] = int(original)
    if scaling == "llama3":
        options["low_frequency"] = float(given.get("low_freq_factor", 1.0))
        options["high_frequency"] = float(given.get("high_freq_factor", 4.0))
    if scaling == "longrope":
        options["short"], options["long"] = (tuple(map(float, given[f"{name}_factor"])) for name in ("short", "long"))
        spread = math.sqrt(1 + math.log(factor) / math.log(original)) if min(factor, original) > 1 else 1.0
        options["magnitude"] = float(given.get("attention_factor") or spread)
    if scaling == "yarn":
        options["beta_fast"] = float(given.get("beta_fast") or 32.0)
        options["beta_slow"] = float(given.get("beta_slow") or 1.0)
        options["truncate"] = given.get("truncate", True)
        options["magnitude"] = _yarn_magnitude(given, factor)
    return RopeConfig(**options)


def _yarn_magnitude(given: Mapping[str, Any], factor: float) -> float:
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
    if len(kinds) != config["num_hidden_layers"]:
        raise ValueError(
            f"{config['model_type']}: layer_types has {len(kinds)} entries for {config['num_hidden_layers']} layers."
        )
    for kind in kinds:
        if kind not in ("sliding_attention", "full_attention"):
            raise ValueError(
                f"{config['model_type']}: the layer type {kind!r} is not implemented; "
                "known here: full_attention, sliding_attention."
            )
    return tuple(kind == "sliding_attention" for kind in kinds)


def layers(each: Iterable[LayerConfig]) -> dict[str, Any]:
    """``layers`` and ``pattern`` of a model with these layers, bottom to top."""
    each = tuple(each)
    kinds = tuple(dict.fromkeys(each))
    return {"layers": kinds, "pattern": tuple(map(kinds.index, each)) if len(kinds) > 1 else (0,)}


def windowed(config: Mapping[str, Any], local: Callable[[int], bool], **options) -> dict[str, Any]:
    """Layers with one kind of rope, some of them with ``sliding_window``."""
    turned, window = rope(config, **options), config.get("sliding_window") or 0
    return layers(LayerConfig(window * is_local, turned) for is_local in windows(config, local))
