"""Pairs in tar files as img2dataset and video2dataset write them: ``KEY.jpg`` (or png, webp, mp4), ``.txt``, ``.json``.

Members are read one after another and never extracted: a name such as ``../../x`` is a key and nothing else. Members
with other suffixes, pickles among them, are not read at all.
"""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from flamingo_jax.data.corpus import Corpus, Task
from flamingo_jax.data.document import Dropped, Medium, Raw
from flamingo_jax.data.formats.lines import parse
from flamingo_jax.data.formats.packed import Damaged, damage, open_packed

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "avif")
CLIPS = ("mp4", "webm", "mkv", "mov", "avi")
"""Suffixes of members that are media, lower case; the first that a sample has is its medium."""

MAX_MEMBER = 500_000_000
"""Bytes of one member, and of all that are read of one sample; what is larger is passed over."""

MAX_TEXT = 16_000_000
"""Bytes of a caption's member, and of a .json."""

_LIMITS = dict.fromkeys((*IMAGES, *CLIPS), MAX_MEMBER) | {"txt": MAX_TEXT, "json": MAX_TEXT}


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
    suffix = next((suffix for suffix in (*IMAGES, *CLIPS) if suffix in parts), None)
    if suffix is None:
        return Dropped("pair without medium", place)
    medium = Medium(f"{key}.{suffix}", functools.partial(bytes, parts[suffix]))
    return Raw(place, _caption(parts), (0,), (medium,), source, suffix in CLIPS)


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
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # the zeros at the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


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
    key, parts = None, {}
    for member in _members(file, source, limits):
        if isinstance(member, Dropped):
            yield member
            continue
        path, data = member
        stem, suffix = split_name(path)
        if stem != key or (suffix in parts and _is_whole(parts)):
            if key is not None:
                yield key, parts
            key, parts = stem, {}
        if data is None:
            continue
        if suffix in parts:
            yield Dropped("member repeated", f"{source}/{path}", bad=True)
        elif sum(map(len, parts.values())) + len(data) > MAX_MEMBER:
            yield Dropped("member too large", f"{source}/{path}: its sample has more than {MAX_MEMBER} bytes", bad=True)
        else:
            parts[suffix] = data
    if key is not None:
        yield key, parts


def _members(file: BinaryIO, source: str, limits: Mapping[str, int]) -> Iterator[tuple[str, bytes | None] | Dropped]:
    """(name, content) of each member; the content of what is not among ``limits`` is None."""
    last = ""
    try:
        with damage(), open_tar(file, "r|") as tar:
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
                    yield last, tar.extractfile(member).read()
                tar.members.clear()  # tarfile would keep every header for the whole pass
    except Damaged as error:
        yield Dropped("tar damaged", f"{source}, after {last!r}: {error}" if last else f"{source}: {error}", bad=True)


def _is_whole(parts: Mapping[str, bytes]) -> bool:
    return ("txt" in parts or "json" in parts) and any(suffix in parts for suffix in (*IMAGES, *CLIPS))


def _caption(parts: Mapping[str, bytes]) -> str:
    """The .txt, or else the caption of the .json."""
    caption = parts.get("txt", b"").decode("utf-8-sig", "replace")
    if caption.strip() or "json" not in parts:
        return caption
    found = parse(parts["json"], "")
    caption = "" if isinstance(found, Dropped) else found[1].get("caption")
    return caption if isinstance(caption, str) else ""
