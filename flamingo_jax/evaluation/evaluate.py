"""Few-shot evaluation: all tasks, at every number of shots, from the benchmark files to ``results.json``."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from flamingo_jax.config import DatasetConfig, EvaluationConfig, ExampleConfig
from flamingo_jax.data.tokenizer import Tokenizer
from flamingo_jax.evaluation import benchmark, media, metrics, prompts, report
from flamingo_jax.evaluation.benchmark import Benchmark
from flamingo_jax.evaluation.tasks import Episode, Task, episodes, select
from flamingo_jax.inference.decoding import greedy
from flamingo_jax.inference.scoring import pad_candidates, score


def run(
    model,
    variables: dict,
    tokenizer: Tokenizer,
    benchmarks: pathlib.Path,
    output: pathlib.Path,
    config: EvaluationConfig,
    *,
    image: ExampleConfig,
    clip: DatasetConfig,
    stages: Mapping[str, pathlib.Path] = MappingProxyType({}),
    progress: Callable[[int, int], None] | None = None,
    weights: str = "",
) -> dict:
    """Evaluates ``model`` on the benchmarks under a folder and writes the report (see ``report.write``).

    Args:
        model: a ``Flamingo`` module. variables: its collections ``params`` and ``frozen``.
        benchmarks: a folder of ``NAME/{support,query}.jsonl``. output: where the report goes.
        image: size and fill of images, as in training. clip: the same of videos, and how their frames are taken.
        stages: the ``metrics.jsonl`` of each training stage, by name and in order, to be drawn.
        progress: called with (prompts answered, all prompts).
        weights: the name of what is evaluated, for the report.

    Returns:
        What ``results.json`` holds: the protocol, the weights' name, and in ``results`` one row per task, measure and
        number of shots: n, accuracy, standard_error, and chance where it is defined.

    Raises:
        ValueError: an unknown task, or a benchmark that is missing, damaged or too small; it is named.
    """
    chosen = select(config.tasks)
    sources = {name: benchmark.read(benchmarks, name) for name in dict.fromkeys(task.benchmark for task in chosen)}
    forms = {form: prompts.template(config, form) for form in {task.form for task in chosen}}
    sizes = {name: min(config.queries, len(source.query)) for name, source in sources.items()}
    total, done = len(config.shots) * sum(sizes[task.benchmark] for task in chosen), 0
    slots = 1 + max(config.shots)
    rows, predictions = [], []
    for name, tasks in itertools.groupby(chosen, lambda task: task.benchmark):  # TASKS keeps a benchmark's together
        source = sources[name]
        paths = [item.medium for item in (*source.support, *source.query)]
        library = media.encode(model, variables, paths, image, clip, config.batch_size)
        for task, shots in itertools.product(tasks, config.shots):
            drawn = episodes(task, source, shots, config.queries, config.seed, config.text_shots)
            answers = _answer(model, variables, tokenizer, task, drawn, forms[task.form], library, slots, config)
            rows += judge(task, source, shots, drawn, answers)
            predictions += [
                _record(task, shots, episode, answer) for episode, answer in zip(drawn, answers, strict=True)
            ]
            done += len(drawn)
            if progress is not None:
                progress(done, total)
    results = {"protocol": _protocol(config), "weights": weights, "results": rows}
    report.write(output, results, predictions, stages)
    return results


def check(benchmarks: pathlib.Path, config: EvaluationConfig) -> None:
    """Draws every episode that ``run`` would draw. Raises ValueError for what ``run`` would stumble over."""
    for task in select(config.tasks):
        prompts.template(config, task.form)
        source = benchmark.read(benchmarks, task.benchmark)
        for shots in config.shots:
            episodes(task, source, shots, config.queries, config.seed, config.text_shots)


def _answer(
    model, variables, tokenizer, task: Task, drawn: list[Episode], form, library, slots: int, config: EvaluationConfig
) -> list[dict]:
    """The model's answer to every episode: ``open`` (generated text) and ``closed`` (scores by candidate)."""
    built = [prompts.build(episode, form, tokenizer) for episode in drawn]
    length, answers = prompts.padded_length(built), []
    choices = [prompts.candidate_tokens(episode, form, tokenizer) for episode in drawn] if task.close_ended else []
    if choices:
        candidates, candidate_mask = pad_candidates(choices, tokenizer.pad)
    for start in range(0, len(drawn), config.batch_size):
        # The last batch is filled up with copies, so that it has the shape of the others.
        index = np.minimum(np.arange(start, start + config.batch_size), len(drawn) - 1)
        some = [built[i] for i in index]
        batch = prompts.stack(some, tokenizer, length)
        latents = library.gather([prompt.media for prompt in some], slots)
        inputs = (model, variables, batch["tokens"], latents, batch["media_index"], batch["mask"])
        parts = [{} for _ in index]
        if task.open_ended:
            tokens = np.asarray(greedy(*inputs, steps=config.max_new_tokens, eoc=tokenizer.eoc))
            for part, row in zip(parts, tokens, strict=True):
                part["open"] = form.extract(tokenizer.decode(until(row, tokenizer.eoc)))
        if task.close_ended:
            scores = np.asarray(score(*inputs, candidates[index], candidate_mask[index]))
            for part, row, i in zip(parts, scores, index, strict=True):
                part["closed"] = dict(zip(drawn[i].candidates, row.tolist(), strict=True))
        answers += parts
    return answers[: len(drawn)]


def until(tokens: Sequence[int], eoc: int) -> list[int]:
    """The tokens before the first ``eoc``."""
    return list(itertools.takewhile(lambda token: token != eoc, map(int, tokens)))


def judge(task: Task, source: Benchmark, shots: int, drawn: list[Episode], answers: list[dict]) -> list[dict]:
    """The result rows of one task at one number of shots."""
    hits: dict[str, list[bool]] = {}
    chance = {}
    if task.attributes:
        items = {item.id: item for item in source.query}
        for attribute in task.attributes:
            values = source.values(attribute)
            hits[attribute] = [
                metrics.names_only(answer["open"], items[episode.query.id].value(attribute), values)
                for episode, answer in zip(drawn, answers, strict=True)
            ]
    else:
        guesses = {}
        if task.close_ended:
            guesses["closed"] = [metrics.best(list(a["closed"].values()), list(a["closed"])) for a in answers]
            chance["closed"] = float(np.mean([1 / len(episode.candidates) for episode in drawn]))
        if task.open_ended:
            guesses["open"] = [answer["open"] for answer in answers]
        for mode, given in guesses.items():
            hits[mode] = [metrics.exact(g, e.query.answer) for g, e in zip(given, drawn, strict=True)]
            if any(episode.original for episode in drawn):
                hits[f"{mode}, original"] = [metrics.exact(g, e.original) for g, e in zip(given, drawn, strict=True)]
    rows = []
    for measure, values in hits.items():
        row = {"task": task.name, "title": task.title, "control": bool(task.control), "measure": measure}
        row |= {"shots": shots, **metrics.accuracy(values), "chance": chance.get(measure)}
        if task.form == "question":
            row["by_question"] = _by_question(drawn, values)
        rows.append(row)
    return rows


def _by_question(drawn: list[Episode], hits: list[bool]) -> dict[str, float]:
    groups: dict[str, list[bool]] = {}
    for episode, hit in zip(drawn, hits, strict=True):
        groups.setdefault(episode.query.question, []).append(hit)
    return {question: metrics.accuracy(values)["accuracy"] for question, values in sorted(groups.items())}


def _record(task: Task, shots: int, episode: Episode, answer: dict) -> dict:
    """All that is needed to judge an answer again without the model."""
    support = [[shot.id, shot.medium and pathlib.Path(shot.medium).name, shot.answer] for shot in episode.shots]
    closed = {}
    if "closed" in answer:
        closed["closed"] = {word: round(value, 4) for word, value in answer["closed"].items()}
    question = {"question": episode.query.question} if episode.query.question else {}
    original = {"original": episode.original} if episode.original else {}
    return {
        "task": task.name, "shots": shots, "query": episode.query.id, **question, "answer": episode.query.answer,
        **original, **answer, **closed, "support": support,
    }  # fmt: skip


def _protocol(config: EvaluationConfig) -> dict:
    return {
        "seed": config.seed,
        "queries": config.queries,
        "shots": list(config.shots),
        "support": "drawn at random and in random order for every query",
        "text_shots": config.text_shots,
        "templates": {"output": config.caption_template, "question": config.vqa_template},
        "open-ended": f"greedy, at most {config.max_new_tokens} tokens, up to the first <EOC>; exact match",
        "close-ended": "log-likelihood of each candidate and <EOC>, summed over tokens, not normalised",
    }
