"""Tables of captions (CSV, TSV) whose images or clips are files: one row is one pair."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import os
from collections.abc import Iterator
from typing import BinaryIO

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data.corpus import Corpus, Task
from flamingo_jax.data.document import Dropped, Medium, Raw
from flamingo_jax.data.file import open_file, size_of

ROWS = 10_000  # of a task
MAX_FIELD = 1_000_000
"""Characters of one field; a longer one ends the table: it is a quotation mark that is never closed."""

COLUMNS = {"media": "path", "caption": "caption"}


def tasks(path: str, options: CorpusConfig) -> Iterator[Task]:
    """Tasks of ``ROWS`` rows. Raises ValueError when columns are missing."""
    with open_file(path) as file:
        count = sum(1 for _ in _rows(file, path, options))
    for start in range(0, count, ROWS):
        stop = min(start + ROWS, count)
        yield Task(path, start, stop, size_of(path) * (stop - start) // count)


def read(task: Task, corpus: Corpus) -> Iterator[Raw | Dropped]:
    """A pair per row; media are named relative to the table's folder, or as ``options.images`` finds them."""
    source = corpus.name(task.path)
    folder = "" if corpus.options.images else os.path.dirname(source)
    with open_file(task.path) as file:
        rows = itertools.islice(_rows(file, task.path, corpus.options), task.start, task.stop)
        for number, row in enumerate(rows, task.start):
            place = f"{source}:{number}"
            if isinstance(row, str):
                yield Dropped("table damaged", f"{place}: {row}", bad=True)
                continue
            name, caption = row
            name = name if "://" in name else os.path.join(folder, name)
            yield Raw(place, caption, (0,), (Medium(name, functools.partial(corpus.find, name)),), source)


def _rows(file: BinaryIO, path: str, options: CorpusConfig) -> Iterator[tuple[str, str] | str]:
    """(medium, caption) of each row; what is wrong with the table, where it can be read no further."""
    csv.field_size_limit(MAX_FIELD)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
    tabs = ".tsv" in path.lower().rsplit("/", 1)[-1]
    rows = csv.reader(text, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL)
    try:
        places = _places(COLUMNS | dict(options.columns), rows, path)
        for row in rows:
            if row:
                yield tuple(row[place] if place < len(row) else "" for place in places)
    except csv.Error as error:
        yield str(error)


def _places(names: dict[str, str], rows: Iterator[list[str]], path: str) -> tuple[int, int]:
    """Where a row has its medium and its caption; reads the header, where there is one."""
    wanted = names["media"], names["caption"]
    if all(name.isdigit() for name in wanted):
        return tuple(int(name) for name in wanted)
    header = next(rows, [])
    missing = [name for name in wanted if name not in header]
    if missing:
        raise ValueError(
            f"{path} has the columns {', '.join(header) or 'none'}, but no {' and no '.join(missing)}; say what they "
            'are called: columns={"media": ..., "caption": ...}.'
        )
    return tuple(header.index(name) for name in wanted)
