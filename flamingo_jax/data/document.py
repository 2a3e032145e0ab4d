"""The one form that every corpus takes on disk: a document, i.e. text with media at their places.

A page, an image with its caption and a clip with its caption are all documents; text alone is one without media.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import msgpack

SCHEMA = 1
"""Version of the encoded form. A reader refuses others; raise it when the meaning of a field changes."""


@dataclasses.dataclass(frozen=True)
class Document:
    """Text and the media that stand in it.

    Attributes:
        key: names the document within its dataset.
        text: the whole text, paragraphs separated by line feeds. It never holds control tokens: a literal ``<image>``
            is a page's own text.
        positions: one character offset in ``text`` per medium, ascending, in [0, len(text)]: the medium stands before
            the character at that offset. Equal offsets are media that follow one another.
        media: per medium its encoded frames (JPEG or PNG); an image has one frame.
        source: the file that the document came from.

    Raises:
        ValueError: positions and media differ in number, are out of order or outside of the text, or a medium has no
            frame.
    """

    key: str
    text: str
    positions: tuple[int, ...] = ()
    media: tuple[tuple[bytes, ...], ...] = ()
    source: str = ""

    def __post_init__(self):
        if len(self.positions) != len(self.media):
            raise ValueError(f"Document {self.key!r} has {len(self.positions)} positions for {len(self.media)} media.")
        last = 0
        for position, frames in zip(self.positions, self.media, strict=True):
            if not last <= position <= len(self.text):
                raise ValueError(
                    f"Document {self.key!r} has a medium at {position}, but it must be in [{last}, {len(self.text)}]."
                )
            if not frames:
                raise ValueError(f"Document {self.key!r} has a medium without frames at {position}.")
            last = position


@dataclasses.dataclass(frozen=True)
class Dropped:
    """What the readers of raw files yield in place of a document or a medium that they leave out.

    Attributes:
        reason: a short phrase from a small set, which reports count by.
        place: where it was (file, and offset or key in it), and what exactly was wrong: for a person who wants to look.
            What is longer than a thousand characters, as hostile addresses are, is cut in the middle. Lone surrogates,
            which stand for bytes of names that are no UTF-8, cannot be printed and become question marks.
        bad: it is damaged or hostile, and not merely filtered out or absent; past a share of such the preparation ends.
    """

    reason: str
    place: str
    bad: bool = False

    def __post_init__(self):
        place = self.place if len(self.place) <= 1000 else f"{self.place[:600]} ... {self.place[-395:]}"
        object.__setattr__(self, "place", place.encode("utf-8", "replace").decode())


class Medium(NamedTuple):  # a page has hundreds, and this is the quickest to make
    """The file of an image or a clip. name: its address or path, for the report. read: its content, or why not."""

    name: str
    read: Callable[[], bytes | Dropped]


@dataclasses.dataclass(frozen=True)
class Raw:
    """A document as its format has it: its media are files that have not been read yet.

    Attributes:
        key, text, positions, source: as in ``Document``; a page's key is its address.
        media: the files of its images or clips.
        clip: whether the media are clips; if None, their first bytes decide (a GIF is then an image).
    """

    key: str
    text: str
    positions: tuple[int, ...] = ()
    media: tuple[Medium, ...] = ()
    source: str = ""
    clip: bool | None = None


_FIELDS = tuple(field.name for field in dataclasses.fields(Document))


def encode(document: Document) -> bytes:
    """A document as one msgpack map. Lone surrogates, which UTF-8 cannot hold, become question marks."""
    return msgpack.packb(
        {
            "schema": SCHEMA,
            "key": document.key,
            "text": document.text,
            "positions": document.positions,
            "media": document.media,
            "source": document.source,
        },
        unicode_errors="replace",
    )


def decode(data: bytes) -> Document:
    """The inverse of ``encode``. Raises ValueError if ``data`` is not a document or of another schema version."""
    try:
        fields = msgpack.unpackb(data, use_list=False)
        schema = fields["schema"]
        if schema != SCHEMA:
            raise ValueError(
                f"schema {schema!r} was written by another version; this one reads {SCHEMA}: prepare the dataset anew"
            )
        document = Document(*[fields[name] for name in _FIELDS])
        if not _is_typed(document):
            raise ValueError("a field has the wrong type")
        return document
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise ValueError(f"These {len(data)} bytes are not an encoded document: {error}.") from None


def _is_typed(document: Document) -> bool:
    texts = (document.key, document.text, document.source)
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(document.positions, tuple)
        and all(type(position) is int for position in document.positions)  # a bool is none
        and all(isinstance(part, tuple) for part in (document.media, *document.media))
        and all(isinstance(frame, bytes) for frames in document.media for frame in frames)
    )
