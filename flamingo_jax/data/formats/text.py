"""Text alone: JSON lines with a field ``text`` -> documents without media, for the language model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO

from flamingo_jax.data.corpus import Corpus, Task
from flamingo_jax.data.document import Dropped, Raw
from flamingo_jax.data.file import open_file

MAX_LINE = 16_000_000
"""Bytes of one line; a longer one is dropped, and not read into memory whole."""


def read(task: Task, corpus: Corpus) -> Iterator[Raw | Dropped]:
    with open_file(task.path) as file:
        yield from documents(file, corpus.name(task.path))


def documents(file: BinaryIO, source: str) -> Iterator[Raw | Dropped]:
    """A document per line that is not blank, in order; a Dropped for every line that is none. ``source``: its name."""
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        place = f"{source}:{number}"
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            yield Dropped("line too long", place, bad=True)
        elif line.strip():
            yield _document(line, place, source)


def _document(line: bytes, place: str, source: str) -> Raw | Dropped:
    try:
        fields = json.loads(line.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as error:
        return Dropped("line not JSON", f"{place}: {error}", bad=True)
    text = fields.get("text") if isinstance(fields, dict) else None
    if not isinstance(text, str) or not text.strip():
        return Dropped("line without text", place)
    return Raw(place, text.strip(), source=source)
