"""A dataset on disk: a folder of ArrayRecord files, one document a record, with a manifest.

Files appear whole, and the manifest last, so a reader finds a complete dataset or none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from array_record.python import array_record_data_source, array_record_module
from etils import epath

from flamingo_jax.data import document as document_lib
from flamingo_jax.data.document import Document
from flamingo_jax.data.file import write_whole

MANIFEST = "manifest.json"
REPORT = "report.json"  # of raw files that are read in place (``data.sources``)

_ANEW = "delete that folder and prepare the dataset anew (a run does so with its own when it starts)"

# One record a chunk is what random access wants; zstd halves text and costs JPEGs next to nothing.
_WRITER_OPTIONS = "group_size:1,zstd:1"


def write_file(path: str, records: Iterable[bytes]) -> dict:
    """Writes one file of a dataset, which appears whole when the last record has been read.

    Args:
        path: of the file, on this machine or of an address such as ``gs://``.
        records: encoded documents, read once.

    Returns:
        The file's entry in the manifest: records, bytes and sha256.

    Raises:
        OSError: it cannot be written (full disk, no permission ...); the message names it.
        Whatever ``records`` raises. In all cases no file is left.
    """
    target = epath.Path(path)
    local = Path(path) if "://" not in path else Path(tempfile.mkdtemp()) / target.name
    draft = local.with_name(f".{local.name}.partial")
    try:
        count = _write_records(draft, records)
        entry = {"records": count, **_fingerprint(draft)}
        os.replace(draft, local)
        if "://" in path:  # an object store shows a file when it is whole
            epath.Path(local).copy(target, overwrite=True)
            shutil.rmtree(local.parent)
        return entry
    except (_WriteError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.args[0]
        raise OSError(f"Cannot write {path}: {str(reason or error).rstrip('.')}.") from None
    finally:
        with contextlib.suppress(OSError):  # in a folder without permission, the error above says it
            draft.unlink(missing_ok=True)


def write_manifest(directory: str | os.PathLike, files: Mapping[str, dict], report: Mapping, plan: str = "") -> dict:
    """Makes a folder with the files ``files`` {name: entry} a dataset. Returns its manifest.

    Args:
        files: {name: what ``write_file`` returned}.
        report: goes into the manifest as it is.
        plan: what tells another preparation that it would do the same.
    """
    manifest = {
        "schema": document_lib.SCHEMA,
        "count": sum(entry["records"] for entry in files.values()),
        "files": dict(files),
        "report": dict(report),
        "plan": plan,
    }
    write_whole(f"{os.fspath(directory)}/{MANIFEST}", json.dumps(manifest, indent=2, ensure_ascii=False))
    return manifest


class Source:
    """Random access to a dataset's documents: a source as ``data.sources`` describes them; ``source[i]`` reads too.

    Records are read and checked when asked for; files are opened then.

    Attributes:
        manifest: what ``write_manifest`` returned.
    """

    def __init__(self, directory: str | os.PathLike):
        """Raises ValueError naming it if the dataset is empty, or it or a file is missing, cut or of another schema."""
        self._directory = epath.Path(directory)
        self.manifest = read_manifest(directory)
        instructions = []
        for name, entry in self.manifest["files"].items():
            path = self._directory / name
            try:
                size = path.stat().length
            except OSError as error:
                raise ValueError(f"Cannot read {path}: {error.strerror or error}; {_ANEW}.") from None
            if size != entry["bytes"]:
                raise ValueError(f"{path} has {size} bytes in place of {entry['bytes']}; {_ANEW}.")
            instructions.append(_Whole(os.fspath(path), entry["records"]))
        filled = [instruction for instruction in instructions if instruction.take]
        if not filled:
            raise ValueError(f"The dataset {directory} has no documents; prepare it anew.")
        self._files = filled
        self._records = array_record_data_source.ArrayRecordDataSource(filled)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Document:
        """The document at ``index`` in [0, len). Raises IndexError outside, ValueError if the record is damaged."""
        return self.read(index)

    def read(self, index: int, choice: float = 0.0) -> Document:
        """The same; a record holds one document, so ``choice`` makes no difference."""
        self._check(index)
        # Damage shows in the library's own exceptions and in ours, in any of the two calls.
        try:
            return document_lib.decode(self._records[index])
        except Exception as error:
            raise ValueError(
                f"Record {index} of {self._directory} is damaged ({error}); prepare the dataset anew."
            ) from None

    def locate(self, index: int) -> tuple[str, int]:
        """(file, number of the record in it)."""
        self._check(index)
        return locate(self._files, index)

    def _check(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"{self._directory} has {len(self)} documents, none at {index}.")

    def __repr__(self) -> str:  # Grain compares it when it restores a state; it must not name an address in memory
        return f"Source({str(self._directory)!r}, {len(self)} documents)"


def read_manifest(directory: str | os.PathLike) -> dict:
    """The manifest of a complete dataset. Raises ValueError that names it if missing, damaged or of another schema."""
    path = epath.Path(directory) / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        schema = manifest["schema"]
    except OSError as error:
        raise ValueError(
            f"There is no dataset at {directory} (cannot read {path}: {error.strerror or error})."
        ) from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError(f"{path} is damaged; {_ANEW}.") from None
    if schema != document_lib.SCHEMA:
        raise ValueError(f"{path} has schema {schema!r}, this version reads {document_lib.SCHEMA}; {_ANEW}.")
    if not _is_whole(manifest):
        raise ValueError(f"{path} is damaged; {_ANEW}.")
    return manifest


def locate(files: Iterable[Any], index: int) -> tuple[str, int]:
    """(file, number of the record in it) of record ``index`` of files of which records [skip, skip + take) are used."""
    for file in files:
        if index < file.take:
            return file.filename, file.skip + index
        index -= file.take
    raise IndexError(f"There is no record {index} after the last one.")


def _is_whole(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest says what readers look up, and names no file outside of its folder."""
    files = manifest.get("files")
    if type(manifest.get("count")) is not int or not all(
        isinstance(part, dict) for part in (files, manifest.get("report"))
    ):
        return False
    return all(
        name == os.path.basename(name)
        and name not in ("", ".", "..")
        and isinstance(entry, dict)
        and all(type(entry.get(key)) is int and 0 <= entry[key] < 2**63 for key in ("records", "bytes"))
        and isinstance(entry.get("sha256"), str)
        for name, entry in files.items()
    )


def read_report(directory: str | os.PathLike, in_place: bool = False) -> dict:
    """What ``prepare``, or ``sources.index`` of a dataset that is read in place, returned; {} if it was not there yet.

    It is read as it is: a dataset that is damaged or of another schema still has one.
    """
    path = epath.Path(directory) / (REPORT if in_place else MANIFEST)
    found = json.loads(path.read_text()) if path.exists() else {}
    return found if in_place else found.get("report", {})


class _Whole:
    """All of one file, as the data source wants it described: so it need not open the files to count records."""

    def __init__(self, filename: str, records: int):
        self.filename, self.skip, self.take, self.examples_in_shard = filename, 0, records, records


class _WriteError(Exception):
    """The reason why a file could not be written."""


def _write_records(path: Path, records: Iterable[bytes]) -> int:
    writer = None
    count = 0
    try:
        for item in records:
            if writer is None:  # opened late, so that an error of the first record leaves nothing
                writer = _call(array_record_module.ArrayRecordWriter, str(path), _WRITER_OPTIONS)
            _call(writer.write, item)
            count += 1
        writer = writer or _call(array_record_module.ArrayRecordWriter, str(path), _WRITER_OPTIONS)
        _call(writer.close)
    finally:
        if writer is not None:
            with contextlib.suppress(RuntimeError):  # after an error; what follows from it is not worth a word
                writer.close()
    return count


def _call(method: Callable, *arguments: Any) -> Any:
    """Calls a method of a writer. It writes in the background, so a full disk shows at some later call, or at close."""
    try:
        return method(*arguments)
    except RuntimeError as error:  # e.g. "write() failed: No space left on device; writing /path; at byte 0; ..."
        raise _WriteError(str(error).split(";")[0].split("failed: ")[-1]) from None


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return {"bytes": file.tell(), "sha256": digest}
