"""Pairs in tar files as img2dataset and video2dataset write them: ``KEY.jpg`` (or png, webp, mp4), ``.txt``, ``.json``.

Members are read one after another and never extracted: a name such as ``../../x`` is a key and nothing else. Members
with other suffixes, pickles among them, are not read at all.
"""

from __future__ import annotations

import functools
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import BinaryIO, TypeVar

from flamingo_jax.data.corpus import Corpus, Task
from flamingo_jax.data.document import Dropped, Medium, Raw
from flamingo_jax.data.formats.lines import parse
from flamingo_jax.data.formats.packed import Damaged, damage, open_packed

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "avif")
CLIPS = ("mp4", "webm", "mkv", "mov", "avi")
"""Suffixes of members that are media, lower case; the first that a sample has is its medium."""

CAPTIONS = ("txt", "json")
"""Suffixes of members that hold captions; the first one that is not blank is a sample's."""

MAX_MEMBER = 500_000_000
"""Bytes of one member, and of all that are read of one sample; what is larger is passed over."""

MAX_TEXT = 16_000_000
"""Bytes of a caption's member, and of a .json."""

_LIMITS = dict.fromkeys((*IMAGES, *CLIPS), MAX_MEMBER) | dict.fromkeys(CAPTIONS, MAX_TEXT)

_Part = TypeVar("_Part", bound=Sized)  # of a sample: a member's content, or its place


def read(task: Task, corpus: Corpus) -> Iterator[Raw | Dropped]:
    """A document per sample with a medium and a caption, in order; a Dropped for whatever is not one.

    What comes before a damage of the file is used.
    """
    source = corpus.name(task.path)
    with open_packed(task.path) as file:
        for sample in samples(file, source):
            yield sample if isinstance(sample, Dropped) else pair(*sample, source)


def pair(key: str, parts: Mapping[str, bytes], source: str) -> Raw | Dropped:
    """One sample as a document: its caption, and its medium before it. ``parts``: suffix -> content."""
    place = f"{source}/{key}"
    suffix = medium_of(parts)
    if suffix is None:
        return Dropped("pair without medium", place)
    texts = (caption(suffix, parts[suffix]) for suffix in CAPTIONS if suffix in parts)
    medium = Medium(f"{key}.{suffix}", functools.partial(bytes, parts[suffix]))
    return Raw(place, next(filter(str.strip, texts), ""), (0,), (medium,), source, suffix in CLIPS)


def medium_of(parts: Mapping[str, Sized]) -> str | None:
    """The suffix of a sample's medium."""
    return next((suffix for suffix in (*IMAGES, *CLIPS) if suffix in parts), None)


def caption(suffix: str, data: bytes) -> str:
    """The caption in a member of ``CAPTIONS``: all of a .txt, the "caption" of a .json; "" if there is none."""
    if suffix == "txt":
        return data.decode("utf-8-sig", "replace")
    found = parse(data, "")
    text = "" if isinstance(found, Dropped) else found[1].get("caption")
    return text if isinstance(text, str) else ""


def is_tar(path: str) -> bool:
    """Whether a file's name is that of a tar file, packed or not."""
    return ".tar" in path.lower().rpartition("/")[2]


def open_tar(file: BinaryIO, mode: str) -> tarfile.TarFile:
    """Opens a tar file that is not packed. It, and whatever is read of it, raises tarfile.ReadError for damage."""
    return tarfile.open(fileobj=file, mode=mode, tarinfo=_Header)


class _Header(tarfile.TarInfo):
    """Raises for every damaged header; tarfile would take all but the first for the end of the archive, silently."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            header = super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # the zeros at the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None
        if header.size < 0:  # tarfile would go back, and round in circles
            raise tarfile.ReadError(f"a member of {header.size} bytes")
        return header


def split_name(path: str) -> tuple[str, str]:
    """(key, suffix in lower case) of a member: its key is the path up to the first dot of the file name."""
    folder, _, name = path.rpartition("/")
    stem, _, suffix = name.partition(".")
    return f"{folder}/{stem}" if folder else stem, suffix.lower()


def samples(
    file: BinaryIO, source: str, limits: Mapping[str, int] = _LIMITS
) -> Iterator[tuple[str, dict[str, bytes]] | Dropped]:
    """(key, {suffix: content}) of neighbouring members with one key (WebDataset's rule).

    LAION's files repeat keys: a sample that is whole ends where one of its suffixes comes again.

    limits: the suffixes that are read -> the most bytes of such a member.
    """
    return _group(_members(file, source, limits, "r|", lambda tar, member: tar.extractfile(member).read()), source)


def places(file: BinaryIO, source: str) -> Iterator[tuple[str, dict[str, range]] | Dropped]:
    """What ``samples`` gives, with the range of its bytes in the file in place of a member's content.

    file: with a descriptor; its position is left anywhere.
    """
    size = os.fstat(file.fileno()).st_size

    def place(tar: tarfile.TarFile, member: tarfile.TarInfo) -> range:
        if member.issparse():
            raise tarfile.ReadError(f"{member.name!r} is stored with holes")
        found = range(member.offset_data, member.offset_data + member.size)
        if found.stop > size:
            raise tarfile.ReadError("unexpected end of data")
        return found

    return _group(_members(file, source, _LIMITS, "r:", place), source)


def _group(
    members: Iterator[tuple[str, _Part | None] | Dropped], source: str
) -> Iterator[tuple[str, dict[str, _Part]] | Dropped]:
    key, parts = None, {}
    for member in members:
        if isinstance(member, Dropped):
            yield member
            continue
        path, part = member
        stem, suffix = split_name(path)
        if stem != key or (suffix in parts and _is_whole(parts)):
            if key is not None:
                yield key, parts
            key, parts = stem, {}
        if part is None:
            continue
        if suffix in parts:
            yield Dropped("member repeated", f"{source}/{path}", bad=True)
        elif sum(map(len, parts.values())) + len(part) > MAX_MEMBER:
            yield Dropped("member too large", f"{source}/{path}: its sample has more than {MAX_MEMBER} bytes", bad=True)
        else:
            parts[suffix] = part
    if key is not None:
        yield key, parts


def _members(
    file: BinaryIO,
    source: str,
    limits: Mapping[str, int],
    mode: str,
    read: Callable[[tarfile.TarFile, tarfile.TarInfo], _Part],
) -> Iterator[tuple[str, _Part | None] | Dropped]:
    """(name, what is read) of each member; None of what is not among ``limits``."""
    last = ""
    try:
        with damage(), open_tar(file, mode) as tar:
            for member in tar:
                last = member.name
                most = limits.get(split_name(last)[1])
                if not member.isreg():
                    continue
                if most is None:
                    yield last, None
                elif member.size > most:
                    yield Dropped("member too large", f"{source}/{last}: {member.size} bytes", bad=True)
                else:
                    yield last, read(tar, member)
                tar.members.clear()  # tarfile would keep every header for the whole pass
    except Damaged as error:
        yield Dropped("tar damaged", f"{source}, after {last!r}: {error}" if last else f"{source}: {error}", bad=True)


def _is_whole(parts: Mapping[str, Sized]) -> bool:
    return any(suffix in parts for suffix in CAPTIONS) and medium_of(parts) is not None
