"""Pairs in tar files as img2dataset and video2dataset write them: ``KEY.jpg`` (or png, webp, mp4), ``.txt``, ``.json``.

Members are read one after another and never extracted: a name such as ``../../x`` is a key and nothing else.
"""

from __future__ import annotations

import functools
import json
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from flamingo_jax.data.corpus import Corpus, Task
from flamingo_jax.data.document import Dropped, Medium, Raw
from flamingo_jax.data.file import open_file

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "avif")
CLIPS = ("mp4", "webm", "mkv", "mov", "avi")
"""Suffixes of members that are media, lower case; the first that a sample has is its medium."""

MAX_MEMBER = 500_000_000
"""Bytes of one member; larger ones are passed over."""


def read(task: Task, corpus: Corpus) -> Iterator[Raw | Dropped]:
    """A document per sample with a medium and a caption, in order; a Dropped for whatever is not one.

    What comes before a damage of the file is used.
    """
    source = corpus.name(task.path)
    with open_file(task.path) as file:
        for sample in samples(file, source):
            yield sample if isinstance(sample, Dropped) else pair(*sample, source)


def pair(key: str, parts: dict[str, bytes], source: str) -> Raw | Dropped:
    """One sample as a document: its caption, and its medium before it. ``parts``: suffix -> content."""
    place = f"{source}/{key}"
    suffix = next((suffix for suffix in (*IMAGES, *CLIPS) if suffix in parts), None)
    if suffix is None:
        return Dropped("pair without medium", place)
    medium = Medium(f"{key}.{suffix}", functools.partial(bytes, parts[suffix]))
    return Raw(place, _caption(parts), (0,), (medium,), source, suffix in CLIPS)


def split_name(path: str) -> tuple[str, str]:
    """(key, suffix in lower case) of a member: its key is the path up to the first dot of the file name."""
    folder, _, name = path.rpartition("/")
    stem, _, suffix = name.partition(".")
    return f"{folder}/{stem}" if folder else stem, suffix.lower()


def samples(file: BinaryIO, source: str) -> Iterator[tuple[str, dict[str, bytes]] | Dropped]:
    """Groups neighbouring members by key: their path up to the first dot of the file name (WebDataset's rule)."""
    key, parts = None, {}
    for member in _members(file, source):
        if isinstance(member, Dropped):
            yield member
            continue
        path, data = member
        stem, suffix = split_name(path)
        if stem != key:
            if parts:
                yield key, parts
            key, parts = stem, {}
        if suffix in parts:
            yield Dropped("member repeated", f"{source}/{path}", bad=True)
        else:
            parts[suffix] = data
    if parts:
        yield key, parts


def _members(file: BinaryIO, source: str) -> Iterator[tuple[str, bytes] | Dropped]:
    # tarfile raises many types on damaged headers (its own, UnicodeError, OverflowError, ...).
    last = ""
    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                last = member.name
                if not member.isreg():
                    continue
                if member.size > MAX_MEMBER:
                    yield Dropped("member too large", f"{source}/{last}: {member.size} bytes", bad=True)
                    continue
                yield last, tar.extractfile(member).read()
                tar.members.clear()  # tarfile would keep every header for the whole pass
    except Exception as error:
        yield Dropped("tar damaged", f"{source}, after {last!r}: {error}" if last else f"{source}: {error}", bad=True)


def _caption(parts: dict[str, bytes]) -> str:
    if "txt" in parts:
        return parts["txt"].decode("utf-8-sig", "replace")
    try:
        fields = json.loads(parts.get("json", b"{}"))
    except (ValueError, RecursionError):
        return ""
    caption = fields.get("caption") if isinstance(fields, dict) else None
    return caption if isinstance(caption, str) else ""
