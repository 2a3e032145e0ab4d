"""Columns of tables of any kind: which of them is which, and what their cells mean."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from flamingo_jax.config import suggest
from flamingo_jax.data.document import Dropped, Medium

Find = Callable[[str], bytes | Dropped]

Roles = Mapping[str, Sequence[str]]
"""What a format needs of a row -> what the column is usually called, the best first."""

MEDIA = """
jpg jpeg png webp mp4 image img video image_bytes path file filepath file_path filename file_name url image_url
video_url contenturl
""".split()
CAPTIONS = "caption text txt captions sentences alt_text title".split()
"""The usual names of columns with images or clips (their content first, then their places), and with captions."""


def choose(
    roles: Roles, given: Mapping[str, str], present: Sequence[str], path: str, optional: Collection[str] = ()
) -> dict[str, str]:
    """The column of each role: the one that ``given`` names, or else the first of its usual names, in any case.

    Args:
        roles: see ``Roles``.
        given: ``CorpusConfig.columns``.
        present: the columns of the table.
        path: of the table, for the errors.
        optional: roles that may have no column.

    Raises:
        ValueError: a role has no column, or ``given`` names a role or a column that is not there.
    """
    for role in given:
        if role not in roles:
            raise ValueError(f"columns names {role!r}, which is not there; {suggest(role, roles)}.")
    found, missing = {}, []
    for role, names in roles.items():
        lower = {name.lower(): name for name in reversed(present)}
        if role in given:
            column = given[role] if given[role] in present else None
        else:
            column = next((lower[name] for name in names if name in lower), None)
        if column is not None:
            found[role] = column
        elif role in given or role not in optional:
            missing.append(repr(given[role]) if role in given else f"{role} ({' or '.join(names[:6])})")
    if missing:
        wanted = ", ".join(f'"{role}": ...' for role in roles if role not in optional)
        raise ValueError(
            f"{path} has the columns {', '.join(present) or 'none'}, but no {' and no '.join(missing)}; say what they "
            f"are called: columns={{{wanted}}}."
        )
    return found


def medium(cell: Any, name: str, folder: str, find: Find) -> Medium | None:
    """The file that a cell holds or names: bytes, an address, a path, or the pair of them that Hugging Face writes.

    Args:
        cell: of a row.
        name: of a file that has no name of its own.
        folder: what paths are relative to: see ``Corpus.folder``.
        find: see ``Corpus``.

    Returns:
        None if the cell is empty or something else.
    """
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes) and cell:
        return Medium(name, functools.partial(bytes, cell))
    if isinstance(cell, str) and cell:
        return named((cell,), folder, find)
    return None


def named(names: Sequence[str], folder: str, find: Find) -> Medium:
    """A file by its possible addresses and paths, the likeliest first; empty ones are left out."""
    places = tuple(name if "://" in name else os.path.join(folder, name) for name in names if name)
    return Medium((*places, "")[0], functools.partial(first, find, places))


def first(find: Find, names: Sequence[str]) -> bytes | Dropped:
    """The first file that is there; else why: what is damaged before what is missing."""
    reasons = []
    for name in names:
        found = find(name)
        if not isinstance(found, Dropped):
            return found
        reasons.append(found)
    damaged = [reason for reason in reasons if reason.bad]
    return [*damaged, *reversed(reasons), Dropped("medium without name", "")][0]


def captions(cell: Any) -> list[str]:
    """The texts in a cell: one, a list of them, or what has them as its ``text``, ``raw`` or ``caption``."""
    if isinstance(cell, str):
        return [cell]
    if isinstance(cell, bytes):
        return [cell.decode("utf-8", "replace")]
    if isinstance(cell, Mapping):
        return next((captions(cell[name]) for name in ("text", "raw", "caption") if name in cell), [])
    if isinstance(cell, Sequence):
        return [caption for item in cell for caption in captions(item)]
    return []
