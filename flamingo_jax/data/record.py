"""A dataset on disk: a folder of ArrayRecord files, one document a record, with a manifest.

The folder appears whole: it is written under a temporary name beside its place and renamed at the end, so a reader
finds a complete dataset or none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from array_record.python import array_record_data_source, array_record_module

from flamingo_jax.data import document as document_lib
from flamingo_jax.data.document import Document

MANIFEST = "manifest.json"

# One record a chunk is what random access wants; zstd halves text and costs JPEGs next to nothing.
_WRITER_OPTIONS = "group_size:1,zstd:1"


def write(
    directory: str | os.PathLike,
    documents: Iterable[Document | bytes],
    shards: int,
    report: Mapping[str, Any] | None = None,
) -> dict:
    """Writes a dataset: document i becomes a record of shard ``i % shards``, in order.

    Args:
        directory: where the dataset shall be; it must not exist yet, or be empty.
        documents: read once; documents, or documents already encoded.
        shards: number of files.
        report: goes into the manifest as it is when the last document has been read.

    Returns:
        The manifest: ``schema``, ``count``, ``files`` {name: {records, bytes, sha256}} and ``report``.

    Raises:
        ValueError: no document came, or there is something at ``directory`` already.
        OSError: it cannot be written (full disk, no permission ...); the message names it.
        Whatever ``documents`` raises. In all cases nothing is left behind.
    """
    directory = Path(directory)
    if shards < 1:
        raise ValueError(f"A dataset cannot have {shards} shards; give at least 1.")
    temporary = directory.with_name(f".{directory.name}.partial")
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise ValueError(f"{directory} exists already; remove it to prepare the dataset anew.")
        shutil.rmtree(temporary, ignore_errors=True)  # what a killed run left
        temporary.mkdir(parents=True)
    except OSError as error:
        raise _unwritable(directory, error.strerror or error) from None
    try:
        counts = _write_shards(directory, temporary, documents, shards)
        manifest = {
            "schema": document_lib.SCHEMA,
            "count": sum(counts.values()),
            "files": {name: {"records": count, **_fingerprint(temporary / name)} for name, count in counts.items()},
            "report": dict(report or {}),
        }
        _write_durably(temporary / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False))
        _publish(temporary, directory)
        return manifest
    except _WriteError as error:
        raise _unwritable(directory, error.args[0]) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class Source:
    """Random access to a dataset's documents, for Grain: ``len(source)``, ``source[i]``. Picklable and thread-safe.

    Records are read and checked when asked for; files are opened then.

    Attributes:
        manifest: what ``write`` returned.
    """

    def __init__(self, directory: str | os.PathLike):
        """Raises ValueError naming the file if the dataset or one of its files is missing, cut or of another schema."""
        self._directory = Path(directory)
        self.manifest = read_manifest(directory)
        instructions = []
        for name, entry in self.manifest["files"].items():
            path = self._directory / name
            try:
                size = path.stat().st_size
            except OSError as error:
                raise ValueError(f"Cannot read {path}: {error.strerror}; prepare the dataset anew.") from None
            if size != entry["bytes"]:
                raise ValueError(f"{path} has {size} bytes in place of {entry['bytes']}; prepare the dataset anew.")
            instructions.append(_Whole(str(path), entry["records"]))
        self._records = array_record_data_source.ArrayRecordDataSource(
            [instruction for instruction in instructions if instruction.take]
        )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Document:
        """The document at ``index`` in [0, len). Raises IndexError outside, ValueError if the record is damaged."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self._directory} has {len(self)} documents, none at {index}.")
        # Damage shows in the library's own exceptions and in ours, in any of the two calls.
        try:
            return document_lib.decode(self._records[index])
        except Exception as error:
            raise ValueError(
                f"Record {index} of {self._directory} is damaged ({error}); prepare the dataset anew."
            ) from None

    def __repr__(self) -> str:  # Grain compares it when it restores a state; it must not name an address in memory
        return f"Source({str(self._directory)!r}, {len(self)} documents)"


def read_manifest(directory: str | os.PathLike) -> dict:
    """The manifest of a complete dataset. Raises ValueError that names it if missing, damaged or of another schema."""
    path = Path(directory) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema, _ = manifest["schema"], manifest["files"].items()
    except OSError as error:
        raise ValueError(f"There is no dataset at {directory} (cannot read {path}: {error.strerror}).") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError(f"{path} is damaged; prepare the dataset anew.") from None
    if schema != document_lib.SCHEMA:
        raise ValueError(
            f"{path} has schema {schema!r}, this version reads {document_lib.SCHEMA}; prepare the dataset anew."
        )
    return manifest


class _Whole:
    """All of one file, as the data source wants it described: so it need not open the files to count records."""

    def __init__(self, filename: str, records: int):
        self.filename, self.skip, self.take, self.examples_in_shard = filename, 0, records, records


class _WriteError(Exception):
    """The reason why a file could not be written."""


def _unwritable(directory: Path, reason: Any) -> OSError:
    return OSError(f"Cannot write the dataset {directory}: {str(reason).rstrip('.')}; nothing was left there.")


def _write_shards(
    directory: Path, temporary: Path, documents: Iterable[Document | bytes], shards: int
) -> dict[str, int]:
    names = [f"{i:05d}-of-{shards:05d}.array_record" for i in range(shards)]
    writers = [array_record_module.ArrayRecordWriter(str(temporary / name), _WRITER_OPTIONS) for name in names]
    count = 0
    try:
        for item in documents:
            _call(writers[count % shards].write, item if isinstance(item, bytes) else document_lib.encode(item))
            count += 1
        for writer in writers:
            _call(writer.close)
    finally:
        for writer in writers:  # after an error; what follows from it is not worth a word
            with contextlib.suppress(RuntimeError):
                writer.close()
    if not count:
        raise ValueError(f"No document came for {directory}; check its source.")
    return {name: (count - i + shards - 1) // shards for i, name in enumerate(names)}


def _call(method: Callable, *arguments: Any) -> None:
    """Calls a method of a writer. It writes in the background, so a full disk shows at some later call, or at close."""
    try:
        method(*arguments)
    except RuntimeError as error:  # e.g. "write() failed: No space left on device; writing /path; at byte 0; ..."
        raise _WriteError(str(error).split(";")[0].split("failed: ")[-1]) from None


def _fingerprint(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
            return {"bytes": file.tell(), "sha256": digest}
    except OSError as error:
        raise _WriteError(error.strerror) from None


def _write_durably(path: Path, text: str) -> None:
    try:
        with path.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _WriteError(error.strerror) from None


def _publish(temporary: Path, directory: Path) -> None:
    try:
        os.replace(temporary, directory)
    except OSError as error:
        raise _WriteError(error.strerror) from None
    with contextlib.suppress(OSError):  # makes the new name survive a power cut, where the file system can do so
        handle = os.open(directory.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
