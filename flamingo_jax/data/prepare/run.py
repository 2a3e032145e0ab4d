"""One preparation, from raw files to a dataset: its steps, each of which is skipped when it is done already.

DIR/plan.json                     what is to be done, until it is done
DIR/media.npy, .json              where media are, by their addresses       (when ``images`` is a glob)
DIR/evaluation.npy                hashes of benchmarks' images              (when ``duplicates.evaluation`` is so)
DIR/repeated.npy                  what occurs too often                     (when ``duplicates`` counts something)
DIR/00000-of-00002.array_record   the documents
DIR/00000-of-00002.bad.jsonl      what of its raw files is damaged
DIR/manifest.json                 the files, and the report; when it is there, the dataset is whole
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable

import numpy as np
from etils import epath

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data import media, record
from flamingo_jax.data.corpus import find_files
from flamingo_jax.data.file import write_whole
from flamingo_jax.data.filters import duplicates
from flamingo_jax.data.prepare import local, shard
from flamingo_jax.data.prepare import plan as plans
from flamingo_jax.data.prepare.plan import Plan, make_plan

Driver = Callable[[local.Work, str, list[int], Callable[[int], None]], None]


def prepare(
    options: CorpusConfig,
    target: str | os.PathLike,
    *,
    workers: int = 2,
    driver: Driver | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Turns raw files into a dataset (see ``record``) at ``target``. Begun before, it goes on where it stopped.

    Args:
        options: what is prepared, and how.
        target: the dataset's folder; absent, empty, or of a preparation with the same options of the same files.
        workers: processes on this machine; 1 works in this one.
        driver: what does the work elsewhere: see ``beam``.
        progress: called with (bytes of raw files done, all).

    Returns:
        The report, which is in the manifest too: format, source, documents, media, bad, drops {reason: count} and
        first_drops {reason: place}.

    Raises:
        ValueError: senseless options, no file matches, no document came out, too much is damaged, or there is something
            else at ``target``.
        OSError: a source file cannot be read or the dataset not be written; the message names the path.
    """
    target = os.fspath(target)
    folder = epath.Path(target)
    plan = make_plan(options)
    _begin(plan, target)
    if (folder / record.MANIFEST).exists():
        return record.read_manifest(target)["report"]
    driver = driver or functools.partial(local.run, workers=workers, blame=shard.blame)
    total = sum(task.size for tasks in plan.shards for task in tasks)
    report = _Progress(progress, total * (2 if duplicates.needs_census(options.duplicates) else 1))
    if options.images and not epath.Path(options.images).is_dir() and not (folder / f"{shard.INDEX}.json").exists():
        media.write_index(options.images, f"{target}/{shard.INDEX}")
    _hash_evaluation(plan, target, driver)
    _count(plan, target, driver, report)
    todo = _todo(plan, target, ".json")
    report(sum(task.size for i in range(len(plan.shards)) if i not in todo for task in plan.shards[i]))
    driver(shard.write_shard, target, todo, report)
    return _finish(plan, target)


def is_prepared(target: str | os.PathLike) -> bool:
    """Whether there is a whole dataset at ``target``."""
    return (epath.Path(target) / record.MANIFEST).exists()


class _Progress:
    """Adds up what is done. It may be told from several processes' messages, and for work that was done before."""

    def __init__(self, tell: Callable[[int, int], None] | None, total: int):
        self._tell, self._total, self._done = tell, total, 0

    def __call__(self, size: int) -> None:
        self._done += size
        if self._tell is not None and size:
            self._tell(min(self._done, self._total), self._total)


def _begin(plan: Plan, target: str) -> None:
    """Writes the plan down. Raises ValueError when something else is at ``target``, or was begun there."""
    folder = epath.Path(target)
    begun = folder / plans.FILE
    plans.load_plan.cache_clear()
    try:
        if is_prepared(target):
            there = record.read_manifest(target)["plan"]
        elif begun.exists():
            there = plans.fingerprint(plans.load_plan(target))
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{target} holds something else; delete it, or name another folder.")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            there = None
    except OSError as error:
        raise OSError(f"Cannot write the dataset {target}: {error.strerror or error}.") from None
    if there not in (None, plans.fingerprint(plan)):
        raise ValueError(
            f"{target} was {'prepared' if is_prepared(target) else 'begun'} with other options, or from raw files that "
            "have changed since; delete it, or name another folder."
        )
    if not is_prepared(target):
        write_whole(f"{target}/{plans.FILE}", plans.to_json(plan))  # anew, for max_bad may be another one
        plans.load_plan.cache_clear()


def _todo(plan: Plan, target: str, suffix: str) -> list[int]:
    """The shards of which there is no file with this suffix yet."""
    there = {path.name for path in epath.Path(target).iterdir()}
    return [index for index in range(len(plan.shards)) if plan.name(index) + suffix not in there]


def _hash_evaluation(plan: Plan, target: str, driver: Driver) -> None:
    path = epath.Path(f"{target}/{shard.EVALUATION}")
    if not plan.options.duplicates.evaluation or path.exists():
        return
    count = -(-len(find_files(plan.options.duplicates.evaluation)) // shard.HASHED)
    parts = [f"{target}/{index:05d}.{shard.EVALUATION}" for index in range(count)]
    driver(
        shard.hash_evaluation, target, [i for i in range(count) if not epath.Path(parts[i]).exists()], lambda _: None
    )
    hashes = np.unique(np.concatenate([shard.load_array(part) for part in parts]))
    if not len(hashes):
        raise ValueError(f"duplicates.evaluation={plan.options.duplicates.evaluation!r} matches no readable image.")
    shard.save_array(os.fspath(path), hashes)


def _count(plan: Plan, target: str, driver: Driver, report: Callable[[int], None]) -> None:
    rules, path = plan.options.duplicates, f"{target}/{shard.REPEATED}"
    if not duplicates.needs_census(rules) or epath.Path(path).exists():
        return
    driver(shard.count_shard, target, _todo(plan, target, shard.CENSUS), report)
    census = duplicates.count([])
    for index in range(len(plan.shards)):
        census = duplicates.merge([census, shard.load_array(f"{target}/{plan.name(index)}{shard.CENSUS}")])
    shard.save_array(path, duplicates.repeated(census, rules))


def _finish(plan: Plan, target: str) -> dict:
    """Writes the manifest and removes what led to it."""
    report = {"format": plan.options.format, "source": plan.options.source}
    report |= {"documents": 0, "media": 0, "bad": 0, "drops": {}, "first_drops": {}}
    files = {}
    for index in range(len(plan.shards)):
        part = json.loads(epath.Path(f"{target}/{plan.name(index)}.json").read_text())
        if part["entry"]["records"]:
            files[f"{plan.name(index)}.array_record"] = part["entry"]
        shard.add(report, part["report"])
    shard.check_share(report, plan.options.max_bad, least=1)
    if not report["documents"]:
        drops = ", ".join(
            f"{count} x {reason} (first: {report['first_drops'][reason]})" for reason, count in report["drops"].items()
        )
        epath.Path(target).rmtree()
        raise ValueError(f"No document came out of {plan.options.source!r}: {drops or 'its files are empty'}.")
    record.write_manifest(target, files, report, plans.fingerprint(plan))
    kept = {*files, *(f"{plan.name(index)}.bad.jsonl" for index in range(len(plan.shards))), record.MANIFEST}
    for path in epath.Path(target).iterdir():
        if path.name not in kept:
            path.unlink()
    return report
