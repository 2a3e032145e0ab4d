"""Pairs in Parquet files: a row is an image or a clip, or where it is, and its caption.

As img2dataset and video2dataset write them (``output_format=parquet``: the file in a column jpg, png, webp or mp4, null
where the download failed), as LAION, COYO and DataComp list addresses, and as Hugging Face stores images.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data.corpus import MEDIUM_BYTES, Corpus, Task
from flamingo_jax.data.document import Dropped, Raw
from flamingo_jax.data.file import open_file, size_of
from flamingo_jax.data.formats import column
from flamingo_jax.data.formats.packed import FREE_BYTES, MAX_RATIO, Damaged

ROWS = 10_000  # of a task
_PARTS = 32  # tasks of one row group, at most: each reads it from its beginning
_BATCH = (
    16  # rows that are unpacked at once; more are hardly faster, and all may hold the largest value of a dictionary
)

ROLES = {"media": column.MEDIA, "caption": column.CAPTIONS}


def tasks(path: str, options: CorpusConfig) -> Iterator[Task]:
    """Parts of a file. Raises ValueError when columns are missing."""
    yield from cut(path, options, ROLES)


def read(task: Task, corpus: Corpus) -> Iterator[Raw | Dropped]:
    """A pair per caption of a row; media that are named by paths are relative to the file, or to ``options.images``."""
    source, folder = corpus.name(task.path), corpus.folder(task.path)
    for item in rows(task, corpus.options, ROLES, source):
        if isinstance(item, Dropped):
            yield item
        else:
            place, row = item
            yield from pairs(place, row, folder, corpus, source)


def pairs(place: str, row: dict[str, Any], folder: str, corpus: Corpus, source: str) -> Iterator[Raw | Dropped]:
    """The pairs of one row {"media": cell, "caption": cell}; of several captions, each has a key of its own."""
    medium = column.medium(row["media"], place, folder, corpus.find)
    if medium is None:
        yield Dropped("pair without medium", place)
        return
    for number, caption in enumerate(column.captions(row["caption"]) or [""]):
        yield Raw(f"{place}.{number}" if number else place, caption, (0,), (medium,), source)


def cut(
    path: str, options: CorpusConfig, roles: column.Roles, optional: Collection[str] = (), media: float = 1.0
) -> Iterator[Task]:
    """Tasks of about ``ROWS`` rows of a Parquet file, and one task for a file that is damaged.

    Args:
        roles, optional: see ``column.choose``.
        media: how many a row has on average, when they are elsewhere.

    Raises:
        ValueError: columns are missing.
    """
    size = size_of(path)
    try:
        with open_file(path) as file:
            table = _open(file, size)
            names = table.schema_arrow.names
            groups = _groups(table)
            kinds = {field.name: field.type for field in table.schema_arrow}
    except Damaged:
        yield Task(path, size=size)
        return
    chosen = column.choose(roles, options.columns, names, path, optional)
    if any(_holds_bytes(kinds[name]) for name in chosen.values()):
        media = 0.0
    for start, stop in _parts(groups):
        yield Task(path, start, stop, (stop - start) * (size // sum(groups) + int(media * MEDIUM_BYTES)))


def _parts(groups: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(start, stop) of tasks: row groups that have up to ``ROWS`` rows together, or equal parts of a larger one.

    groups: the rows of each.
    """
    start = stop = 0
    for count in groups:
        if start < stop and stop - start + count > ROWS:
            yield start, stop
            start = stop
        stop += count
        if count > ROWS:
            parts = min(-(-count // ROWS), _PARTS)
            bounds = [start + count * part // parts for part in range(parts + 1)]
            yield from itertools.pairwise(bounds)
            start = stop
    if start < stop:
        yield start, stop


def rows(
    task: Task, options: CorpusConfig, roles: column.Roles, source: str, optional: Collection[str] = ()
) -> Iterator[tuple[str, dict[str, Any]] | Dropped]:
    """(place, {role: cell}) for each row of a task; a Dropped for each part of the file that is damaged."""
    size = size_of(task.path)
    most = max(FREE_BYTES, MAX_RATIO * size)
    with open_file(task.path) as file:
        try:
            table = _open(file, size)
        except Damaged as error:
            yield Dropped("parquet damaged", f"{source}: {error}", bad=True)
            return
        names = column.choose(roles, options.columns, table.schema_arrow.names, task.path, optional)
        start = 0
        for group, count in enumerate(_groups(table)):
            stop = start + count
            if start < (stop if task.stop is None else task.stop) and stop > task.start:
                for number, row in _group(table, group, list(names.values()), start, task, most):
                    if isinstance(row, Exception):
                        yield Dropped("parquet damaged", f"{source}, rows from {number} on: {row}", bad=True)
                    else:
                        yield f"{source}:{number}", {role: row[name] for role, name in names.items()}
            start = stop


def _group(
    table: pq.ParquetFile, group: int, names: list[str], start: int, task: Task, most: int
) -> Iterator[tuple[int, dict[str, Any] | Exception]]:
    """(number, row) for those rows of a row group that a task has; (number, error) for one that cannot be read.

    No row can be read after a damage; the task that has the first of these tells it, and those of later rows do not.

    start: the number of the group's first row. most: see ``_batches``.
    """
    last = table.metadata.num_rows if task.stop is None else task.stop
    batches = _batches(table, group, names, most)
    while start < last:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk
                raise
            if start >= task.start:
                yield start, error
            return
        if batch is None:
            return
        for i in range(max(task.start - start, 0), min(last - start, batch.num_rows)):
            try:
                yield start + i, batch.slice(i, 1).to_pylist()[0]
            except ValueError as error:  # text that is not UTF-8
                yield start + i, error
        start += batch.num_rows


def _batches(table: pq.ParquetFile, group: int, names: list[str], most: int) -> Iterator[pa.RecordBatch]:
    """A few rows of a row group at a time. Raises Damaged when they unpack to more than ``most`` bytes."""
    bomb = Damaged(f"they unpack to more than {MAX_RATIO} times the file's size")
    if table.metadata.row_group(group).total_byte_size > most:  # pyarrow has more detail, but dies of damaged one
        raise bomb
    for batch in table.iter_batches(_BATCH, row_groups=[group], columns=names, use_threads=False):
        most -= batch.nbytes
        if most < 0:  # the values of a dictionary may come out any number of times
            raise bomb
        yield batch


def _open(file, size: int) -> pq.ParquetFile:
    """Raises Damaged when the file is cut off, or something else."""
    try:
        # Not read ahead: a row group of images takes hundreds of MB.
        table = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
        table.schema_arrow.names  # noqa: B018  (raises for a schema that cannot be read)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Damaged(str(error)) from None
    groups = _groups(table)
    if sum(groups) > 8 * size:  # a row takes a bit at least; its header may claim any number
        raise Damaged(f"it claims {sum(groups)} rows in {size} bytes")
    if min(groups, default=0) < 0 or sum(groups) != table.metadata.num_rows:
        raise Damaged(f"it claims {table.metadata.num_rows} rows, its row groups {sum(groups)}")
    return table


def _groups(table: pq.ParquetFile) -> list[int]:
    """The rows of each row group."""
    return [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_holds_bytes(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_bytes(kind.value_type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
