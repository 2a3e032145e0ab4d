"""``python -m flamingo_jax.train --config=configs/base.py --workdir=DIR``: all stages of a run, one after another.

A stage that is complete in DIR is skipped, one that was interrupted is resumed:

    DIR/config.json          what this folder was made with
    DIR/world/               raw files (only when the config has a world)
    DIR/data/NAME/           prepared records of each dataset
    DIR/tokenizer.json
    DIR/STAGE/               metrics.jsonl, TensorBoard events, checkpoints while it trains, result.json when complete
    DIR/weights/             finished weights, addressed by content
    DIR/evaluation/          results.json, results.md, plots
"""

from __future__ import annotations

import contextlib
import difflib
import json
import pathlib
import sys
import time
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from absl import app, flags
from ml_collections import config_flags

from flamingo_jax import config as configs
from flamingo_jax.config import RunConfig, StageConfig
from flamingo_jax.data import prepare, record, stream, tokenizer
from flamingo_jax.data.world import write as world
from flamingo_jax.evaluation import evaluate
from flamingo_jax.models.flamingo import Flamingo, assemble
from flamingo_jax.training import checkpoint, loop, sharding
from flamingo_jax.training.objective import OBJECTIVES

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The run's configuration; override keys with --config.key=value."
)
_WORKDIR = flags.DEFINE_string("workdir", "runs/base", "Folder of this run.")
_ACCEPT = flags.DEFINE_bool("accept_changed_config", False, "Continue a workdir that another config made.")
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error arose.")


def run(config: RunConfig, workdir: pathlib.Path, say: Callable[[str], None] = print) -> dict:
    """Runs, resumes or skips every stage of ``config`` in ``workdir``. Returns the evaluation's results."""
    _prepare(config, workdir, say)
    vocabulary = _tokenizer(config, workdir, say)
    mesh = sharding.make_mesh(config.mesh)
    for name in config.stages:
        _train(name, config, workdir, vocabulary, mesh, say)
    return _evaluate(config, workdir, vocabulary, say)


def _prepare(config: RunConfig, workdir: pathlib.Path, say) -> None:
    if config.world and not (workdir / "world").exists():
        with _timed("world", say):
            world.write(workdir / "world", config.world)
    for name, dataset in config.datasets.items():
        target = workdir / "data" / name
        if not target.exists():
            with _timed(f"prepare {name}", say):
                report = prepare.prepare(dataset, dataset.source.format(workdir=workdir), target)
                say(f"  {report}")


def _tokenizer(config: RunConfig, workdir: pathlib.Path, say) -> tokenizer.Tokenizer:
    path = pathlib.Path(config.tokenizer.path or workdir / "tokenizer.json")
    if not path.exists() and not config.tokenizer.path:
        with _timed("tokenizer", say):
            sources = [record.Source(workdir / "data" / name) for name in config.tokenizer.datasets]
            texts = (source[i].text for source in sources for i in range(len(source)))
            tokenizer.train(texts, config.tokenizer.vocab_size).save(path)
    return tokenizer.load(path)


def _train(name: str, config: RunConfig, workdir: pathlib.Path, vocabulary: tokenizer.Tokenizer, mesh, say) -> None:
    directory, stage = workdir / name, config.stages[name]
    if checkpoint.read_result(directory):
        say(f"{name}: complete")
        return
    directory.mkdir(parents=True, exist_ok=True)
    objective = OBJECTIVES[stage.objective](config.model, vocabulary.eoc, vocabulary.pad)
    examples = {dataset: config.datasets[dataset].example for dataset in stage.mixture}
    with _timed(name, say):
        params, metrics = loop.train(
            loop.Stage(
                name=name,
                config=stage,
                objective=objective,
                examples=examples,
                streams={
                    dataset: stream.stream(
                        workdir / "data" / dataset,
                        vocabulary,
                        examples[dataset],
                        batch_size=mix.batch_size,
                        seed=zlib.crc32(f"{config.seed}/{name}/{dataset}".encode()),
                        shard_index=jax.process_index(),
                        shard_count=jax.process_count(),
                    )
                    for dataset, mix in stage.mixture.items()
                },
                frozen=_frozen(stage, config, workdir, objective, mesh),
                mesh=mesh,
                seed=config.seed,
                directory=directory,
            ),
            say,
        )
    weights = checkpoint.store_weights(workdir, name, params)
    checkpoint.write_result(directory, {"weights": weights, "steps": stage.steps, "metrics": metrics})
    checkpoint.discard_checkpoints(directory / "checkpoints")


def _parts(stage: StageConfig, config: RunConfig, workdir: pathlib.Path) -> dict:
    """The weights that a flamingo stage freezes, from the stages that ``stage.parts`` names."""
    stored = {part: checkpoint.load_result_weights(workdir, source) for part, source in stage.parts.items()}
    return assemble(stored["language"], stored["vision"]["vision"], config.model.gated.every)


def _frozen(stage: StageConfig, config: RunConfig, workdir: pathlib.Path, objective, mesh) -> dict:
    if not stage.parts:
        return {}
    example = config.datasets[next(iter(stage.mixture))].example
    return loop.place_frozen(mesh, objective, example, _parts(stage, config, workdir), config.model.dtype)


def _evaluate(config: RunConfig, workdir: pathlib.Path, vocabulary: tokenizer.Tokenizer, say) -> dict:
    directory = workdir / "evaluation"
    if (done := directory / "results.json").exists():
        say("evaluation: complete")
        return json.loads(done.read_text())
    name, stage = next((name, stage) for name, stage in config.stages.items() if stage.objective == "flamingo")
    model = Flamingo(config.model, vocabulary.eoc)
    dtype = jnp.dtype(config.model.dtype)
    variables = {
        "params": checkpoint.load_result_weights(workdir, name),
        "frozen": jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), _parts(stage, config, workdir)),
    }
    with _timed("evaluation", say):
        return evaluate.run(
            model, variables, vocabulary, workdir / "world" / "benchmarks", directory, config.evaluation
        )


def check_workdir(config: RunConfig, workdir: pathlib.Path, accept_changed: bool) -> None:
    """Records the config in a new workdir; in an old one raises ValueError when it was made by another config."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"--workdir={workdir} is a file; give a folder.") from None
    path, text = workdir / "config.json", configs.to_json(config)
    if path.exists() and not accept_changed:
        old, new = path.read_text().splitlines(), text.splitlines()
        change = "\n".join(difflib.unified_diff(old, new, "the workdir's config", "this config", n=2, lineterm=""))
        if change:
            raise ValueError(
                f"{workdir} was made by another config:\n{change}\n"
                "Use another --workdir, or --accept_changed_config to continue with this one's unfinished stages."
            )
    path.write_text(text)


@contextlib.contextmanager
def _timed(name: str, say):
    start = time.monotonic()
    yield
    say(f"{name}: {time.monotonic() - start:.0f} s")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments {argv[1:]}; options look like --config.seed=1.")
    try:
        config = configs.build(_CONFIG.value)
        workdir = pathlib.Path(_WORKDIR.value).absolute()
        check_workdir(config, workdir, _ACCEPT.value)
        run(config, workdir)
    except (ValueError, OSError) as error:
        if _TRACEBACK.value:
            raise
        sys.exit(f"flamingo_jax.train: {error}\n(--traceback shows where this arose)")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
