"""A stage's checkpoints on the disk: ``DIR/ATTEMPT/STEP``, found without reading them (and without JAX)."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator

FOLDER = "checkpoints"  # DIR's name, in the folder of its stage
FROM = "from"  # DIR/ATTEMPT/from: the step that the attempt went on from


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint on the disk."""

    path: pathlib.Path
    step: int

    @property
    def name(self) -> str:
        """Stage, attempt and step, the same on every host."""
        return "/".join(self.path.parts[-4:])


def find(directory: pathlib.Path) -> list[Found]:
    """All complete checkpoints, from the newest attempt's newest on. What an attempt has written beyond the step from
    which a later one went on is not among them.

    Raises ValueError when they are of an older version of this package.
    """
    found, limit = [], float("inf")
    for attempt in sorted(numbered(directory), key=lambda path: -int(path.name)):
        if (attempt / "_CHECKPOINT_METADATA").exists():
            raise ValueError(f"{attempt} was written by an older version; delete {directory} to start the stage anew.")
        steps = sorted((int(path.name) for path in numbered(attempt)), reverse=True)
        found += [Found(attempt / str(step), step) for step in steps if step <= limit]
        if (attempt / FROM).exists():
            limit = min(limit, int((attempt / FROM).read_text()))
    return found


def numbered(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """What is called by a number in a folder, which need not exist."""
    if folder.exists():
        yield from (path for path in folder.iterdir() if path.name.isdecimal())
