"""All stages of a run, one after another: raw files, records, tokenizer, training stages, evaluation.

A stage that is complete in the workdir is skipped, one that was interrupted is resumed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable

import jax

from flamingo_jax import sources, streams
from flamingo_jax.config import CorpusConfig, DatasetConfig, RunConfig, StageConfig
from flamingo_jax.convert.pretrained import put_like
from flamingo_jax.data import packing, stream, tokenizer
from flamingo_jax.data.prepare import is_prepared, prepare
from flamingo_jax.data.sources import index
from flamingo_jax.data.world import write as world
from flamingo_jax.evaluation import evaluate, plots, tasks
from flamingo_jax.models.flamingo import Flamingo
from flamingo_jax.training import (
    attempts,
    compilation,
    ending,
    flops,
    goodput,
    hosts,
    loop,
    outcome,
    placement,
    sharding,
    state,
    tracking,
    validation,
)
from flamingo_jax.training.checkpoint import discard
from flamingo_jax.training.ledger import Ledger
from flamingo_jax.training.metrics import Progress
from flamingo_jax.training.objective import OBJECTIVES


def run(
    config: RunConfig, workdir: pathlib.Path, say: Callable[[str], None] = print, begun: float | None = None
) -> dict:
    """Runs, resumes or skips every stage of ``config`` in ``workdir``. Returns the evaluation's results.

    Of several processes the first prepares and evaluates, and all train. The others say nothing and return {}.

    begun: when the program was started, in seconds since the epoch, from which ``goodput.jsonl`` counts; None: now.
    """
    if not hosts.is_first():
        return _run(config, workdir, _say_nothing, Ledger())
    with _ledger(workdir, say, begun) as ledger:
        return _run(config, workdir, say, ledger)


@contextlib.contextmanager
def _ledger(workdir: pathlib.Path, say, begun: float | None):
    """The run's ledger. What it comes to is said when the run ends in good order, and drawn when it is complete."""
    path = workdir / goodput.FILE
    ledger = Ledger(path, begun=begun)
    try:
        yield ledger
    except BaseException as error:
        ledger.close()
        if isinstance(error, ending.Ended):
            say(goodput.sentence(goodput.summary(path)))
        raise
    worked = ledger.has_begun
    ledger.close(complete=True)
    if worked:
        (workdir / "evaluation").mkdir(exist_ok=True)
        plots.goodput(path, workdir / "evaluation" / "goodput.png")
    if path.exists():
        say(goodput.sentence(goodput.summary(path)))


def _run(config: RunConfig, workdir: pathlib.Path, say: Callable[[str], None], ledger: Ledger) -> dict:
    compilation.keep(config.compilation_cache, workdir)
    mesh = sharding.make_mesh(config.mesh)
    unfinished = [name for name in config.order if outcome.read_result(workdir / name) is None]
    for name in unfinished:
        sources.check_folders(f"config.stages.{name}.parts", config.stages[name], config)
    if unfinished:
        ledger.begin()
    if hosts.is_first():
        _prepare(config, workdir, say)
        _train_tokenizer(config, workdir, say)
    hosts.wait("prepared")
    hosts.check_shared(workdir / "config.json")
    vocabulary = sources.run_tokenizer(config, workdir)
    for name in unfinished:
        stage = config.stages[name]
        for dataset in (*stage.mixture, *stage.validation):  # the last stage's mistakes are said before the first
            _open_stream(config, name, dataset, workdir, vocabulary, mesh)
    if not (workdir / "evaluation" / "results.json").exists():
        evaluate.check(_benchmarks(config, workdir), config.evaluation)
    project = config.wandb if hosts.is_first() and unfinished else ""
    with tracking.opened(project, workdir, dataclasses.asdict(config), config.order, say) as send:
        for name in config.order:
            with ending.deferred():
                _train(name, config, workdir, vocabulary, mesh, say, ledger, send)
    results = {}
    if hosts.is_first():
        with hosts.alone():
            results = _evaluate(config, workdir, vocabulary, say, ledger)
    hosts.wait("evaluated")
    return results


def check(config: RunConfig) -> None:
    """Finds what is wrong with a config before anything takes time. Raises ValueError."""
    mesh = sharding.make_mesh(config.mesh)
    sharding.host_part(mesh, jax.process_index())
    tasks.select(config.evaluation.tasks)
    tracking.check(config.wandb)
    if config.tokenizer.path:
        given = sources.run_tokenizer(config, pathlib.Path())
        special = given.new_tokens, given.pad
    else:
        special = (tokenizer.SPECIALS.index(tokenizer.EOC),), tokenizer.SPECIALS.index(tokenizer.PAD)
    shown = []  # (where the config says so, the objective whose model sees them, the examples' shape)
    for name in config.order:
        stage = config.stages[name]
        mixes = [(field, *item) for field in ("mixture", "validation") for item in getattr(stage, field).items()]
        for field, dataset, mix in mixes:
            place = f"config.stages.{name}.{field}.{dataset}"
            sharding.check_batch(mesh, place, mix)
            if mix.pack > 1 and stage.objective == "contrastive":
                raise ValueError(f"{place}.pack={mix.pack}: a contrastive stage compares whole rows; leave pack at 1.")
            try:
                shape = packing.row_shape(config.datasets[dataset].example, mix)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from None
            shown.append((f"config.stages.{name} on {dataset}", stage.objective, shape))
    if any(objective == "flamingo" for _, objective, _ in shown):
        evaluated = (config.evaluation.image_dataset, config.evaluation.clip_dataset)
        shown += [
            (f"config.evaluation on {dataset}", "flamingo", config.datasets[dataset].example) for dataset in evaluated
        ]
    seen = set()
    for place, objective, example in shown:
        shape = (objective, example.length, example.media, example.frames)
        if shape not in seen:
            try:
                goal = OBJECTIVES[objective](config.model, *special)
                state.weights(mesh, goal, example, frozen=config.mesh.frozen)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
        seen.add(shape)


def _prepare(config: RunConfig, workdir: pathlib.Path, say) -> None:
    if config.world and not (workdir / "world").exists():
        with _timed("world", say):
            world.write(workdir / "world", config.world, _counter("world"))
    for name, dataset in config.datasets.items():
        target, dataset = workdir / "data" / name, streams.resolve(dataset, workdir)
        if dataset.in_place:
            # The index of a former start is looked at too: it names what changed since.
            with _timed(f"index {name}", say):
                workers, progress = os.cpu_count() or 1, _counter(f"index {name}")
                with _named(name):
                    report = index(dataset, target, workers=workers, progress=progress)
                drops = sorted(
                    (count, reason, report["first_drops"][reason]) for reason, count in report["drops"].items()
                )
                dropped = ", ".join(f"{count} {reason} (first: {place})" for count, reason, place in drops)
                say(f"{name}: {report['documents']} samples, read in place; left out: {dropped or 'none'}")
        elif not is_prepared(target):
            with _timed(f"prepare {name}", say):
                with _named(name):
                    report = prepare(_corpus(dataset), target, progress=_counter(f"prepare {name}"))
                dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(report["drops"].items()))
                say(f"{name}: {report['documents']} documents, {report['media']} media; dropped: {dropped or 'none'}")


def _corpus(dataset: DatasetConfig) -> CorpusConfig:
    return CorpusConfig(**{field.name: getattr(dataset, field.name) for field in dataclasses.fields(CorpusConfig)})


def _train_tokenizer(config: RunConfig, workdir: pathlib.Path, say) -> None:
    path = workdir / "tokenizer.json"
    if not config.tokenizer.path and not path.exists():
        with _timed("tokenizer", say):
            found = [streams.open_source(config, name, workdir) for name in config.tokenizer.datasets]
            texts = (source.read(i).text for source in found for i in range(len(source)))
            tokenizer.train(texts, config.tokenizer.vocab_size).save(path)


def _open_stream(
    config: RunConfig, stage: str, dataset: str, workdir: pathlib.Path, vocabulary: tokenizer.Tokenizer, mesh
) -> stream.Stream:
    """This host's part of what a stage reads of a dataset."""
    part, parts = sharding.host_part(mesh, jax.process_index())
    hosts = {"shard_index": part, "shard_count": parts}
    return streams.open_stream(config, stage, dataset, workdir, vocabulary, streams=config.streams, **hosts)


def _train(
    name: str,
    config: RunConfig,
    workdir: pathlib.Path,
    vocabulary: tokenizer.Tokenizer,
    mesh,
    say,
    ledger: Ledger,
    send: tracking.Send,
) -> None:
    directory, stage = workdir / name, config.stages[name]
    inputs = {
        part: source if "/" in source else outcome.result_weights(workdir, source)
        for part, source in stage.parts.items()
    }
    if hosts.is_first() and outcome.claim(directory, inputs):
        say(f"{name}: the stages that it builds on were trained anew, so it starts anew")
    hosts.wait(f"{name} claimed")
    if result := outcome.read_result(directory):
        if hosts.is_first():
            _discard(directory, stage)  # left if the last run ended just here
        same = result["config"] == json.loads(json.dumps(dataclasses.asdict(stage)))
        say(f"{name}: complete" + ("" if same else f", but with another config (to train it anew, delete {directory})"))
        return
    objective = OBJECTIVES[stage.objective](config.model, vocabulary.new_tokens, vocabulary.pad)
    initial, frozen = _pretrained(stage, config, workdir, objective, mesh)
    shapes = {
        dataset: packing.row_shape(config.datasets[dataset].example, mix) for dataset, mix in stage.mixture.items()
    }
    with _timed(name, say):
        params, metrics = loop.train(
            loop.Stage(
                name=name,
                config=stage,
                objective=objective,
                examples=shapes,
                streams={
                    dataset: _open_stream(config, name, dataset, workdir, vocabulary, mesh) for dataset in stage.mixture
                },
                frozen=frozen,
                initial=initial,
                validation={
                    dataset: functools.partial(_open_stream, config, name, dataset, workdir, vocabulary, mesh)
                    for dataset in stage.validation
                },
                mesh=mesh,
                seed=config.seed,
                directory=directory,
                max_unreadable=config.streams.max_unreadable,
                flops=_flops(stage, config, vocabulary, shapes, mesh),
                ledger=ledger,
                send=send,
            ),
            say,
        )
    with ledger.during("save"):
        weights = outcome.store_weights(workdir, name, params)
    if hosts.is_first():
        result = {"weights": weights, "steps": stage.steps, "metrics": metrics, "config": dataclasses.asdict(stage)}
        outcome.write_result(directory, result)
        _discard(directory, stage)
    hosts.wait(f"{name} finished")


def _discard(directory: pathlib.Path, stage: StageConfig) -> None:
    discard(directory / attempts.FOLDER, stage.keep_every_steps, validation.best(directory, stage.keep_best))


def _flops(stage: StageConfig, config: RunConfig, vocabulary: tokenizer.Tokenizer, shapes: dict, mesh) -> int:
    """What one gradient of every dataset needs, whatever is kept or computed again for it."""
    model = dataclasses.replace(config.model, remat="none")
    objective = OBJECTIVES[stage.objective](model, vocabulary.new_tokens, vocabulary.pad, whole=True)
    weights = state.weights(mesh, objective, next(iter(shapes.values())))
    batches = {name: state.batch(mesh, shape, stage.mixture[name].rows) for name, shape in shapes.items()}
    return flops.of_gradients(objective, stage, weights, batches)


def _pretrained(stage: StageConfig, config: RunConfig, workdir: pathlib.Path, objective, mesh) -> tuple[dict, dict]:
    """(what trainable parts start from, the frozen collection)."""
    if not stage.parts:
        return {}, {}
    example = config.datasets[next(iter(stage.mixture))].example
    weights, model = sources.parts(stage, config, workdir), config.model
    return placement.place_parts(
        mesh, objective, example, weights, model.dtype, config.mesh.frozen, put_like, int8=model.int8
    )


def _evaluate(config: RunConfig, workdir: pathlib.Path, vocabulary: tokenizer.Tokenizer, say, ledger: Ledger) -> dict:
    directory = workdir / "evaluation"
    name = next((name for name in reversed(config.order) if config.stages[name].objective == "flamingo"), None)
    if name is None:
        say("evaluation: config.order has no flamingo stage, nothing to evaluate")
        return {}
    weights = outcome.result_weights(workdir, name)
    if (done := directory / "results.json").exists():
        results = json.loads(done.read_text())
        if results.get("weights") == weights:
            say("evaluation: complete")
            return results
        say(f"evaluation: {name} was trained anew, so it starts anew")
    ledger.begin()
    found = sources.finished(config, workdir, name)
    model = Flamingo(found.config, vocabulary.new_tokens)
    with _timed("evaluation", say), ledger.during("evaluation"):
        results = evaluate.run(
            model,
            found.place(),
            vocabulary,
            _benchmarks(config, workdir),
            directory,
            config.evaluation,
            image=config.datasets[config.evaluation.image_dataset].example,
            clip=config.datasets[config.evaluation.clip_dataset],
            stages={name: workdir / name / "metrics.jsonl" for name in config.order},
            progress=_counter("evaluation"),
            weights=weights,
        )
    say(f"\n{(directory / 'results.md').read_text()}\nResults and plots: {directory}")
    return results


def _say_nothing(line: str) -> None:
    """What the processes after the first one say."""


def _benchmarks(config: RunConfig, workdir: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(config.evaluation.benchmarks.replace("{workdir}", str(workdir)))


def _counter(name: str) -> Callable[[int, int], None]:
    """A progress bar that is fed (items done, all items)."""
    bars: list[Progress] = []

    def update(done: int, total: int) -> None:
        if not bars:
            bars.append(Progress(name, total))
        bars[0].update(done, {})
        if done >= total:
            bars[0].close()

    return update


@contextlib.contextmanager
def _named(dataset: str):
    """Says of which of the config's datasets an error tells."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"config.datasets.{dataset}: {error}") from None


@contextlib.contextmanager
def _timed(name: str, say):
    start = time.monotonic()
    yield
    say(f"{name}: {time.monotonic() - start:.0f} s")
