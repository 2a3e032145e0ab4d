"""The work on one shard: what every driver calls, on whatever machine, with the folder of the dataset and a number.

Results are files in that folder, which appear whole; a piece of work whose file is there is done.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import json
import mmap
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from etils import epath

from flamingo_jax.data import media, record
from flamingo_jax.data.corpus import Corpus, find_files
from flamingo_jax.data.document import Document, Dropped, Raw, encode
from flamingo_jax.data.file import save_array, write_whole
from flamingo_jax.data.filters import duplicates
from flamingo_jax.data.formats import FORMATS
from flamingo_jax.data.prepare.local import Report
from flamingo_jax.data.prepare.make import Maker, reject
from flamingo_jax.data.prepare.plan import Plan, load_plan

INDEX, REPEATED, EVALUATION = "media", "repeated.npy", "evaluation.npy"  # made from all raw files before the shards
CENSUS = ".census.npy"
MARK, CRASHES = ".now", "crashes.txt"  # the medium that is being decoded; those that crashed processes
HASHED = 1000  # image files of a benchmark that are hashed at once
_DIGITS = 32
_FIRST_LOOK = 1000  # outcomes before a shard's share of bad ones says anything


def count_shard(target: str, index: int, report: Report) -> None:
    """Counts what occurs in the raw files of a shard (see ``filters.duplicates``), but for pages that are left out."""
    plan = load_plan(target)
    is_page = FORMATS[plan.options.format].kind == "page"
    rows = (
        (key, number)
        for number, raw in _raws(plan, target, index, report)
        if isinstance(raw, Raw) and not (is_page and reject(raw, plan.options))
        for key in duplicates.census(raw, plan.options.duplicates)
    )
    chunks = iter(lambda: list(itertools.islice(rows, 1_000_000)), [])
    counted = functools.reduce(
        lambda a, b: duplicates.merge([a, b]), map(duplicates.count, chunks), duplicates.count([])
    )
    save_array(f"{target}/{plan.name(index)}{CENSUS}", counted)


def hash_evaluation(target: str, index: int, report: Report) -> None:
    """Hashes ``HASHED`` image files of the benchmarks."""
    files = find_files(load_plan(target).options.duplicates.evaluation)[index * HASHED : (index + 1) * HASHED]
    hashes = duplicates.hash_images(files, _open_mark(_mark(target, index)), _crashes(target))
    save_array(f"{target}/{index:05d}.{EVALUATION}", hashes)
    report(len(files))


def write_shard(target: str, index: int, report: Report) -> None:
    """Writes a shard of the dataset and beside it a .json with what its part of the manifest says.

    Raises ValueError when more of the raw files than ``max_bad`` is damaged, OSError when a file cannot be read or
    written.
    """
    plan = load_plan(target)
    found, evaluation = (
        load_array(f"{target}/{name}") if epath.Path(f"{target}/{name}").exists() else empty
        for name, empty in ((REPEATED, duplicates.count([])), (EVALUATION, np.empty(0, np.uint64)))
    )
    name = plan.name(index)
    known = duplicates.Duplicates(found, evaluation, plan.options.duplicates.distance)
    make = Maker(plan.options, known, _open_mark(_mark(target, index)), _crashes(target))
    tally = Tally(plan.options.max_bad)
    outcomes = (
        outcome
        for number, raw in _raws(plan, target, index, report)
        for outcome in ([raw] if isinstance(raw, Dropped) else make(raw, number))
    )
    write_outcomes(target, name, outcomes, tally)


def write_outcomes(target: str, name: str, outcomes: Iterable[Document | Dropped], tally: Tally) -> None:
    """Writes the documents, the list of what is damaged and, when it is all there, the .json that says so."""
    entry = record.write_file(f"{target}/{name}.array_record", map(encode, tally.filter(outcomes)))
    if tally.listed:
        write_whole(f"{target}/{name}.bad.jsonl", "".join(tally.listed))
    write_whole(f"{target}/{name}.json", json.dumps({"entry": entry, "report": tally.report}))


def died_at(target: str, index: int) -> str:
    """The hash of the medium that a process died at in this work, "" if at none; it is told once. See ``local.run``."""
    path = epath.Path(_mark(target, index))
    if "://" in target or not path.exists():
        return ""
    medium = _marked(path)
    path.unlink()  # lest a process that dies before any medium be taken for another one that died at this
    return medium


def has_died(target: str) -> bool:
    """Whether a process died while it decoded a medium, and nobody was told of it."""
    return "://" not in target and any(map(_marked, epath.Path(target).glob(f"*{MARK}")))


def convict(target: str, medium: str) -> None:
    """Leaves out a medium from now on. See ``local.run``."""
    write_whole(f"{target}/{CRASHES}", "\n".join(sorted({*_crashes(target), medium})))


def _mark(target: str, index: int) -> str:
    return f"{target}/{index:05d}{MARK}"


def _marked(path: epath.Path) -> str:
    return path.read_text().strip("\0")


def _open_mark(path: str) -> Callable[[str], None]:
    """What writes down the hash of a medium, which is 32 digits, so that it outlives a crash of this process.

    At other places than this machine nothing is written down, and a crash stops the preparation.
    """
    if "://" in path:
        return lambda digest: None
    write_whole(path, bytes(_DIGITS))  # not only made so long: a full disk would end the process at the first medium
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), _DIGITS)

    def mark(digest: str) -> None:
        memory[:] = digest.encode().ljust(_DIGITS, b"\0")

    return mark


def _crashes(target: str) -> frozenset[str]:
    path = epath.Path(f"{target}/{CRASHES}")
    return frozenset(path.read_text().split()) if path.exists() else frozenset()


def _raws(plan: Plan, target: str, index: int, report: Report) -> Iterator[tuple[int, Raw | Dropped]]:
    """(number of its task, item) for all items of a shard, in order."""
    base = plan.options.images if epath.Path(plan.options.images or "-").is_dir() else plan.root
    indexed = epath.Path(f"{target}/{INDEX}.npy").exists()
    find = media.Index(f"{target}/{INDEX}", base) if indexed else media.in_folder(base)
    corpus = Corpus(plan.options, plan.root, find)
    read = FORMATS[plan.options.format].read
    for number, task in enumerate(plan.shards[index], plan.number(index)):
        for item in read(task, corpus):
            yield number, item
        report(task.size)


class Tally:
    """Counts what becomes of raw files.

    Attributes:
        report: documents, media, drops {reason: count}, first_drops {reason: place}, bad: how many were damaged.
        listed: a line of JSON for each that was damaged.
    """

    def __init__(self, max_bad: float):
        self.report = {"documents": 0, "media": 0, "bad": 0, "drops": {}, "first_drops": {}}
        self.listed: list[str] = []
        self._max_bad = max_bad

    def filter(self, outcomes: Iterable[Document | Dropped]) -> Iterator[Document]:
        """Passes documents on and counts the rest. Raises ValueError past the share of damaged input."""
        report = self.report
        for outcome in outcomes:
            if isinstance(outcome, Document):
                report["documents"] += 1
                report["media"] += len(outcome.media)
                yield outcome
            else:
                self.drop(outcome)

    def drop(self, outcome: Dropped) -> None:
        """Counts what is left out. Raises as ``filter`` does."""
        report = self.report
        report["drops"][outcome.reason] = report["drops"].get(outcome.reason, 0) + 1
        report["first_drops"].setdefault(outcome.reason, outcome.place)
        if outcome.bad:
            report["bad"] += 1
            self.listed.append(json.dumps(dataclasses.asdict(outcome)) + "\n")
            check_share(report, self._max_bad, _FIRST_LOOK)


def check_share(report: dict, most: float, least: int) -> None:
    """Raises ValueError when of ``least`` outcomes or more the share of damaged ones is above ``most``."""
    total = report["documents"] + report["media"] + sum(report["drops"].values())
    if report["bad"] > most * total and total >= least:
        firsts = "\n".join(f"  {n} x {r} (first: {report['first_drops'][r]})" for r, n in report["drops"].items())
        raise ValueError(
            f"{report['bad']} of {total} documents and media are damaged, more than max_bad={most}:\n{firsts}\n"
            "Mend the raw files, or give a larger max_bad to leave them out."
        )


def load_array(path: str) -> np.ndarray:
    return np.load(io.BytesIO(epath.Path(path).read_bytes()))


def add(report: dict, part: dict) -> None:
    """Adds the report of a shard to that of all before it."""
    for key in ("documents", "media", "bad"):
        report[key] += part[key]
    for reason, count in part["drops"].items():
        report["drops"][reason] = report["drops"].get(reason, 0) + count
        report["first_drops"].setdefault(reason, part["first_drops"][reason])
