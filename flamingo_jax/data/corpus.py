"""What a reader knows of the corpus that it reads: the options, the folder of the raw files, and where media are."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Callable

from etils import epath

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data.document import Dropped

MEDIUM_BYTES = 20_000
"""About what an image takes that a list names but does not hold."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A raw file, or a part of one, that is read at once: items [start, stop) of those that its format counts by.

    size: about how many bytes it takes, media that are elsewhere included; shards are cut by it.
    """

    path: str
    start: int = 0
    stop: int | None = None
    size: int = 1


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Attributes:
    options: the corpus' options.
    root: the folder that ``options.source`` searches, which names of files are relative to.
    find: the address, path or file name of a medium -> its content, or why there is none.
    """

    options: CorpusConfig
    root: str
    find: Callable[[str], bytes | Dropped]

    def name(self, path: str) -> str:
        """A file's name relative to the root, with "/" between folders."""
        return name_of(path, self.root)

    def folder(self, path: str) -> str:
        """What names in a file are relative to: the file's own folder, unless ``options.images`` says where media are.

        It is to be put before a name that ``find`` gets.
        """
        return "" if self.options.images else os.path.dirname(self.name(path))


def name_of(path: str, root: str) -> str:
    """A file's name relative to the folder ``root``, with "/" between folders."""
    return os.path.relpath(path, root).replace(os.sep, "/")


_ESCAPED = re.compile(r"\[([*?[])\]")  # what ``glob.escape`` makes of a wildcard


def root_of(source: str) -> str:
    """The folder of a glob's part before its first wildcard; of a plain file its folder."""
    folder = os.path.dirname(source)
    while glob.has_magic(_ESCAPED.sub("", folder)):
        folder = os.path.dirname(folder)
    return _ESCAPED.sub(r"\1", folder) or "."


def find_files(source: str, option: str = "source") -> list[str]:
    """The files of a glob in the order of their names. Raises ValueError, naming the option, when there is none."""
    if "://" in source:
        root = root_of(source)
        found = [os.fspath(path) for path in epath.Path(root).glob(source[len(root) :].lstrip("/"))]
    else:
        found = [path for path in glob.glob(source, recursive=True) if not os.path.isdir(path)]
    if not found:
        folder = os.path.isdir(source)
        hint = (
            f"it is a folder: name files, such as {os.path.join(source, '**', '*')!r}" if folder else "check the path"
        )
        raise ValueError(f"No file matches {option}={source!r}; {hint}.")
    return sorted(found)
