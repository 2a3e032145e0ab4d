"""Media by name: all files under a folder, however its subfolders are laid out."""

from __future__ import annotations

import os
import posixpath

from flamingo_jax.data.document import Dropped

VIDEOS = (".mp4", ".webm", ".mkv", ".mov", ".avi")


class Index:
    """Finds the files under ``folder`` by their names: images by the whole name, clips by the name without suffix.

    Names of annotation files are only ever compared with what is in the folder, so none of them can lead out of it.
    """

    def __init__(self, folder: str, kind: str):
        """Lists the folder; links to folders are followed, as media often lie on another disk. Raises OSError."""
        self._kind = kind
        self._paths: dict[str, list[str]] = {}
        self._all: set[str] = set()
        seen = set()
        for place, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
            real = os.path.realpath(place)
            if real in seen:  # a link to a folder above it
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            inside = os.path.relpath(place, folder).replace(os.sep, "/")
            for name in files:
                if (key := self._key(name)) and not name.startswith("."):
                    path = name if inside == "." else f"{inside}/{name}"
                    self._paths.setdefault(key, []).append(path)
                    self._all.add(path)

    def _key(self, name: str) -> str:
        if self._kind == "image":
            return name
        stem, suffix = os.path.splitext(name)
        return stem if suffix.lower() in VIDEOS else ""

    def find(self, names: tuple[str, ...]) -> str | Dropped:
        """The path, relative to the folder, of the first of ``names`` that there is; of equal names, by their folders.

        Names may hold folders. A Dropped says which were looked for.
        """
        for name in names:
            if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or "\0" in name:
                return Dropped("medium named outside of its folder", repr(name), bad=True)
            if name in self._all:
                return name
            paths = self._paths.get(posixpath.basename(name), [])
            if len(paths) > 1:
                ends = tuple(f"/{name}{suffix}" for suffix in (("",) if self._kind == "image" else VIDEOS))
                nearer = [path for path in paths if f"/{path}".endswith(ends)]
                if len(nearer) != 1:
                    return Dropped("medium in several places", " and ".join(sorted(paths)[:2]), bad=True)
                paths = nearer
            if paths:
                return paths[0]
        return Dropped("medium missing", " or ".join(names), bad=True)


def _raise(error: OSError) -> None:
    raise OSError(f"Cannot list the folder {error.filename}: {error.strerror}.") from None
