"""``python -m flamingo_jax.prepare --format=FORMAT --source=GLOB --target=DIR``: raw files of the web become a dataset.

With the name of an evaluation set for a format (``flamingo_jax/data/benchmarks``), --source is the folder of its public
files, which become the benchmark DIR/FORMAT. The options are then max_bad and query, the split: --set=query=test-dev

Interrupted and started again, it goes on where it stopped. All other options are keys of ``CorpusConfig``
(``flamingo_jax/config/corpus.py``, which explains them): --set=size=224 --set=text.min_words=20
"""

from __future__ import annotations

import ast
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tqdm
from absl import app, flags, logging

from flamingo_jax import config as configs
from flamingo_jax import errors
from flamingo_jax.config import CorpusConfig

flags.adopt_module_key_flags(errors)
FORMAT = flags.DEFINE_string("format", None, "The raw files' format.")
SOURCE = flags.DEFINE_string("source", None, "Glob of the raw files; ** stands for any folders.")
TARGET = flags.DEFINE_string("target", None, "Folder of the dataset.")
IMAGES = flags.DEFINE_string(
    "images", "", "Where images and clips are that the raw files name: a folder, or a glob of tars or url,file tables."
)
WORKERS = flags.DEFINE_integer("workers", 0, "Processes; as many as there are cores if not given.")
SET = flags.DEFINE_multi_string(
    "set", [], "Any other option, by its key in flamingo_jax/config/corpus.py: --set=size=224 --set=text.min_words=20"
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"flamingo_jax.prepare: {argv[1]!r} is no option; options look like --source=GLOB.")
    for flag in (FORMAT, SOURCE, TARGET):
        if not flag.value:
            sys.exit(f"flamingo_jax.prepare: Give --format, --source and --target; --{flag.name} is missing.")
    logging.set_verbosity(logging.WARNING)
    with errors.as_sentences("flamingo_jax.prepare", "The same command goes on where it stopped."):
        from flamingo_jax.data.benchmarks import BENCHMARKS
        from flamingo_jax.data.prepare import prepare

        if FORMAT.value in BENCHMARKS:
            _convert()
            return
        given = {"format": FORMAT.value, "source": SOURCE.value, "images": IMAGES.value}
        options = configs.build(given | parse_options(SET.value), CorpusConfig, "--set")
        with tqdm.tqdm(unit="B", unit_scale=True, disable=None) as bar:
            report = prepare(options, TARGET.value, workers=WORKERS.value or os.cpu_count(), progress=_show(bar))
        print(render(report))


def _convert() -> None:
    from flamingo_jax.data.benchmarks import convert, describe

    options = parse_options(SET.value)
    if unknown := options.keys() - {"query", "max_bad"}:
        hint = configs.suggest(min(unknown), ("query", "max_bad"))
        raise ValueError(f"--set={min(unknown)} is no option of evaluation sets; {hint}.")
    report = convert(FORMAT.value, SOURCE.value, TARGET.value, IMAGES.value, **options)
    print(describe(report))


def parse_options(assignments: Sequence[str]) -> dict[str, Any]:
    """["text.min_words=20"] -> {"text": {"min_words": 20}}. Raises ValueError for what is no assignment."""
    options: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set={assignment} sets nothing; it looks like --set=text.min_words=20.")
        *groups, key = path.split(".")
        place = functools.reduce(lambda found, group: found.setdefault(group, {}), groups, options)
        try:
            place[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):  # a word is a string
            place[key] = value
    return options


def _show(bar: tqdm.tqdm) -> Callable[[int, int], None]:
    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return update


def render(report: Mapping[str, Any]) -> str:
    """What was kept and what was left out, with the first case of each reason."""
    lines = [f"{report['documents']:,} documents with {report['media']:,} media."]
    if report["drops"]:
        lines.append("Left out:")
    for reason, count in sorted(report["drops"].items(), key=lambda item: -item[1]):
        lines.append(f"  {count:>9,}  {reason} (first: {report['first_drops'][reason]})")
    if report["bad"]:
        lines.append(f"{report['bad']:,} of these are damaged; the .bad.jsonl files beside the dataset list them all.")
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main)
