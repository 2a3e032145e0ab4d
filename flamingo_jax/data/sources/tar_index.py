"""Where the samples of tar files are, written down once: which bytes of a file are an image, and which its caption.

FOLDER/index.json            per tar file its size and time, how many samples it has, and what of it is left out
FOLDER/samples-HASH.bin      per tar file a block: a row (``ROW``) for each sample, and then the samples' keys

A file whose size and time are as they were is not read again. The .json comes last, and names the other one by the hash
of the files: a kill leaves the old index, or the new one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import pathlib
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import BinaryIO

from absl import logging

from flamingo_jax.config import DatasetConfig
from flamingo_jax.data.corpus import find_files, name_of, root_of
from flamingo_jax.data.document import Dropped
from flamingo_jax.data.file import open_file, write_whole
from flamingo_jax.data.formats import tar
from flamingo_jax.data.formats.packed import packing_of
from flamingo_jax.data.prepare.make import MAX_IMAGE_BYTES, clean
from flamingo_jax.data.prepare.shard import Tally, add, check_share
from flamingo_jax.data.prepare.state import own
from flamingo_jax.data.process import start_worker

INDEX = "index.json"
SCHEMA = 1

ROW = struct.Struct("<QIQI?II")
"""Offset and size of the image; offset and size of the caption's member, and whether that is a .json; offset among the
block's keys, and size, of the key."""

_FILES_PER_PROCESS = 4  # to index fewer takes about as long as to start a process

Identity = tuple[str, int, int]
"""A tar file's name relative to the folder that is searched, its size and its time of change in nanoseconds."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """A tar file. samples: how many it has. block: bytes of its block. report: its part of the report."""

    name: str
    bytes: int
    mtime_ns: int
    samples: int
    block: int
    report: Mapping

    @property
    def identity(self) -> Identity:
        return self.name, self.bytes, self.mtime_ns


@dataclasses.dataclass(frozen=True)
class Index:
    """path, mtime_ns: of the file of blocks. first, start: each shard's samples among all, and its block there."""

    path: str
    mtime_ns: int
    shards: tuple[Shard, ...]
    first: tuple[int, ...]
    start: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return self.start[-1] + self.shards[-1].block

    def __len__(self) -> int:
        return self.first[-1] + self.shards[-1].samples


def index(
    options: DatasetConfig, folder: str, *, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> dict:
    """Writes the index of ``options.source``, or what changed of it. See ``sources.index``."""
    if "://" in options.source:
        raise ValueError(
            f"source={options.source!r} is not in this machine's file system, and only files there are read in place: "
            "mount it (gcsfuse), or prepare the dataset (in_place=False)."
        )
    root = root_of(options.source)
    found = [_identify(path, root) for path in find_files(options.source)]
    known = _load(folder)
    if known is None or [shard.identity for shard in known.shards] != found:
        with own(folder):
            _write(folder, root, found, workers, progress or (lambda done, total: None))
        known = load(folder)
    report = Tally(1.0).report
    for shard in known.shards:
        add(report, shard.report)
    check_share(report, options.max_bad, least=1)
    if not report["documents"]:
        drops = (
            f"{count} x {reason} (first: {report['first_drops'][reason]})" for reason, count in report["drops"].items()
        )
        raise ValueError(f"No sample is in {options.source!r}: {', '.join(drops) or 'its files are empty'}.")
    return report


def load(folder: str) -> Index:
    """The index at ``folder``. Raises ValueError if there is none."""
    if (found := _load(folder)) is None:
        raise ValueError(
            f"There is no index of raw files at {folder}, or it is damaged; start the run anew to write it."
        )
    return found


def _load(folder: str) -> Index | None:
    try:
        content = json.loads(pathlib.Path(folder, INDEX).read_bytes())
        shards = tuple(Shard(**shard) for shard in content["shards"])
        first, start = (
            tuple(itertools.accumulate((getattr(shard, key) for shard in shards[:-1]), initial=0))
            for key in ("samples", "block")
        )
        path = _blocks(folder, [shard.identity for shard in shards])
        status = os.stat(path)
        found = Index(path, status.st_mtime_ns, shards, first, start)
        return found if content["schema"] == SCHEMA and status.st_size == found.bytes else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _blocks(folder: str, identities: list[Identity]) -> str:
    digest = hashlib.blake2b(json.dumps([SCHEMA, *identities]).encode(), digest_size=8)
    return f"{folder}/samples-{digest.hexdigest()}.bin"


def _identify(path: str, root: str) -> Identity:
    try:
        status = os.stat(path)
    except OSError as error:
        raise ValueError(f"Cannot read {path}: {error.strerror}.") from None
    if not stat.S_ISREG(status.st_mode):  # to open a pipe would take for ever
        raise ValueError(f"Cannot read {path}: it is no regular file.")
    return name_of(path, root), status.st_size, status.st_mtime_ns


def _write(folder: str, root: str, found: list[Identity], workers: int, progress: Callable[[int, int], None]) -> None:
    old = _load(folder)
    known = {shard.identity: number for number, shard in enumerate(old.shards)} if old else {}
    if old:
        _tell(folder, [shard.identity for shard in old.shards], found)
    results = _read_all([identity for identity in found if identity not in known], root, workers)
    shards: list[Shard] = []

    def blocks() -> Iterator[bytes]:
        for identity in found:
            if identity in known:
                shard = old.shards[known[identity]]
                with open(old.path, "rb") as file:
                    file.seek(old.start[known[identity]])
                    block = file.read(shard.block)
            else:
                samples, block, report = next(results)
                shard = Shard(*identity, samples, len(block), report)
            shards.append(shard)
            progress(len(shards), len(found))
            yield block

    path = _blocks(folder, found)
    write_whole(path, blocks())
    content = {"schema": SCHEMA, "shards": [dataclasses.asdict(shard) for shard in shards]}
    write_whole(f"{folder}/{INDEX}", json.dumps(content))
    for other in pathlib.Path(folder).glob("samples-*.bin"):
        if other != pathlib.Path(path):
            other.unlink()


def _tell(folder: str, before: list[Identity], now: list[Identity]) -> None:
    """Says which files are not what they were: the order of the samples is another one then."""
    old, new = {name: rest for name, *rest in before}, {name: rest for name, *rest in now}
    changes = {
        "changed": [name for name in new if name in old and old[name] != new[name]],
        "added": [name for name in new if name not in old],
        "gone": [name for name in old if name not in new],
    }
    said = ", ".join(f"{len(names)} {what} (first: {names[0]})" for what, names in changes.items() if names)
    if said:  # else another process has just written it
        logging.warning("%s is an index of files that are other ones now: %s. It is written anew.", folder, said)


def _read_all(todo: list[Identity], root: str, workers: int) -> Iterator[tuple[int, bytes, dict]]:
    names = [name for name, _, _ in todo]
    workers = min(workers, len(todo) // _FILES_PER_PROCESS)
    if workers <= 1:
        yield from map(_read_shard, itertools.repeat(root), names)
        return
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker) as pool:
            yield from pool.map(_read_shard, itertools.repeat(root), names)
    except BrokenProcessPool:
        raise ValueError(
            f"A process ended while it read the tar files of {root}: either memory is short, or the main script lacks "
            '`if __name__ == "__main__":`. Try fewer workers, or one, which works in the main process.'
        ) from None


def _read_shard(root: str, name: str) -> tuple[int, bytes, dict]:
    """(number of samples, block, report) of a tar file. Raises ValueError if it cannot be read in place."""
    path, rows, keys, tally = os.path.join(root, name), bytearray(), bytearray(), Tally(1.0)
    try:
        with open_file(path) as file:
            if packing := packing_of(file):
                raise ValueError(
                    f"{path} is packed by {packing}, and what is packed cannot be read in place: unpack it, or prepare "
                    "the dataset (in_place=False)."
                )
            for sample in tar.places(file, name):
                found = sample if isinstance(sample, Dropped) else _place(file, path, name, *sample)
                if isinstance(found, Dropped):
                    tally.drop(found)
                else:
                    key = sample[0].encode("utf-8", "replace")  # as ``document.encode`` writes it
                    rows += ROW.pack(*found, len(keys), len(key))
                    keys += key
    except OSError as error:
        raise ValueError(str(error) if error.errno is None else f"Cannot read {path}: {error.strerror}.") from None
    samples = len(rows) // ROW.size
    tally.report |= {"documents": samples, "media": samples}
    return samples, bytes(rows + keys), tally.report


def _place(
    file: BinaryIO, path: str, name: str, key: str, parts: Mapping[str, range]
) -> tuple[int, int, int, int, bool] | Dropped:
    """A sample's part of its row, but for the key; what ``prepare`` would leave out unseen, is left out."""
    place, kind = f"{name}/{key}", tar.medium_of(parts)
    if kind is None:
        return Dropped("pair without medium", place)
    if kind in tar.CLIPS:
        raise ValueError(
            f"{path} has the clip {key}.{kind}, and the frames of clips are not taken in place: prepare the dataset "
            "(in_place=False)."
        )
    image, text = parts[kind], ""
    for suffix in tar.CAPTIONS:
        if suffix in parts and not text.strip():
            where = parts[suffix]
            text = tar.caption(suffix, os.pread(file.fileno(), len(where), where.start))
            is_json = suffix == "json"
    if isinstance(caption := clean(text, place), Dropped):
        return caption
    if len(image) > MAX_IMAGE_BYTES:
        return Dropped("image too large", f"{place}: {len(image)} bytes", bad=True)
    return image.start, len(image), where.start, len(where), is_json
