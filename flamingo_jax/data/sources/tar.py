"""Pairs in tar files as img2dataset writes them, read where they are (see ``formats.tar`` and ``tar_index``)."""

from __future__ import annotations

import bisect
import functools
import os
import struct

from flamingo_jax.config import DatasetConfig
from flamingo_jax.data.corpus import root_of
from flamingo_jax.data.document import Document, Dropped
from flamingo_jax.data.formats import tar
from flamingo_jax.data.prepare.make import clean
from flamingo_jax.data.sources.tar_index import ROW, Shard, load

_OPEN = 256  # files that a process holds open at most: a data set has thousands, and its limit is often 1024


class TarSource:
    """A record is a sample with an image and a caption. The document is that of ``prepare``, but for the image, which
    is the file as it is. See ``sources``."""

    def __init__(self, options: DatasetConfig, folder: str | os.PathLike):
        """folder: where ``index`` has written.

        Raises ValueError naming it if there is no index, or a tar file is missing or of another size.
        """
        self._source, self._root = options.source, root_of(options.source)
        self._index = load(os.fspath(folder))
        for shard in self._index.shards:
            path = self._path(shard)
            try:
                size = os.stat(path).st_size
            except OSError as error:
                raise ValueError(f"Cannot read {path}: {error.strerror}; {_ANEW}.") from None
            _check_size(path, size, shard.bytes)

    def __len__(self) -> int:
        return len(self._index)

    def read(self, index: int, choice: float = 0.0) -> Document:
        """See ``sources``; a sample has one caption, so ``choice`` makes no difference."""
        number, sample = self._find(index)
        shard, start = self._index.shards[number], self._index.start[number]
        try:
            row = self._pread(start + sample * ROW.size, ROW.size)
            image, image_size, text, text_size, is_json, key, key_size = ROW.unpack(row)
            key = self._pread(start + shard.samples * ROW.size + key, key_size).decode()
            place = f"{shard.name}/{key}"
            file = _open(self._path(shard), shard.bytes, shard.mtime_ns)
            data = file.pread(text, text_size)
            caption = clean(tar.caption("json" if is_json else "txt", data), place)
            if isinstance(caption, Dropped):
                raise ValueError(f"its caption is none any more, {_ANEW}")
            frames = (file.pread(image, image_size),)
        except (OSError, ValueError, OverflowError, struct.error) as error:
            raise ValueError(f"Cannot read sample {sample} of {self._path(shard)}: {error}") from None
        return Document(_valid(place), _valid(caption), (0,), (frames,), _valid(shard.name))

    def locate(self, index: int) -> tuple[str, int]:
        """(tar file, number of the sample among those of it that are used)."""
        number, sample = self._find(index)
        return self._path(self._index.shards[number]), sample

    def __repr__(self) -> str:
        return f"TarSource({self._source!r}, {len(self)} documents)"

    def _find(self, index: int) -> tuple[int, int]:
        """(number of the shard, number of the sample in it)."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self._source} has {len(self)} samples, none at {index}.")
        number = bisect.bisect_right(self._index.first, index) - 1
        return number, index - self._index.first[number]

    def _path(self, shard: Shard) -> str:
        return os.path.join(self._root, shard.name)

    def _pread(self, offset: int, count: int) -> bytes:
        return _open(self._index.path, self._index.bytes, self._index.mtime_ns).pread(offset, count)


_ANEW = "start the run anew, which indexes its files again"


class _File:
    """An open file that any thread may read from; it is closed when nobody holds it any more."""

    def __init__(self, path: str, descriptor: int):
        self._path, self._descriptor = path, descriptor

    def pread(self, offset: int, count: int) -> bytes:
        """Raises ValueError if these bytes are not all there, OSError if they cannot be read."""
        data = os.pread(self._descriptor, count, offset)
        if len(data) != count:  # a call reads up to 2 GB, a member has up to 500 MB
            raise ValueError(f"{self._path} has only {len(data)} of {count} bytes at {offset}; {_ANEW}.")
        return data

    def __del__(self, close=os.close):  # bound, for at the end of a process modules are empty
        close(self._descriptor)


@functools.lru_cache(_OPEN)
def _open(path: str, size: int, mtime_ns: int) -> _File:
    """mtime_ns: tells a file from one that was in its place before."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    file = _File(path, descriptor)
    _check_size(path, os.fstat(descriptor).st_size, size)
    return file


def _check_size(path: str, size: int, expected: int) -> None:
    if size != expected:
        raise ValueError(f"{path} has {size} bytes in place of {expected}; {_ANEW}.")


def _valid(text: str) -> str:
    """Without lone surrogates, which no tokenizer takes: as ``document.encode`` writes it."""
    return text.encode("utf-8", "replace").decode()
