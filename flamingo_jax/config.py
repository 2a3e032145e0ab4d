"""Typed configuration: a ``ConfigDict`` from ``configs/`` becomes frozen dataclasses, read once, at the door.

Every part of the package takes the small dataclass that concerns it and nothing else. An unknown key, a missing key or
a value of the wrong type is a ``ValueError`` that names the key's full path and its neighbours.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """The procedural world of the miniature (``data/world``): how many raw files of each kind are made."""

    seed: int = 0
    images_per_concept: int = 40
    pages: int = 4000
    align: int = 4000
    ltip: int = 4000
    clips: int = 800
    texts: int = 8000
    queries: int = 200
    supports: int = 96
    binding_images: int = 8


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """A byte-level BPE tokenizer trained on the text of ``datasets``, or read from ``path`` when that is given."""

    vocab_size: int
    datasets: tuple[str, ...] = ()
    path: str = ""


@dataclasses.dataclass(frozen=True)
class ExampleConfig:
    """Shape of a dataset's examples and the coin flips that make them (paper 2.4, A.3).

    length: L, tokens. media: N per example. frames: T per medium. size: side S of the padded square, pixels.
    p_next: probability that a page's text refers to the *next* image instead of the previous one.
    leading_space: probability of one space before a caption (paired data).
    fill: the mean value, 0..255 per channel, that pads images and stands for absent ones.
    """

    length: int
    media: int = 1
    frames: int = 1
    size: int = 320
    p_next: float = 0.5
    leading_space: float = 0.0
    fill: tuple[int, int, int] = (124, 116, 104)


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """One dataset: where its raw files are, how they become records, and what its examples look like.

    format: html | tar | video | text. source: a glob; ``{workdir}`` stands for the run's folder.
    """

    format: str
    source: str
    example: ExampleConfig
    shards: int = 2
    size: int = 320
    fps: float = 1.0
    max_frames: int = 32


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """A pre-norm causal decoder. width D, depth (blocks), heads H; the feed-forward is ``4 * width`` wide.

    activation: gelu | squared_relu. smear: keys mix in the key before them, which makes copying in context easy to
    learn for a model of few layers and little training (Olsson et al. 2022, "smeared keys").
    """

    vocab_size: int
    width: int
    depth: int
    heads: int
    activation: str = "gelu"
    smear: bool = False
    rope_theta: float = 10000.0


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """A normaliser-free ResNet (Brock et al. 2021). One entry per stage; ``expansion`` is the final 1x1 convolution.

    activation: gelu | relu.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    strides: tuple[int, ...]
    stem: tuple[int, ...]
    group_size: int = 128
    expansion: int = 0
    alpha: float = 0.2
    activation: str = "gelu"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class ResamplerConfig:
    """The Perceiver Resampler (paper 2.1). latents R per medium; ``frames`` learnt temporal embeddings."""

    width: int
    depth: int
    heads: int
    head_size: int
    latents: int = 64
    frames: int = 8


@dataclasses.dataclass(frozen=True)
class GatedConfig:
    """Gated cross-attention (paper 2.2) before every ``every``-th language block; tanh gates start at ``gate_init``."""

    every: int
    heads: int
    head_size: int
    gate_init: float = 0.0


@dataclasses.dataclass(frozen=True)
class TextTowerConfig:
    """The bidirectional text encoder of the contrastive stage, and the joint embedding's width."""

    width: int
    depth: int
    heads: int
    embedding: int
    temperature: float = 0.07
    label_smoothing: float = 0.1


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """All modules. ``dtype`` is the type of activations and of frozen weights; trainable weights are float32."""

    language: LanguageConfig
    vision: VisionConfig
    resampler: ResamplerConfig
    gated: GatedConfig
    text_tower: TextTowerConfig
    dtype: str = "bfloat16"
    remat: bool = True


@dataclasses.dataclass(frozen=True)
class MixConfig:
    """One dataset's part in a stage: global batch size B and the weight lambda of its gradient."""

    batch_size: int
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with global-norm clipping. The rate rises linearly over ``warmup`` steps, stays constant, and falls
    linearly to zero over the last ``decay_fraction`` of the run (0: never, as in the paper)."""

    learning_rate: float = 1e-4
    warmup: int = 5000
    decay_fraction: float = 0.0
    weight_decay: float = 0.1
    clip: float = 1.0
    b1: float = 0.9
    b2: float = 0.999


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One training stage: an objective (language | contrastive | flamingo), a mixture, an optimizer and its length.

    parts: what a flamingo stage freezes, as {"language": STAGE, "vision": STAGE}, the stages whose results it takes.
    """

    objective: str
    steps: int
    mixture: Mapping[str, MixConfig]
    optimizer: OptimizerConfig
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    log_every: int = 20
    checkpoint_every_seconds: float = 60.0


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Few-shot evaluation: which tasks, how many shots, how many queries per task, and the prompt templates.

    benchmarks: folder of ``TASK/{support,query}.jsonl``. image_dataset, clip_dataset: the datasets whose settings say
    how pictures and clips are shown to the model.
    """

    tasks: tuple[str, ...]
    benchmarks: str
    image_dataset: str
    clip_dataset: str
    shots: tuple[int, ...] = (0, 1, 2, 4, 8)
    queries: int = 200
    batch_size: int = 50
    max_new_tokens: int = 16
    caption_template: str = "Output: {answer}"
    vqa_template: str = "Question: {question} Answer: {answer}"
    text_shots: int = 2  # text-only examples at 0 shots in open-ended tasks (paper, appendix B.1.5)
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; -1 takes what is left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole run: data, model and stages, each of which may start from the results of those before it.

    order: the stages to run, by name (a ConfigDict does not keep the order of its keys).
    """

    seed: int
    mesh: MeshConfig
    tokenizer: TokenizerConfig
    datasets: Mapping[str, DatasetConfig]
    model: ModelConfig
    stages: Mapping[str, StageConfig]
    order: tuple[str, ...]
    evaluation: EvaluationConfig
    world: WorldConfig | None = None


def build(config: Mapping[str, Any], cls: type = RunConfig, path: str = "config"):
    """Turns a (Config)dict into ``cls``. Raises ValueError naming the path of an unknown, missing or mistyped key."""
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    built = _convert(config, cls, path)
    if isinstance(built, RunConfig):
        _check_names(built, path)
        _check_sizes(built, path)
    return built


# The smallest sensible value of a number, by its name in whatever part of the config it stands.
_AT_LEAST = (
    dict.fromkeys("steps log_every batch_size queries max_new_tokens shards max_frames frames size length".split(), 1)
    | dict.fromkeys("vocab_size width depth heads head_size latents every embedding group_size".split(), 1)
    | dict.fromkeys("media warmup text_shots weight expansion".split(), 0)
    | {"fps": 0.001, "learning_rate": 0.0, "clip": 0.0}
)


def _check_sizes(config: RunConfig, path: str) -> None:
    """Raises ValueError for sizes that do not fit each other."""
    for name in ("language", "text_tower"):
        part = getattr(config.model, name)
        if part.width % (2 * part.heads):
            raise ValueError(
                f"{path}.model.{name}: width {part.width} does not divide into {part.heads} heads of even size."
            )
    shots = config.evaluation.shots
    if not shots or min(shots) < 0:
        raise ValueError(f"{path}.evaluation.shots must hold numbers that are not negative, but is {shots}.")


def _check_names(config: RunConfig, path: str) -> None:
    """Raises ValueError for a name that refers to nothing."""
    references = [(f"{path}.order", name, config.stages) for name in config.order]
    references += [(f"{path}.tokenizer.datasets", name, config.datasets) for name in config.tokenizer.datasets]
    for field in ("image_dataset", "clip_dataset"):
        references.append((f"{path}.evaluation.{field}", getattr(config.evaluation, field), config.datasets))
    model = config.model
    references += [
        (f"{path}.model.dtype", model.dtype, ("float32", "bfloat16")),
        (f"{path}.model.language.activation", model.language.activation, ("gelu", "squared_relu")),
        (f"{path}.model.vision.activation", model.vision.activation, ("gelu", "relu")),
    ]
    for key, stage in config.stages.items():
        references.append((f"{path}.stages.{key}.objective", stage.objective, ("language", "contrastive", "flamingo")))
        references += [(f"{path}.stages.{key}.mixture", name, config.datasets) for name in stage.mixture]
        earlier = config.order[: config.order.index(key)] if key in config.order else config.stages
        references += [(f"{path}.stages.{key}.parts.{part}", name, earlier) for part, name in stage.parts.items()]
        if stage.objective == "flamingo" and stage.parts.keys() != {"language", "vision"}:
            raise ValueError(f"{path}.stages.{key}.parts must name the stages of 'language' and 'vision'.")
    for place, name, known in references:
        if name not in known:
            raise ValueError(f"{place} names {name!r}, which is not there; {suggest(name, known)}.")


def check_path(path: str, config: Mapping[str, Any] | None = None) -> None:
    """Raises ValueError when ``path`` (``config.mesh.data``) leads to no value that a config can have.

    Stages and datasets have names of their own: those of ``config``, where it is given.
    """
    kind, seen = RunConfig, "config"
    config = config.to_dict() if hasattr(config, "to_dict") else config
    for part in path.split(".")[1:]:
        if typing.get_origin(kind) is types.UnionType:  # X | None
            kind = typing.get_args(kind)[0]
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


def suggest(name: str, known: typing.Iterable[str]) -> str:
    """A clause for error messages: the nearest known names, then all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return f"{hint}known here: {', '.join(known)}"


def _convert(value: Any, kind: Any, path: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(value, next(a for a in args if a is not type(None)), path)
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
    _require(isinstance(value, kind) and not (kind is int and isinstance(value, bool)), value, kind.__name__, path)
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
        if isinstance(item, (int, float)) and item < _AT_LEAST.get(key, item):
            raise ValueError(f"{path}.{key} must be at least {_AT_LEAST[key]}, but is {item}.")
    return cls(**values)


def _require(condition: bool, value: Any, what: str, path: str) -> None:
    if not condition:
        raise ValueError(f"{path} must be {what}, but is {value!r} ({type(value).__name__}).")
