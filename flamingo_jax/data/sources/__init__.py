"""Where training reads documents from: a prepared dataset, or raw files of some formats, read in place.

A source has

    len(source)                  how many records it has
    source.read(index, choice)   the document of a record in [0, len). ``choice`` in [0, 1) picks one where a record
                                 holds several. Raises IndexError outside, and ValueError, naming the place, for damage
    source.locate(index)         (file, number of the record in it): for a person who wants to look

It can be pickled, and used by threads; files are opened in each process when they are read. Its ``repr`` is the same in
every process, for Grain compares it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Protocol

from flamingo_jax.config import DatasetConfig
from flamingo_jax.data import record
from flamingo_jax.data.document import Document
from flamingo_jax.data.file import write_whole
from flamingo_jax.data.sources import tar_index
from flamingo_jax.data.sources.tar import TarSource
from flamingo_jax.data.sources.tfds import TfdsSource, count

# format: (what looks at the raw files once and returns a report, the source)
_IN_PLACE = {
    "tar": (tar_index.index, TarSource),
    "tfds": (count, lambda options, folder: TfdsSource(options)),
}


class Source(Protocol):
    """See above."""

    def __len__(self) -> int: ...

    def read(self, index: int, choice: float = 0.0) -> Document: ...

    def locate(self, index: int) -> tuple[str, int]: ...


def index(
    options: DatasetConfig,
    folder: str | os.PathLike,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Looks at the raw files of an ``in_place`` dataset once, and at those that are new or changed when done again.

    Args:
        options: the dataset.
        folder: where what is found is written: an index, and the report.
        workers: processes; they are started where they pay.
        progress: called with (files done, all).

    Returns:
        The report, as that of ``prepare``: format, source, documents, media, bad, drops {reason: count} and first_drops
        {reason: place}.

    Raises:
        ValueError: no file matches, one cannot be read in place, no document was found, or too much is damaged.
        OSError: the folder cannot be written.
    """
    make, _ = _IN_PLACE[options.format]
    os.makedirs(folder, exist_ok=True)
    report = {"format": options.format, "source": options.source}
    report |= make(options, os.fspath(folder), workers=workers, progress=progress)
    write_whole(f"{os.fspath(folder)}/{record.REPORT}", json.dumps(report, indent=2))
    return report


def open_source(options: DatasetConfig, folder: str | os.PathLike) -> Source:
    """The source of a dataset that ``prepare`` has written to ``folder``, or ``index`` where it is read in place.

    Raises ValueError when it is missing or damaged, or raw files are not what they were.
    """
    return _IN_PLACE[options.format][1](options, folder) if options.in_place else record.Source(folder)
