"""What a preparation does, written down before it starts: which raw files go into which shard."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os

from etils import epath

from flamingo_jax import config as configs
from flamingo_jax.config import CorpusConfig, suggest
from flamingo_jax.data.corpus import Task, root_of
from flamingo_jax.data.formats import FORMATS
from flamingo_jax.data.prepare.state import PLAN

SHARD_BYTES = 64_000_000  # of raw files
MAX_SHARDS = 1024


@dataclasses.dataclass(frozen=True)
class Plan:
    """Attributes:
    options: the corpus.
    root: the folder that names of raw files are relative to.
    shards: per shard its tasks. The dataset is a function of the plan alone, whatever works on it, in which order.
    """

    options: CorpusConfig
    root: str
    shards: tuple[tuple[Task, ...], ...]

    def name(self, index: int) -> str:
        """A shard's file, without its suffix."""
        return f"{index:05d}-of-{len(self.shards):05d}"

    @property
    def names(self) -> list[str]:
        """All shards' files."""
        return [self.name(index) for index in range(len(self.shards))]

    def number(self, index: int) -> int:
        """The number of a shard's first task."""
        return sum(len(tasks) for tasks in self.shards[:index])


def make_plan(options: CorpusConfig, target: str = "") -> Plan:
    """Lists the raw files and cuts them into shards of about equal size, in the order of their names.

    What is below ``target``, the dataset's folder, is no raw file.

    Raises ValueError for an unknown format, senseless options, and when no file matches; OSError for a file that cannot
    be read.
    """
    if options.format not in FORMATS:
        raise ValueError(f"format={options.format!r} is unknown; {suggest(options.format, FORMATS)}.")
    for name in options.text.formats:
        if name not in FORMATS:
            raise ValueError(f"text.formats has {name!r}, which is unknown; {suggest(name, FORMATS)}.")
    format = FORMATS[options.format]
    inside = os.path.join(os.path.abspath(target), "") if target and "://" not in target else None
    paths = [p for p in format.list(options.source) if inside is None or not os.path.abspath(p).startswith(inside)]
    if not paths:
        raise ValueError(f"No file matches source={options.source!r} but for those of the dataset {target}.")
    tasks = [task for path in paths for task in format.tasks(path, options)]
    total = sum(max(1, task.size) for task in tasks)
    count = options.shards or min(MAX_SHARDS, -(-total // SHARD_BYTES))
    shards: list[list[Task]] = [[] for _ in range(max(1, min(count, len(tasks))))]
    done = 0
    for task in tasks:
        middle = done + max(1, task.size) / 2
        shards[min(int(middle * len(shards) / total), len(shards) - 1)].append(task)
        done += max(1, task.size)
    filled = tuple(tuple(shard) for shard in shards if shard)
    return Plan(options, root_of(options.source), filled)


def to_json(plan: Plan) -> str:
    """The plan as text."""
    shards = [[dataclasses.astuple(task) for task in tasks] for tasks in plan.shards]
    return json.dumps({"options": dataclasses.asdict(plan.options), "root": plan.root, "shards": shards})


def fingerprint(plan: Plan) -> str:
    """Equal for equal raw files (their names and sizes) and options that make the same of them."""
    same = dataclasses.replace(plan, options=dataclasses.replace(plan.options, max_bad=0))
    return hashlib.sha256(to_json(same).encode("utf-8", "surrogateescape")).hexdigest()


def from_json(text: str) -> Plan:
    """The inverse of ``to_json``."""
    fields = json.loads(text)
    shards = tuple(tuple(Task(*task) for task in tasks) for tasks in fields["shards"])
    return Plan(configs.build(fields["options"], CorpusConfig, "options"), fields["root"], shards)


@functools.lru_cache(maxsize=1)
def load_plan(target: str) -> Plan:
    """The plan of a preparation that has begun at ``target``."""
    return from_json((epath.Path(target) / PLAN).read_text())
