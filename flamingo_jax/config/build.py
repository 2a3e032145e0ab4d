"""A ``ConfigDict`` from ``configs/`` becomes frozen dataclasses, read once, at the door.

An unknown key, a missing key or a value of the wrong type is a ``ValueError`` that names the key's full path and its
neighbours.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from flamingo_jax.config.language import LanguageConfig
from flamingo_jax.config.model import PARTS, ResamplerConfig
from flamingo_jax.config.run import RunConfig
from flamingo_jax.config.suggest import suggest


def build(config: Mapping[str, Any], cls: type = RunConfig, path: str = "config"):
    """Turns a (Config)dict into ``cls``. Raises ValueError naming the path of an unknown, missing or mistyped key."""
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    built = _convert(config, cls, path)
    if isinstance(built, RunConfig):
        _check_names(built, path)
        _check_sizes(built, path)
    return built


# The smallest sensible value of a number, or of a tuple's numbers, by its name in whatever part of the config it is.
_AT_LEAST = (
    dict.fromkeys(
        "steps log_every batch_size queries max_new_tokens max_frames frames size length pack prefetch".split(), 1
    )
    | dict.fromkeys("vocab_size width depth heads head_size latents every embedding group_size patch_size".split(), 1)
    | dict.fromkeys("widths depths strides stem grid".split(), 1)
    | dict.fromkeys("media warmup text_shots weight expansion window first graft".split(), 0)
    | dict.fromkeys("row_length threads workers".split(), 0)
    | dict.fromkeys("shards image_copies paragraph_copies distance side deviation quality".split(), 0)
    | dict.fromkeys("min_words max_words min_word_length max_word_length max_symbols min_stop_words".split(), 0)
    | dict.fromkeys(["aspect", "microbatches"], 1)
    | dict.fromkeys("kv_heads vocab_rows mlp_width media_width embedding_width max_positions".split(), 0)
    | dict.fromkeys("position_offset registers projection".split(), 0)
    | dict.fromkeys("learning_rate clip epsilon softcap clip_qkv logit_softcap attention_scale".split(), 0)
    | dict.fromkeys("alibi_max variance_floor variance_epsilon magnitude original_length".split(), 0)
    | dict.fromkeys("fps embedding_scale residual_scale logit_scale temperature rope_theta std".split(), 1e-9)
)
_SHARES = frozenset(  # 0 to 1
    """
    stochastic_depth label_smoothing decay_fraction p_next leading_space max_bad b1 b2 language_score max_bullets
    max_ellipses min_alphabetic max_repeated_lines max_repeated_line_characters flip brightness contrast saturation
    max_unreadable
    """.split()
)
_MAY_BE_ZERO = {(ResamplerConfig, "frames"), (LanguageConfig, "head_size")}  # none, and the usual one


def _check_sizes(config: RunConfig, path: str) -> None:
    """Raises ValueError for sizes that do not fit each other."""
    model, resampler = config.model, config.model.resampler
    limits = {  # what examples have: (how many the model takes, 0 for any; where that stands; objectives)
        "length": (model.language.max_positions, "model.language.max_positions", ("language", "flamingo")),
        "media": (model.media, "model.media", ("flamingo",)),
        "frames": (resampler.frames if resampler else 0, "model.resampler.frames", ("flamingo",)),
    }
    for key, stage in config.stages.items():
        for name in (*stage.mixture, *stage.validation):
            if stage.objective != "language" and not config.datasets[name].example.media:
                raise ValueError(
                    f"{path}.stages.{key} shows media to a model, but {path}.datasets.{name}.example.media=0; give a "
                    f"number of media, or leave {name} out of the stage."
                )
            for field, (most, place, objectives) in limits.items():
                count = getattr(config.datasets[name].example, field)
                if stage.objective in objectives and 0 < most < count:
                    raise ValueError(
                        f"{path}.stages.{key} reads {name}, but {path}.datasets.{name}.example.{field}={count} is "
                        f"more than {path}.{place}={most}."
                    )
        sizes = {name: config.datasets[name].example.size for name in stage.mixture}
        if stage.mixing == "merged" and stage.objective == "contrastive" and len(set(sizes.values())) > 1:
            raise ValueError(
                f"{path}.stages.{key}.mixing='merged' puts all images into one batch, but {path}.datasets.*.example."
                f"size differs: {sizes}; make them equal."
            )
    if config.tokenizer.vocab_size > model.language.vocab_size:
        raise ValueError(
            f"{path}.tokenizer.vocab_size={config.tokenizer.vocab_size} is more than {path}.model.language.vocab_size="
            f"{model.language.vocab_size}."
        )
    shots = config.evaluation.shots
    if not shots or min(shots) < 0:
        raise ValueError(f"{path}.evaluation.shots must hold numbers that are not negative, but is {shots}.")


def _check_names(config: RunConfig, path: str) -> None:
    """Raises ValueError for a name that refers to nothing."""
    for name in config.order:
        if name not in config.stages:
            raise ValueError(f"{path}.order names {name!r}, which is not there; {suggest(name, config.stages)}.")
        if config.order.count(name) > 1:
            raise ValueError(f"{path}.order names {name!r} twice.")
    references = []
    references += [(f"{path}.tokenizer.datasets", name, config.datasets) for name in config.tokenizer.datasets]
    for field in ("image_dataset", "clip_dataset"):
        references.append((f"{path}.evaluation.{field}", getattr(config.evaluation, field), config.datasets))
    for key, stage in config.stages.items():
        references.append((f"{path}.stages.{key}.objective", stage.objective, ("language", "contrastive", "flamingo")))
        for field in ("mixture", "validation"):
            references += [(f"{path}.stages.{key}.{field}", name, config.datasets) for name in getattr(stage, field)]
        earlier = config.order[: config.order.index(key)] if key in config.order else tuple(config.stages)
        for part, name in stage.parts.items():
            if "/" not in name and name in config.stages and name not in earlier:
                raise ValueError(
                    f"{path}.stages.{key}.parts.{part} names the stage {name!r}, which {path}.order={config.order} "
                    f"does not run before {key!r}."
                )
            if "/" not in name:  # else a folder
                references.append((f"{path}.stages.{key}.parts.{part}", name, earlier))
        if stage.objective == "contrastive" and config.model.text_tower is None:
            raise ValueError(f"{path}.stages.{key} needs {path}.model.text_tower, which is not given.")
        references += [(f"{path}.stages.{key}.optimizer.rates", part, PARTS) for part in stage.optimizer.rates]
        still = sorted(stage.optimizer.rates.keys() & set(config.model.frozen))
        if still and stage.objective == "flamingo":
            raise ValueError(
                f"{path}.stages.{key}.optimizer.rates names {', '.join(map(repr, still))}, which {path}.model.frozen="
                f"{config.model.frozen} keeps from training."
            )
        if min(stage.optimizer.rates.values(), default=0) < 0:
            raise ValueError(
                f"{path}.stages.{key}.optimizer.rates must be at least 0, but are {stage.optimizer.rates}."
            )
        references += [(f"{path}.stages.{key}.parts", part, ("language", "vision")) for part in stage.parts]
        frozen = {"vision" if part == "vision" else "language" for part in config.model.frozen}
        if stage.objective == "flamingo" and (missing := frozen - stage.parts.keys()):
            raise ValueError(
                f"{path}.stages.{key}.parts lacks {' and '.join(sorted(missing))}, which config.model.frozen freezes: "
                "name the stage or the folder that it comes from."
            )
    for place, name, known in references:
        if name not in known:
            raise ValueError(f"{place} names {name!r}, which is not there; {suggest(name, known)}.")


def check_path(path: str, config: Mapping[str, Any] | None = None) -> None:
    """Raises ValueError when ``path`` (``config.mesh.data``) leads to no value that a config can have.

    Stages and datasets have names of their own: those of ``config``, where it is given.
    """
    kind, seen = RunConfig, "config"
    config = config.to_dict() if hasattr(config, "to_dict") else config
    is_known = config is not None
    for part in path.split(".")[1:]:
        kind = _pick(kind, config, seen)
        if is_known and config is None and (dataclasses.is_dataclass(kind) or typing.get_origin(kind) is Mapping):
            raise ValueError(f"{seen} is not in the config file; give it whole: --{seen}=\"{{'{part}': ...}}\".")
        if dataclasses.is_dataclass(kind):
            known = typing.get_type_hints(kind)
            if part not in known:
                raise ValueError(f"{seen}.{part} is unknown; {suggest(part, known)}.")
            kind = known[part]
        elif typing.get_origin(kind) is Mapping:
            if config is not None and part not in config:
                raise ValueError(f"{seen}.{part} is unknown; {suggest(part, config)}.")
            kind = typing.get_args(kind)[1]
        else:
            raise ValueError(f"{seen} is a single value and has no {part!r}.")
        seen += f".{part}"
        config = config.get(part) if isinstance(config, Mapping) else None


def to_json(config: Any) -> str:
    """The configuration as stable, readable JSON: what a run writes into its folder and compares on the next start."""
    return json.dumps(dataclasses.asdict(config), indent=2, sort_keys=True)


def _convert(value: Any, kind: Any, path: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None and type(None) in args else _convert(value, _pick(kind, value, path), path)
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(value, kind, path)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        _require(isinstance(value, Mapping), value, "a dictionary", path)
        return {key: _convert(item, args[1], f"{path}.{key}") for key, item in value.items()}
    if origin is tuple:
        _require(isinstance(value, (tuple, list)), value, "a tuple", path)
        kinds = [args[0]] * len(value) if args[1:] == (...,) else list(args)
        _require(len(kinds) == len(value), value, f"a tuple of {len(kinds)}", path)
        return tuple(_convert(item, k, f"{path}[{i}]") for i, (item, k) in enumerate(zip(value, kinds, strict=True)))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    what = "True or False" if kind is bool else kind.__name__
    _require(isinstance(value, kind) and not (kind is int and isinstance(value, bool)), value, what, path)
    return value


def _convert_dataclass(value: Any, cls: type, path: str):
    _require(isinstance(value, Mapping), value, "a dictionary", path)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in value:
        if key not in fields:
            raise ValueError(f"{path}.{key} is unknown; {suggest(key, fields)}.")
    required = [
        name
        for name, field in fields.items()
        if field.default is field.default_factory is dataclasses.MISSING and name not in value
    ]
    if required:
        raise ValueError(f"{path} lacks {', '.join(required)}; add {'it' if len(required) == 1 else 'them'}.")
    values = {key: _convert(item, hints[key], f"{path}.{key}") for key, item in value.items()}
    for key, item in values.items():
        least = 0 if (cls, key) in _MAY_BE_ZERO else _AT_LEAST.get(key)
        numbers = item if isinstance(item, tuple) else (item,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ValueError(f"{path}.{key} must be a finite number, but is {item}.")
        if least is not None and not all(number >= least for number in numbers):
            raise ValueError(f"{path}.{key} must be at least {least}, but is {item}.")
        if key in _SHARES and not 0 <= item <= 1:
            raise ValueError(f"{path}.{key} must be a share, 0 to 1, but is {item}.")
    try:
        return cls(**values)
    except ValueError as error:  # the dataclass checks what its values have to do with each other
        raise ValueError(f"{path}: {error}") from None


def _pick(kind: Any, value: Any, path: str) -> Any:
    """The member of ``X | None`` or ``X | Y`` that ``value`` means: dataclasses say which they are by ``kind``."""
    if typing.get_origin(kind) not in (types.UnionType, typing.Union):
        return kind
    members = [member for member in typing.get_args(kind) if member is not type(None)]
    if len(members) > 1 and isinstance(value, Mapping) and "kind" in value:
        kinds = {member.kind: member for member in members}
        if value["kind"] not in kinds:
            raise ValueError(f"{path}.kind={value['kind']!r} is unknown; {suggest(value['kind'], kinds)}.")
        return kinds.get(value["kind"], members[0])
    return members[0]


def _require(condition: bool, value: Any, what: str, path: str) -> None:
    if not condition:
        raise ValueError(f"{path} must be {what}, but is {value!r} ({type(value).__name__}).")
