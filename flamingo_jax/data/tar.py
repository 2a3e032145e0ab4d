"""Image-text pairs in tar files as img2dataset writes them: ``KEY.jpg`` (or png, webp), ``KEY.txt``, ``KEY.json``.

Members are read one after another and never extracted: a name such as ``../../x`` is a key and nothing else.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from flamingo_jax.data import image
from flamingo_jax.data.document import Document, Dropped

IMAGES = ("jpg", "jpeg", "png", "webp", "gif")
"""Suffixes of image members, lower case; the first that a sample has is its image."""

MAX_MEMBER = 100_000_000
"""Bytes of one member; larger ones are passed over."""


def documents(file: BinaryIO, source: str, size: int) -> Iterator[Document | Dropped]:
    """A document per sample with an image and a caption, in order; a Dropped for whatever is not one.

    Args:
        file: an uncompressed tar. What comes before a damage is used.
        source: the file's name.
        size: longest side of the stored images, pixels.
    """
    for sample in samples(file, source):
        yield sample if isinstance(sample, Dropped) else document(*sample, source, size)


def document(key: str, parts: dict[str, bytes], source: str, size: int) -> Document | Dropped:
    """One sample as a document: its caption, and its image before it. ``parts``: suffix -> content."""
    place = f"{source}/{key}"
    data = next((parts[suffix] for suffix in IMAGES if suffix in parts), None)
    if data is None:
        return Dropped("pair without image", place)
    caption = " ".join(_caption(parts).split())
    if not caption:
        return Dropped("pair without caption", place)
    stored = image.store(data, size, place=place)
    if isinstance(stored, Dropped):
        return stored
    return Document(place, caption, (0,), ((stored,),), source)


def samples(file: BinaryIO, source: str) -> Iterator[tuple[str, dict[str, bytes]] | Dropped]:
    """Groups neighbouring members by key: their path up to the first dot of the file name (WebDataset's rule)."""
    key, parts = None, {}
    for member in _members(file, source):
        if isinstance(member, Dropped):
            yield member
            continue
        path, data = member
        folder, _, name = path.rpartition("/")
        stem, _, suffix = name.partition(".")
        stem, suffix = f"{folder}/{stem}" if folder else stem, suffix.lower()
        if stem != key:
            if parts:
                yield key, parts
            key, parts = stem, {}
        if suffix in parts:
            yield Dropped("member repeated", f"{source}/{path}")
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
                    yield Dropped("member too large", f"{source}/{last}: {member.size} bytes")
                    continue
                yield last, tar.extractfile(member).read()
                tar.members.clear()  # tarfile would keep every header for the whole pass
    except Exception as error:
        yield Dropped("tar damaged", f"{source}, after {last!r}: {error}" if last else f"{source}: {error}")


def _caption(parts: dict[str, bytes]) -> str:
    if "txt" in parts:
        return parts["txt"].decode("utf-8-sig", "replace")
    try:
        fields = json.loads(parts.get("json", b"{}"))
    except (ValueError, RecursionError):
        return ""
    caption = fields.get("caption") if isinstance(fields, dict) else None
    return caption if isinstance(caption, str) else ""
