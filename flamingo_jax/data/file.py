"""Files: opened, and written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from etils import epath


def write_whole(path: str | os.PathLike, content: str | bytes | Iterable[bytes]) -> None:
    """Replaces ``path`` by ``content`` in one step, on disk when it returns; a kill leaves the old file or the new one.

    ``path`` may be an address such as ``gs://``. Raises OSError naming the path (that of a full disk names none by
    itself).

    content: or its parts, one after the other.
    """
    content = content.encode() if isinstance(content, str) else content
    parts = [content] if isinstance(content, bytes) else content
    if "://" in os.fspath(path):  # an object store shows a file when it is whole
        epath.Path(path).write_bytes(b"".join(parts))
        return
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, f"Cannot write {path}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):  # in a folder without permission, the error above says it
            temporary.unlink(missing_ok=True)


def read_lines(path: str | os.PathLike) -> list[dict]:
    """The lines of a file of JSON lines, in order; what a kill or a full disk left unfinished is left out.

    Raises OSError if there is no such file.
    """
    found = []
    for line in pathlib.Path(path).read_bytes().splitlines(keepends=True):
        with contextlib.suppress(ValueError):
            if line.endswith(b"\n"):
                found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


def save_array(path: str, array: np.ndarray) -> None:
    """Writes an array as .npy, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_whole(path, buffer.getvalue())


def open_file(path: str) -> BinaryIO:
    """Opens a file, local or of an address such as ``gs://``, to be read. Raises OSError naming it."""
    if "://" not in path and os.path.exists(path) and not os.path.isfile(path):  # to open a pipe would take for ever
        raise OSError(f"Cannot read the file {path}: it is no regular file.")
    try:
        return epath.Path(path).open("rb")
    except OSError as error:
        raise OSError(f"Cannot read the file {path}: {error.strerror or error}.") from None


def check_place(option: str, path: str) -> None:
    """Raises ValueError for an address of an unknown kind."""
    try:
        epath.Path(path)
    except KeyError:
        kind = path.partition("://")[0]
        raise ValueError(f"{option}={path!r}: no address begins with {kind}://; gs:// and s3:// are known.") from None


def size_of(path: str) -> int:
    """Bytes of a file. Raises OSError naming it."""
    try:
        return epath.Path(path).stat().length
    except OSError as error:
        raise OSError(f"Cannot read the file {path}: {error.strerror or error}.") from None
