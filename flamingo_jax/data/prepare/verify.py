"""Whether a dataset on disk is what its manifest says, down to the last picture."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from array_record.python import array_record_module
from etils import epath

from flamingo_jax.data import document, image, record
from flamingo_jax.data.file import open_file
from flamingo_jax.data.process import start_worker

_CHUNK = 1 << 20
_MOST = 20  # faults of one file that are told


def verify(
    directory: str | os.PathLike, workers: int = 2, progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """What is wrong with a dataset, a line each; nothing when it is whole.

    Of every file the size, the hash and the number of records; of every document its fields and its frames, which are
    decoded.

    Raises ValueError when there is no dataset at ``directory``.
    """
    manifest = record.read_manifest(directory)
    files = [(f"{os.fspath(directory)}/{name}", json.dumps(entry)) for name, entry in manifest["files"].items()]
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    faults, done = [], 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, min(workers, len(files))), context, start_worker) as pool:
        for (_, entry), found in zip(files, pool.map(_faults, *zip(*files, strict=True)), strict=True):
            faults += found
            done += json.loads(entry)["bytes"]
            if progress is not None:
                progress(done, total)
    if manifest["count"] != sum(entry["records"] for entry in manifest["files"].values()):
        faults.append(f"{directory}/{record.MANIFEST}: count is {manifest['count']}, but its files say otherwise")
    if (reported := manifest["report"].get("documents", manifest["count"])) != manifest["count"]:
        faults.append(f"{directory}/{record.MANIFEST}: its report says {reported}, but count is {manifest['count']}")
    return faults


def _faults(path: str, entry_text: str) -> list[str]:
    """What is wrong with one file, given its entry in the manifest."""
    entry = json.loads(entry_text)
    digest = hashlib.sha256()
    try:
        with open_file(path) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        return [str(error)]
    faults = []
    if digest.hexdigest() != entry["sha256"]:
        faults.append(f"{path}: its content is not what was written (sha256)")
    try:
        reader = array_record_module.ArrayRecordReader(epath.Path(path).__fspath__(), "readahead_buffer_size:0")
    except Exception as error:  # the library raises many kinds
        return [*faults, f"{path}: {_first_line(error)}"]
    if reader.num_records() != entry["records"]:
        faults.append(f"{path}: {reader.num_records()} records in place of {entry['records']}")
    for number in range(reader.num_records()):
        if len(faults) > _MOST:
            return [*faults, f"{path}: and perhaps more"]
        try:
            found = document.decode(reader.read([number])[0])
            for medium, frames in enumerate(found.media):
                for frame in frames:
                    try:
                        image.decode(frame)
                    except ValueError as error:
                        faults.append(f"{path}, record {number} ({found.key}), medium {medium}: {error}")
        except Exception as error:
            faults.append(f"{path}, record {number}: {_first_line(error)}")
    return faults


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]  # some have no message
