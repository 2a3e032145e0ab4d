"""Text alone: JSON lines with a field ``text`` -> documents without media, for the language model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO

from flamingo_jax.data.document import Document, Dropped

MAX_LINE = 16_000_000
"""Bytes of one line; a longer one is dropped, and not read into memory whole."""


def documents(file: BinaryIO, source: str) -> Iterator[Document | Dropped]:
    """A document per line that is not blank, in order; a Dropped for every line that is none. ``source``: its name."""
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        place = f"{source}:{number}"
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            yield Dropped("line too long", place)
        elif line.strip():
            yield _document(line, place, source)


def _document(line: bytes, place: str, source: str) -> Document | Dropped:
    try:
        fields = json.loads(line.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as error:
        return Dropped("line not JSON", f"{place}: {error}")
    text = fields.get("text") if isinstance(fields, dict) else None
    if not isinstance(text, str) or not text.strip():
        return Dropped("line without text", place)
    return Document(place, text.strip(), source=source)
