"""One preparation, from raw files to a dataset: its steps, each of which is skipped when it is done already.

DIR/plan.json                     what is to be done, until it is done
DIR/media.npy, media.names.npy    where media are, by their addresses       (when ``images`` is a glob)
DIR/media.bad.jsonl               what of the tars with media is damaged
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
from absl import logging
from etils import epath

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data import media, record
from flamingo_jax.data.corpus import find_files
from flamingo_jax.data.document import Dropped
from flamingo_jax.data.file import save_array
from flamingo_jax.data.filters import duplicates
from flamingo_jax.data.prepare import local, shard, state
from flamingo_jax.data.prepare import plan as plans
from flamingo_jax.data.prepare.plan import Plan, make_plan

_UNREADABLE = "evaluation image not readable"

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
        workers: processes on this machine; 1 works in this one, but for what a process died at before.
        driver: what does the work elsewhere: see ``beam``.
        progress: called with (bytes of raw files done, all).

    Returns:
        The report, which is in the manifest too: format, source, documents, media, bad, drops {reason: count} and
        first_drops {reason: place}.

    Raises:
        ValueError: senseless options, no file matches, no document came out, too much is damaged, there is something
            else at ``target``, or another process is at work there.
        OSError: a source file cannot be read or the dataset not be written; the message names the path. Or a process
            ended, for another reason than a medium that crashes its decoder.
    """
    target = os.fspath(target)
    folder = epath.Path(target)
    plan = make_plan(options, target)
    if has_index := bool(options.images) and not epath.Path(options.images).is_dir():
        find_files(options.images, "images")
    if options.duplicates.evaluation:
        find_files(options.duplicates.evaluation, "duplicates.evaluation")
    plans.load_plan.cache_clear()
    if state.begin(target, plans.to_json(plan), lambda text: plans.fingerprint(plans.from_json(text)), "raw files"):
        return record.read_manifest(target)["report"]
    with state.own(target):
        if state.is_prepared(target):  # by another process, just now
            return record.read_manifest(target)["report"]
        if driver is None:
            driver = functools.partial(local.run, workers=workers, died_at=shard.died_at, convict=shard.convict)
        elif shard.has_died(target):
            logging.warning(
                "%s: a process ended while it decoded a medium. If that ends this one too, start it without --runner "
                "(or driver) on this machine: that finds a medium that crashes its decoder, and leaves it out.",
                target,
            )
        total = sum(task.size for tasks in plan.shards for task in tasks)
        report = state.Progress(progress, total * (2 if duplicates.needs_census(options.duplicates) else 1))
        if has_index and not (folder / f"{shard.INDEX}.npy").exists():
            media.write_index(options.images, f"{target}/{shard.INDEX}")
        _hash_evaluation(plan, target, driver)
        _count(plan, target, driver, report)
        todo = state.todo(target, plan.names, ".json")
        report(sum(task.size for i in range(len(plan.shards)) if i not in todo for task in plan.shards[i]))
        driver(shard.write_shard, target, todo, report)
        return _finish(plan, target)


def _hash_evaluation(plan: Plan, target: str, driver: Driver) -> None:
    path = epath.Path(f"{target}/{shard.EVALUATION}")
    if not plan.options.duplicates.evaluation or path.exists():
        return
    count = -(-len(find_files(plan.options.duplicates.evaluation)) // shard.HASHED)
    parts = [f"{target}/{index:05d}.{shard.EVALUATION}" for index in range(count)]
    driver(
        shard.hash_evaluation, target, [i for i in range(count) if not epath.Path(parts[i]).exists()], lambda _: None
    )
    hashes = np.concatenate([shard.load_array(part) for part in parts])
    if not len(hashes):
        raise ValueError(f"duplicates.evaluation={plan.options.duplicates.evaluation!r} matches no readable image.")
    save_array(os.fspath(path), hashes)


def _count(plan: Plan, target: str, driver: Driver, report: Callable[[int], None]) -> None:
    rules, path = plan.options.duplicates, f"{target}/{shard.REPEATED}"
    if not duplicates.needs_census(rules) or epath.Path(path).exists():
        return
    driver(shard.count_shard, target, state.todo(target, plan.names, shard.CENSUS), report)
    census = duplicates.count([])
    for name in plan.names:
        census = duplicates.merge([census, shard.load_array(f"{target}/{name}{shard.CENSUS}")])
    save_array(path, duplicates.repeated(census, rules))


def _finish(plan: Plan, target: str) -> dict:
    """Writes the manifest, and removes what led to it."""
    report = {"format": plan.options.format, "source": plan.options.source}
    report |= {"documents": 0, "media": 0, "bad": 0, "drops": {}, "first_drops": {}}
    shard.add(report, _damage_of_media(target))
    files = state.gather(target, plan.names, report, shard.add)
    shard.check_share(report, plan.options.max_bad, least=1)
    if evaluation := plan.options.duplicates.evaluation:
        unreadable = len(find_files(evaluation)) - len(shard.load_array(f"{target}/{shard.EVALUATION}"))
        if unreadable:
            report["drops"][_UNREADABLE], report["first_drops"][_UNREADABLE] = unreadable, evaluation
    state.finish(target, [*plan.names, shard.INDEX], files, report, plans.fingerprint(plan))
    return report


def _damage_of_media(target: str) -> dict:
    """The report of what was damaged when the index of media was made, be it in an earlier run."""
    path, tally = epath.Path(f"{target}/{shard.INDEX}.bad.jsonl"), shard.Tally(max_bad=1.0)
    lines = path.read_text().splitlines() if path.exists() else []
    list(tally.filter(Dropped(**json.loads(line)) for line in lines))
    return tally.report
