"""Media that raw files name by address or file name: found in a folder, or in an index of addresses."""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import unquote, urlsplit

import numpy as np
from etils import epath

from flamingo_jax.data.corpus import find_files
from flamingo_jax.data.document import Dropped
from flamingo_jax.data.file import open_file, save_array, size_of, write_whole
from flamingo_jax.data.formats import tar
from flamingo_jax.data.formats.address import canonical
from flamingo_jax.data.formats.lines import parse
from flamingo_jax.data.formats.packed import Damaged, damage

MAX_BYTES = 500_000_000
"""Larger files of media are not read."""

_ENTRY = np.dtype([("address", "u8"), ("name", "u8"), ("offset", "u8"), ("size", "i8")])
"""A medium: the hash of its address; where among the names of files its file's is, and where it is in that file. Its
size is -1 for the whole file."""

_CHUNK = 65_536  # entries that are Python objects at once: such take ten times the memory


def in_folder(folder: str) -> Callable[[str], bytes | Dropped]:
    """Finds names relative to ``folder``, ``file:`` addresses, whose root the folder stands for, and others at
    HOST/PATH in it, where ``wget --mirror`` and browsers' tools put them.
    """
    return functools.partial(_in_folder, folder)


def _in_folder(folder: str, address: str) -> bytes | Dropped:
    name, is_mirrored = address, False
    if "://" in address:
        try:
            parts = urlsplit(address)
        except ValueError:
            return Dropped("medium elsewhere", address)
        is_mirrored = parts.scheme in ("http", "https")
        if not is_mirrored and (parts.scheme != "file" or parts.netloc):
            return Dropped("medium elsewhere", address)
        name = f"{parts.netloc}/{unquote(parts.path)}"
    name = name.lstrip("/")
    # A browser cannot leave the root, but an encoded "%2e%2e" can; nor may a page read other files of this machine, or
    # of another one.
    if ".." in name.replace("\\", "/").split("/") or "\0" in name or "://" in name:
        return Dropped("medium elsewhere", address)
    found = _read(os.path.join(folder, name), 0, -1, name)
    is_missing = isinstance(found, Dropped) and found.reason == "medium missing"
    return Dropped("medium elsewhere", address) if is_missing and is_mirrored else found


def _read(path: str, offset: int, size: int, place: str) -> bytes | Dropped:
    try:
        if "://" not in path:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):  # a pipe would block, a device never end
                return Dropped("medium missing", f"{place} is no file")
        length = epath.Path(path).stat().length if size < 0 else size
        if length > MAX_BYTES:
            return Dropped("medium too large", f"{place}: {length} bytes", bad=True)
        with epath.Path(path).open("rb") as file:
            file.seek(offset)
            data = file.read(length)
    except (OSError, ValueError, LookupError) as error:  # a name that no file can have, an address of an unknown kind
        return Dropped("medium missing", f"{place}: {getattr(error, 'strerror', None) or error}")
    return data if len(data) == length else Dropped("medium cut off", place, bad=True)


class Index:
    """Finds media by their addresses, as ``write_index`` wrote down where they are; others in a folder."""

    def __init__(self, path: str, folder: str):
        """Raises OSError naming ``path`` if it cannot be read."""
        self._entries, self._names = _load(f"{path}.npy"), _load(f"{path}.names.npy")
        self._folder = in_folder(folder)

    def __call__(self, address: str) -> bytes | Dropped:
        key = np.uint64(_hash(address))  # for an int, all would be copied
        at = int(np.searchsorted(self._entries["address"], key))
        if at < len(self._entries) and self._entries["address"][at] == key:
            _, name, offset, size = self._entries[at].item()
            return _read(_name(self._names, name), offset, size, address)
        if "://" in address and not address.startswith("file:"):
            return Dropped("medium missing", address)
        return self._folder(address)


def _load(path: str) -> np.ndarray:
    """An array, which stays on disk where that is this machine's: all workers share it."""
    try:
        return np.load(path, mmap_mode="r") if "://" not in path else np.load(io.BytesIO(epath.Path(path).read_bytes()))
    except OSError as error:
        raise OSError(f"Cannot read the file {path}: {error.strerror or error}.") from None


def write_index(source: str, path: str) -> None:
    """Writes where the media of a glob of img2dataset's tars, or of tables url -> file, are.

    ``path``.names.npy has the files' names, ``path``.npy the entries, by their addresses; it comes last. What is
    damaged of the tars is listed in ``path``.bad.jsonl, a ``Dropped`` a line.

    Raises ValueError when nothing matches, a table lacks the columns url and file, or a file is of another format.
    """
    names, damaged = bytearray(), []
    rows = _rows((item for name in find_files(source) for item in _entries(name)), names, damaged)
    chunks = [np.array(chunk, _ENTRY) for chunk in iter(lambda: list(itertools.islice(rows, _CHUNK)), [])]
    save_array(f"{path}.names.npy", np.frombuffer(names, np.uint8))
    del names
    if damaged:
        write_whole(f"{path}.bad.jsonl", "".join(damaged))
    save_array(f"{path}.npy", _sort(chunks))


def _rows(
    items: Iterable[tuple[str, str, int, int] | Dropped], names: bytearray, damaged: list[str]
) -> Iterator[tuple[int, int, int, int]]:
    """The entries of what ``_entries`` gives. Adds to the names of files, and to the lines about what is damaged."""
    last, place = None, 0
    for item in items:
        if isinstance(item, Dropped):
            damaged.append(json.dumps(dataclasses.asdict(item)) + "\n")
            continue
        address, file, offset, size = item
        if file != last:
            last, place = file, len(names)
            encoded = file.encode("utf-8", "surrogateescape")  # names of files are any bytes
            names += len(encoded).to_bytes(4, "little") + encoded
        yield _hash(address), place, offset, size


def _name(names: np.ndarray, place: int) -> str:
    """The name of a file, which ``_rows`` has put there."""
    start = place + 4
    length = int.from_bytes(names[place:start].tobytes(), "little")
    return names[start : start + length].tobytes().decode("utf-8", "surrogateescape")


def _sort(chunks: list[np.ndarray]) -> np.ndarray:
    """All entries by their addresses; of equal addresses the first one. Empties ``chunks``, for they may be large."""
    entries = np.empty(sum(map(len, chunks)), _ENTRY)
    end = len(entries)
    while chunks:
        chunk = chunks.pop()
        entries[end - len(chunk) : end] = chunk
        end -= len(chunk)
    order = np.argsort(entries["address"], kind="stable")
    for field in _ENTRY.names:  # one after the other, for a copy of all is large
        entries[field] = entries[field][order]
    repeated = np.flatnonzero(entries["address"][1:] == entries["address"][:-1]) + 1
    return np.delete(entries, repeated) if len(repeated) else entries


def _hash(address: str) -> int:
    data = canonical(address).encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _entries(path: str) -> Iterator[tuple[str, str, int, int] | Dropped]:
    """(address, file, offset, size) of each medium that a file lists; a Dropped for whatever is damaged of a tar."""
    if path.endswith(".tar"):
        yield from _tar_entries(path)
    elif path.endswith(".parquet"):
        yield from _table_entries(path, _parquet_rows(path))
    elif path.endswith((".csv", ".tsv")):
        with open_file(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
            yield from _table_entries(path, csv.DictReader(text, delimiter="\t" if path.endswith(".tsv") else ","))
    else:
        raise ValueError(f"images={path!r}: give a folder, img2dataset's .tar files, or .csv, .tsv, .parquet tables.")


def _tar_entries(path: str) -> Iterator[tuple[str, str, int, int] | Dropped]:
    """What comes before a damage is found; what comes after it will be missing."""
    key, found, address = None, None, ""
    size, reached = size_of(path), 0
    try:
        with open_file(path) as file, damage(), tar.open_tar(file, "r:") as archive:
            for member in archive:
                stem, suffix = tar.split_name(member.name)
                if stem != key:
                    if found and address:
                        yield (address, path, *found)
                    key, found, address = stem, None, ""
                if suffix in (*tar.IMAGES, *tar.CLIPS):
                    found = (member.offset_data, member.size)
                elif suffix == "json" and member.isreg() and member.size < tar.MAX_TEXT:
                    data = archive.extractfile(member).read()
                    fields = parse(data, f"{path}, {member.name!r} at byte {member.offset_data}")
                    if isinstance(fields, Dropped):
                        yield fields
                    else:
                        address = fields[1].get("url")
                        address = address if isinstance(address, str) else ""
                reached = min(archive.offset, size)
                archive.members.clear()
    except Damaged as error:
        yield Dropped("tar damaged", f"{path}, from byte {reached} on: {error}", bad=True)
    if found and address:
        yield (address, path, *found)


def _table_entries(path: str, rows: Iterable[dict]) -> Iterator[tuple[str, str, int, int]]:
    folder = os.path.dirname(path)
    try:
        with damage():
            for row in rows:
                if "url" not in row or "file" not in row:
                    raise Damaged(f"it must have the columns url and file, but has {', '.join(map(str, row))}")
                url, file = row["url"], row["file"]
                if isinstance(url, str) and isinstance(file, str) and url and file:
                    yield url, file if "://" in file else os.path.join(folder, file), 0, -1
    except Damaged as error:
        raise ValueError(f"images={path!r} cannot be used: {error}.") from None


def _parquet_rows(path: str) -> Iterator[dict]:
    import pyarrow.parquet as pq

    with open_file(path) as file:
        for batch in pq.ParquetFile(file).iter_batches():
            yield from batch.to_pylist()
