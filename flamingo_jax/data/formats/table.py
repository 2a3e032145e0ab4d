"""Tables of captions (CSV, TSV) whose images or clips are files: one row is one pair.

Public sets of that kind have layouts of their own: Conceptual Captions, Conceptual 12M and WebVid.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import BinaryIO

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data.corpus import MEDIUM_BYTES, Corpus, Task
from flamingo_jax.data.document import Dropped, Raw
from flamingo_jax.data.file import size_of
from flamingo_jax.data.formats import column
from flamingo_jax.data.formats.packed import Damaged, open_packed

ROWS = 10_000  # of a task
MAX_FIELD = 1_000_000
"""Characters of one field; a longer one ends the table: it is a quotation mark that is never closed."""

MAX_LINE = 16_000_000
"""Bytes of one line; a longer one ends a CSV table, and is one bad row of a TSV table."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Attributes:
    roles: see ``column.Roles``; numbers count the columns of a table without header.
    optional: roles that may have no column.
    names: the places of a row's medium, the likeliest first.
    tabs: whether tabs part the fields; if None, the suffix .tsv says so.
    """

    roles: column.Roles
    names: Callable[[dict[str, str]], tuple[str, ...]] = lambda row: (row["media"],)
    optional: tuple[str, ...] = ()
    tabs: bool | None = None


LAYOUTS = {
    "table": Layout({"media": column.MEDIA, "caption": column.CAPTIONS}),
    "cc3m": Layout({"caption": ("0",), "media": ("1",)}, tabs=True),  # Train_GCC-training.tsv
    "cc12m": Layout({"media": ("0",), "caption": ("1",)}, tabs=True),  # cc12m.tsv
    "webvid": Layout(
        {"media": ("videoid",), "folder": ("page_dir",), "address": ("contenturl",), "caption": ("name",)},
        lambda row: (
            row.get("address", ""),
            f"{row['folder']}/{row['media']}.mp4" if row.get("folder") else "",
            f"{row['media']}.mp4",
        ),
        optional=("folder", "address"),
    ),
}
"""By format."""


def tasks(path: str, options: CorpusConfig, layout: Layout) -> Iterator[Task]:
    """Tasks of ``ROWS`` rows, in bytes of the (unpacked) table. Raises ValueError when columns are missing."""
    size, starts, count = size_of(path), [0], 0
    with open_packed(path) as file:
        for count, (offset, _) in enumerate(_rows(file, 0, path, options, layout)):  # noqa: B007
            if count and count % ROWS == 0:
                starts.append(offset)
    for start, stop in zip(starts, [*starts[1:], None], strict=True):
        yield Task(path, start, stop, size // len(starts) + min(count + 1, ROWS) * MEDIUM_BYTES)


def read(task: Task, corpus: Corpus, layout: Layout) -> Iterator[Raw | Dropped]:
    """A pair per row; media are named relative to the table's folder, or as ``options.images`` finds them."""
    source, folder = corpus.name(task.path), corpus.folder(task.path)
    with open_packed(task.path) as file:
        for offset, row in _rows(file, task.start, task.path, corpus.options, layout):
            if task.stop is not None and offset >= task.stop:
                return
            place = f"{source}@{offset}"
            if isinstance(row, str):
                yield Dropped("table damaged", f"{place}: {row}", bad=True)
            elif not row["media"]:
                yield Dropped("pair without medium", place)
            else:
                medium = column.named(layout.names(row), folder, corpus.find)
                yield Raw(place, row["caption"], (0,), (medium,), source)


def _rows(
    file: BinaryIO, start: int, path: str, options: CorpusConfig, layout: Layout
) -> Iterator[tuple[int, dict[str, str] | str]]:
    """(offset, {role: field}) of each row from byte ``start`` on; (offset, what is wrong) where there is none.

    Raises ValueError when columns are missing.
    """
    tabs = ".tsv" in path.lower().rsplit("/", 1)[-1] if layout.tabs is None else layout.tabs
    lines = _Lines(file)
    records = _split(lines) if tabs else _parse(lines)
    names = {role: options.columns.get(role, usual[0]) for role, usual in layout.roles.items()}
    try:
        if all(name.isdigit() for name in names.values()):
            header = [str(number) for number in range(1 + max(map(int, names.values())))]
        else:
            offset, header = next(records, (0, []))
            if isinstance(header, str):
                yield offset, header
                return
        chosen = column.choose(layout.roles, options.columns, header, path, layout.optional)
        places = {role: header.index(name) for role, name in chosen.items()}
        if start:
            lines.go_to(start)
        for offset, row in records:
            if isinstance(row, str):
                yield offset, row
            else:
                yield offset, {role: row[place] if place < len(row) else "" for role, place in places.items()}
    except Damaged as error:
        yield lines.offset, str(error)


class _Lines:
    """The lines of a file. ``offset``: how many bytes have been read of it, unpacked."""

    def __init__(self, file: BinaryIO):
        self._file, self.offset = file, 0

    def go_to(self, offset: int) -> None:
        """Goes on at byte ``offset``, which is not before the one that has been reached."""
        if self._file.seekable():
            self._file.seek(offset)
            self.offset = offset
        while self.offset < offset and (chunk := self._file.read(min(offset - self.offset, 1 << 20))):
            self.offset += len(chunk)

    def read(self) -> str | None:
        """The next line with its end; "" after the last one, None for one that is too long."""
        start, line = self.offset, self._file.readline(MAX_LINE)
        self.offset += len(line)
        if len(line) < MAX_LINE or line.endswith(b"\n"):
            return line.decode("utf-8" if start else "utf-8-sig", "replace")
        while (rest := self._file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
            self.offset += len(rest)
        self.offset += len(rest)
        return None


def _split(lines: _Lines) -> Iterator[tuple[int, list[str] | str]]:
    """(offset, fields) of lines whose fields are parted by tabs and never quoted."""
    while True:
        start = lines.offset
        if (line := lines.read()) is None:
            yield start, f"a line is longer than {MAX_LINE} bytes"
        elif not line:
            return
        elif line := line.rstrip("\r\n"):
            yield start, line.split("\t")


def _parse(lines: _Lines) -> Iterator[tuple[int, list[str] | str]]:
    """(offset, fields) of CSV rows, whose fields may hold line feeds; nothing can be read after a damaged one."""
    csv.field_size_limit(MAX_FIELD)
    rows = csv.reader(iter(functools.partial(_whole, lines), ""))
    while True:
        start = lines.offset
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield start, str(error)
            return
        if row is None:
            return
        if row:
            yield start, row


def _whole(lines: _Lines) -> str:
    if (line := lines.read()) is None:
        raise csv.Error(f"a line is longer than {MAX_LINE} bytes")
    return line
