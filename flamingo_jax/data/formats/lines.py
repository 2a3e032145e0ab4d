"""Files of lines, packed or not, and the JSON objects in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from flamingo_jax.data.document import Dropped
from flamingo_jax.data.formats.packed import Damaged, open_members

MAX_LINE = 16_000_000
"""Bytes of one line; a longer one is dropped, and not read into memory whole."""


def read_lines(path: str, source: str) -> Iterator[tuple[str, bytes] | Dropped]:
    """(place, line) for every line of a file that is not blank; a Dropped for what is damaged.

    The lines of a zip archive's files follow one another. ``source``: the file's name.
    """
    number = 0
    try:
        for file in open_members(path):
            while line := file.readline(MAX_LINE):
                number += 1
                place = f"{source}:{number}"
                if len(line) == MAX_LINE and not line.endswith(b"\n"):
                    while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                        pass
                    yield Dropped("line too long", place, bad=True)
                elif line.strip():
                    yield place, line
    except Damaged as error:
        yield Dropped("file damaged", f"{source}, after line {number}: {error}", bad=True)


def read_objects(path: str, source: str) -> Iterator[tuple[str, dict[str, Any]] | Dropped]:
    """(place, object) for every line that holds a JSON object; a Dropped for all others that are not blank."""
    for item in read_lines(path, source):
        yield item if isinstance(item, Dropped) else parse(item[1], item[0])


def parse(data: bytes, place: str) -> tuple[str, dict[str, Any]] | Dropped:
    """(place, object) of the JSON object in ``data``, or what is wrong with it."""
    try:
        fields = json.loads(data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as error:
        return Dropped("line not JSON", f"{place}: {error}", bad=True)
    return (place, fields) if isinstance(fields, dict) else Dropped("line not an object", place, bad=True)
