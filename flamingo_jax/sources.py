"""Where weights come from: the stages of a run, public folders, and whole runs that are finished."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util as traverse
import jax

from flamingo_jax import config as configs
from flamingo_jax.config import LanguageConfig, NFNetConfig, RunConfig, StageConfig, ViTConfig
from flamingo_jax.convert import folder, load
from flamingo_jax.convert.pretrained import Pretrained
from flamingo_jax.convert.public import read_config
from flamingo_jax.convert.shapes import encoder_shapes
from flamingo_jax.convert.tokenizer import load_tokenizer
from flamingo_jax.data import record, tokenizer
from flamingo_jax.models.flamingo import assemble
from flamingo_jax.models.int8 import inputs_of
from flamingo_jax.training import kept, outcome


def find(path: pathlib.Path, config: Mapping[str, Any] | None = None) -> Pretrained:
    """The model of any folder: public, ours, a finished run's or stage's, or one of a stage's checkpoints. See
    ``convert.load.find``."""
    path = path.absolute()
    checkpoint = path if kept.is_one(path) else None
    stage = path.parents[2] if checkpoint else path
    if checkpoint or ((stage / "inputs.json").exists() and outcome.read_result(stage)):
        return finished(_run_config(stage.parent), stage.parent, stage.name, checkpoint)
    if steps := kept.inside(path):
        raise ValueError(f"{path} is no model, but holds some; give one of them: {', '.join(map(str, steps))}.")
    config = read_config(path) if config is None else config
    if "stages" not in config:
        return load.find(path, config)
    run = _run_config(path, config)
    done = [name for name in run.order if outcome.read_result(path / name)]
    if not done:
        raise ValueError(f"{path} is a run of which no stage is finished.")
    return finished(run, path, done[-1])


def _run_config(workdir: pathlib.Path, config: Mapping[str, Any] | None = None) -> RunConfig:
    config = read_config(workdir) if config is None else config
    return configs.build(config, path=f"{workdir}/config.json: config")


def finished(config: RunConfig, workdir: pathlib.Path, name: str, checkpoint: pathlib.Path | None = None) -> Pretrained:
    """What the finished stage ``name`` of a run made: a language model, a vision encoder, or a Flamingo; or, with a
    ``checkpoint`` of it, what it was then.

    Raises ValueError when weights that it consists of are gone or damaged.
    """
    stage, dtype = config.stages[name], config.model.dtype
    trained = kept.load(checkpoint) if checkpoint else outcome.load_result_weights(workdir, name)
    vocabulary = run_tokenizer(config, workdir)
    if stage.objective == "language":
        return Pretrained(config.model.language, trained, tokenizer=lambda: vocabulary)
    if stage.objective == "contrastive":
        encoder = config.model.vision
        pooled = dataclasses.replace(encoder, pool="none", projection=0) if isinstance(encoder, ViTConfig) else encoder
        return Pretrained(pooled, trained["vision"])
    own = traverse.flatten_dict(trained)
    rest = traverse.flatten_dict(parts(stage, config, workdir))
    int8 = config.model.int8
    frozen = {  # matrices that become 8 bits do so from what is stored, as they did for the training
        path: leaf if int8 and inputs_of(path, len(leaf.shape)) else leaf.astype(dtype)
        for path, leaf in rest.items()
        if path not in own
    }
    return Pretrained(
        config.model,
        {"params": trained, "frozen": traverse.unflatten_dict(frozen)},
        vocabulary.new_tokens,
        image_token=vocabulary.image,
        tokenizer=lambda: vocabulary,
        public={part: read_config(pathlib.Path(name)) for part, name in stage.parts.items() if "/" in name},
        training=_training(config, workdir, name, checkpoint),
        int8=int8,
    )


def _training(config: RunConfig, workdir: pathlib.Path, name: str, checkpoint: pathlib.Path | None) -> dict[str, Any]:
    """What a model card tells of a stage: its steps, its datasets with their sizes, the evaluation's table."""
    stage, datasets = config.stages[name], {}
    for key, mix in stage.mixture.items():
        counts = record.read_report(workdir / "data" / key, config.datasets[key].in_place)
        datasets[key] = {
            "format": config.datasets[key].format,
            "documents": counts.get("documents", 0),
            "media": counts.get("media", 0),
            "batch": mix.batch_size,
            "weight": mix.weight,
        }
    table = workdir / "evaluation" / "results.md"  # of the finished weights
    about = {
        "stage": name,
        "steps": int(checkpoint.name) if checkpoint else stage.steps,
        "datasets": datasets,
        "evaluation": table.read_text() if table.exists() and not checkpoint else "",
        "weights": str(checkpoint.relative_to(workdir)) if checkpoint else outcome.result_weights(workdir, name),
    }
    return about | {"parts": json.loads((workdir / name / "inputs.json").read_text())}


def open_tokenizer(path: pathlib.Path, option: str) -> tokenizer.Tokenizer:
    """The tokenizer of a public folder, or of a file of ours. Raises ValueError, naming the option, for none."""
    found = load_tokenizer(path) if path.is_dir() else tokenizer.load(path)
    if found is None:
        raise ValueError(f"{option}={str(path)!r} has no files of a tokenizer.")
    return found


def run_tokenizer(config: RunConfig, workdir: pathlib.Path) -> tokenizer.Tokenizer:
    """The tokenizer of ``config.tokenizer.path`` (a public model's folder, or a file of ours), or the workdir's own.

    Raises ValueError when there is none, and when it has more tokens than the language model knows, but the new ones.
    """
    path = pathlib.Path(config.tokenizer.path or workdir / "tokenizer.json")
    found = open_tokenizer(path, "config.tokenizer.path")
    known = sum(i not in found.new_tokens or i < config.model.language.vocab_size for i in range(found.vocab_size))
    if known > config.model.language.vocab_size:
        raise ValueError(
            f"{path} has {known} tokens, but config.model.language.vocab_size is only "
            f"{config.model.language.vocab_size}."
        )
    return found


def parts(stage: StageConfig, config: RunConfig, workdir: pathlib.Path) -> dict:
    """The weights that a flamingo stage starts from: of the stages or public checkpoints that ``stage.parts`` names."""
    given = {part: _part(part, source, config, workdir) for part, source in stage.parts.items()}
    return assemble(given.get("language"), given.get("vision"), config.model.gated)


# Options that say how a checkpoint's weights are used, not what they are.
_FREE = {"patches_only", "pool", "projection", "max_positions", "vocab_size"}
_KINDS = {"language": LanguageConfig, "vision": (ViTConfig, NFNetConfig)}


def check_folders(place: str, stage: StageConfig, config: RunConfig) -> None:
    """Raises ValueError when a folder that ``stage.parts`` (``place`` in the config) names holds another model."""
    for part, source in stage.parts.items():
        if "/" not in source:
            continue
        try:
            found = load.find(pathlib.Path(source)).config
        except ValueError as error:
            raise ValueError(f"{place}.{part}={source!r}: {error}") from None
        if not isinstance(found, _KINDS[part]):
            raise ValueError(f"{place}.{part}={source!r} holds a {type(found).__name__}, which is no {part} part.")
        there, here = _described(found), _described(getattr(config.model, part))
        differing = [key for key in here if key not in _FREE and there.get(key) != here[key]]
        if differing:
            values = "; ".join(f"{key}: {_short(there.get(key))} there, {_short(here[key])} here" for key in differing)
            raise ValueError(
                f"{place}.{part}: {source} does not hold config.model.{part}: {values}; make the config say what the "
                "folder holds, or name another one."
            )


def _part(part: str, source: str, config: RunConfig, workdir: pathlib.Path) -> dict:
    """The weights of the language model or the vision encoder, whose folder ``check_folders`` has looked at."""
    if "/" not in source:
        stored = outcome.load_result_weights(workdir, source)
        return stored["vision"] if part == "vision" else stored
    found = load.find(pathlib.Path(source))
    weights = found.place(folder.spread(found.weights, jax.devices())) if found.orbax else found.weights
    if part == "language":
        return weights
    needed = {path.split("/")[0] for path in encoder_shapes(found.config)}  # without those of the pooled vector
    return {name: weight for name, weight in weights.items() if name in needed}


def _short(value) -> str:
    return text if len(text := str(value)) < 80 else f"{text[:80]}.."


def _described(config) -> dict:
    """Options of a part; of a decoder with the kind of every layer, however they are listed."""
    options = dataclasses.asdict(config)
    if "layers" in options:
        options["layers"], options["pattern"] = [options["layers"][kind] for kind in config.kinds()], None
    return options
