"""What keeps ``goodput.jsonl`` (``goodput.py``) while a run is under way."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

from flamingo_jax.training import goodput

_SHARE = 1e-3  # of a start's time, which a kill may cost where that is more than a few seconds: so the file stays short


class Ledger:
    """Every second since the program's start is in one bucket: "start", unless something else is told."""

    def __init__(
        self,
        path: pathlib.Path | None = None,
        *,
        begun: float | None = None,
        every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ):
        """Args:

        path: of the file, whose folder must exist by ``begin``; None: nothing is written.
        begun: when the program was started, in seconds since the epoch; None: now.
        every: seconds between lines; 0: they are written by ``write`` and at the beginning and end of training alone.
        """
        self._path, self._every, self._clock, self._now = path, every, clock, now
        lines = goodput.read(path) if path else []
        self._start, before = (max(line["start"] for line in lines), lines[-1]["time"]) if lines else (0, 0.0)
        self._start += 1
        # No start begins before the last one's end: one process may be several starts.
        age = 0.0 if begun is None else now() - max(begun, before)
        self._seconds = dict.fromkeys(goodput.MEASURED, 0.0) | {"start": max(age, 0.0)}
        self._mark, self._stack = clock(), ["start"]
        self._place: dict[str, str | int] = {}  # the stage that trains, where it went on, and where it is
        self._counting, self._writing = threading.Lock(), threading.Lock()
        self._ended, self._thread, self.has_begun = threading.Event(), None, False

    def begin(self) -> None:
        """Begins to write. A start that does nothing, because the run is complete, is not one of the run's."""
        if self._path is None or self.has_begun:
            return
        self.has_begun = True
        self.write()
        if self._every:
            self._thread = threading.Thread(target=self._keep_writing, name="goodput", daemon=True)
            self._thread.start()

    @contextlib.contextmanager
    def during(self, bucket: str) -> Iterator[None]:
        """What is inside goes to ``bucket``, but for what is inside of another one in there."""
        self._enter(bucket)
        try:
            yield
        finally:
            self._leave()

    @contextlib.contextmanager
    def training(self, stage: str, step: int) -> Iterator[None]:
        """What is inside trains a stage, from ``step`` on."""
        self.begin()
        self._enter("train")
        self._place = {"stage": stage, "from": step, "step": step}
        self.write()
        try:
            yield
        finally:
            self._leave()
            self.write()
            self._place = {}

    def done(self, step: int) -> None:
        """Tells that so many steps of the stage are done."""
        self._place["step"] = step

    def move(self, seconds: float, wrong: str, right: str) -> None:
        """Tells that so many seconds, or what there is of them, are in one bucket, but belong to another one."""
        with self._counting:
            seconds = min(seconds, self._seconds[wrong])
            self._seconds[wrong] -= seconds
            self._seconds[right] += seconds

    def write(self, more: dict | None = None) -> None:
        """Appends a line. One that cannot be written is left out: the next one has the same sums, and more."""
        if not self.has_begun:
            return
        with self._writing:
            with self._counting:
                self._count()
                line = {"start": self._start, "time": round(self._now(), 3), "now": self._stack[-1]}
                seconds = {name: round(value, 3) for name, value in self._seconds.items()}
                line |= self._place | {"seconds": {name: value for name, value in seconds.items() if value}}
            with contextlib.suppress(OSError):
                _append(self._path, json.dumps(line | (more or {})))

    def close(self, complete: bool = False) -> None:
        """Writes the last line, which says so. complete: nothing is left to do, and the time until another start is not
        the run's."""
        self._ended.set()
        if self._thread:
            self._thread.join()
        self.write({"complete" if complete else "ended": True})
        self.has_begun = False

    def _keep_writing(self) -> None:
        while not self._ended.wait(max(self._every, _SHARE * sum(self._seconds.values()))):
            self.write()

    def _count(self) -> None:
        now = self._clock()
        self._seconds[self._stack[-1]] += now - self._mark
        self._mark = now

    def _enter(self, bucket: str) -> None:
        with self._counting:
            self._count()
            self._stack.append(bucket)

    def _leave(self) -> None:
        with self._counting:
            self._count()
            self._stack.pop()


def _append(path: pathlib.Path, line: str) -> None:
    with path.open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # a kill or a full disk has left a piece of a line
                file.write(b"\n")
        file.write(line.encode() + b"\n")
