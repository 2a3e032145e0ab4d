"""Files that gzip, zstd or zip may have packed, whatever their names say: read as streams, within bounds."""

from __future__ import annotations

import contextlib
import errno
import io
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from flamingo_jax.data.file import open_file, size_of

MAX_RATIO = 200
"""A file that unpacks to more than this many times its own size is a bomb; text packs to a tenth at best."""

FREE_BYTES = 100_000_000
"""... but so much may come out of any file."""

_CHUNK = 1 << 16  # bytes that are unpacked at once; where a file is damaged, those of its chunk are lost
_MARKS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}  # the first bytes
_ZIP = b"PK"


class Damaged(ValueError):
    """A file is not what its first bytes promise, ends too early, or unpacks to too much."""


@contextlib.contextmanager
def damage() -> Iterator[None]:
    """Turns what unpackers raise for damaged files, a dozen types, into ``Damaged``; not what the disk raises."""
    try:
        yield
    except Exception as error:
        # A seek to where damaged headers point to is EINVAL; an unpacker's own OSErrors have no number.
        if isinstance(error, Damaged) or (isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)):
            raise
        raise Damaged(str(error) or type(error).__name__) from None


@contextlib.contextmanager
def open_packed(path: str) -> Iterator[BinaryIO]:
    """A file's content, unpacked if it is packed by gzip or zstd. Raises OSError naming a file that cannot be opened.

    Reading raises ``Damaged``.
    """
    with open_file(path) as file:
        packing = packing_of(file)
        if packing is None:
            yield file
        else:
            yield io.BufferedReader(_Bounded(pa.CompressedInputStream(file, packing), _allowance(path)), _CHUNK)


def packing_of(file: BinaryIO) -> str | None:
    """What a file is packed by, which is at its beginning and stays there: "gzip", "zstd" or nothing that we know."""
    head = file.read(4)
    file.seek(0)
    return next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)


def open_members(path: str) -> Iterator[BinaryIO]:
    """The files of a zip archive, one after the other; or the one that ``open_packed`` opens. Raises as that does."""
    with open_file(path) as file:
        is_zip = file.read(2) == _ZIP
        if is_zip:
            yield from _zip_members(file, _allowance(path))
    if not is_zip:
        with open_packed(path) as file:
            yield file


def _zip_members(file: BinaryIO, allowance: list[int]) -> Iterator[BinaryIO]:
    with damage():
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                hidden = info.filename.startswith("__MACOSX/") or info.filename.rpartition("/")[2].startswith(".")
                if not info.is_dir() and not hidden:
                    with archive.open(info) as member:
                        yield io.BufferedReader(_Bounded(member, allowance), _CHUNK)


def _allowance(path: str) -> list[int]:
    """How many bytes may still come out of a file: a cell, which the members of an archive share."""
    return [max(FREE_BYTES, MAX_RATIO * size_of(path))]


class _Bounded(io.RawIOBase):
    """A stream that raises ``Damaged`` for what its unpacker raises, and when more comes out than may."""

    def __init__(self, stream, allowance: list[int]):
        self._stream, self._allowance = stream, allowance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        with damage():
            data = self._stream.read(min(len(buffer), _CHUNK))
        self._allowance[0] -= len(data)
        if self._allowance[0] < 0:
            raise Damaged(f"it unpacks to more than {MAX_RATIO} times its size")
        buffer[: len(data)] = data
        return len(data)
