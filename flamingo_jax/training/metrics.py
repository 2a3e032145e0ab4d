"""What a run tells: metrics as JSON lines and TensorBoard events, and a progress bar.

In a run of several processes only the first one writes and shows anything.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, TextIO

import jax
import tqdm
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from flamingo_jax.data.file import read_lines, write_whole
from flamingo_jax.training.clock import clock_time
from flamingo_jax.training.tracking import Send, send_nothing

FILE, SPEED, VALIDATION = "metrics.jsonl", "speed.jsonl", "validation.jsonl"
_TAGS = {FILE: "", SPEED: "speed/", VALIDATION: "validation/"}  # before a metric's name, in TensorBoard

# Rates and the time left come from this many seconds, so that they follow a change and forget the compilation.
_WINDOW = 30.0


class Writer:
    """Writes lines to ``directory/metrics.jsonl``, ``speed.jsonl`` and ``validation.jsonl``, and all of them to a
    TensorBoard event file.

    A line is ``{"step": 20, "loss/m3w": 1.5, ...}``, keys sorted. Those of metrics and validation hold neither time nor
    speed: a run that is killed and resumed from its checkpoint ends with the same files as one that was not.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        resume_step: int,
        owed: bool = False,
        send: Send = send_nothing,
        patience: float = 600.0,
    ):
        """Opens them for writing after step ``resume_step`` (0: from the start), the step of the checkpoint in use.

        Lines of later steps, and a line that a killed process left unfinished, are cut off, as is that step's line of
        validation where it is ``owed``; TensorBoard is told to forget those steps. Files are replaced by what is kept
        of them: what a process of an older start still writes is nowhere.

        send: takes what is written, as (the folder's name, step, values). patience: seconds for which files may refuse
        what is written, such as on a full disk; it is kept until then. Raises OSError that names the file.
        """
        self._files: dict[str, BinaryIO] = {}
        self._unwritten = {name: bytearray() for name in _TAGS}
        self._patience, self._failing_since, self._lock = patience, 0.0, threading.Lock()
        self._directory, self._send = Path(directory), send
        if jax.process_index():
            return
        for name in _TAGS:
            path = self._directory / name
            with _named(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                _truncate(path, resume_step - (owed and name == VALIDATION))
                self._files[name] = path.open("ab", buffering=0)
        with _named(self._directory):
            # The plain writer: tensorboardX's SummaryWriter writes in a thread, where a full disk would go unseen.
            self._events = EventsWriter(str(self._directory / "events"), f".{os.getpid()}.{resume_step}")
            start = Event(wall_time=time.time(), step=resume_step + 1, session_log=SessionLog(status=SessionLog.START))
            self._events.write_event(start)
            self._events.flush()

    def write(self, step: int, values: Mapping[str, float], name: str = FILE) -> None:
        """Appends one step's values to a file, unless there are none; in TensorBoard ``speed/...`` and
        ``validation/...`` are those of the others.

        Raises OSError that names the file, when it has refused what is written for longer than ``patience``.
        """
        if not self._files or not values:
            return
        line = {key: float(value) for key, value in sorted(values.items())}
        shown = [Summary.Value(tag=_TAGS[name] + key, simple_value=value) for key, value in line.items()]
        with self._lock:
            self._unwritten[name] += (json.dumps({"step": int(step)} | line) + "\n").encode()
            with contextlib.suppress(OSError):  # what is refused here is missing here alone
                self._events.write_event(Event(wall_time=time.time(), step=int(step), summary=Summary(value=shown)))
            try:
                self._append()
            except OSError:
                self._failing_since = self._failing_since or time.monotonic()
                if time.monotonic() - self._failing_since >= self._patience:
                    raise
            else:
                self._failing_since = 0.0
        self._send(self._directory.name, int(step), {_TAGS[name] + key: value for key, value in line.items()})

    def flush(self) -> None:
        """Returns when all that was written is on the disk; what a checkpoint refers to must be there before it.

        May be called in any thread. Raises OSError that names the file.
        """
        with self._lock:
            self._append()
            for name, file in self._files.items():
                with _named(self._directory / name):
                    os.fsync(file.fileno())
            if self._files:
                with contextlib.suppress(OSError):
                    self._events.flush()

    def _append(self) -> None:
        """Writes what is not written yet, and keeps what is refused."""
        for name, file in self._files.items():
            left = self._unwritten[name]
            with _named(self._directory / name):
                while left:
                    del left[: file.write(left)]

    def close(self) -> None:
        """Flushes and closes the files. Nothing may be written afterwards."""
        if not self._files:
            return
        self.flush()
        with self._lock:  # a save that is still at work may flush
            for file in self._files.values():
                file.close()
            self._events.close()
            self._files = {}


def read(directory: str | os.PathLike, name: str = FILE) -> list[dict[str, float]]:
    """The lines of ``directory/metrics.jsonl`` as dicts, in order; an unfinished last line is left out.

    Raises OSError if there is none.
    """
    return read_lines(Path(directory) / name)


class Progress:
    """Shows how far a stage is: loss per dataset, tokens/s, images/s, time left.

    A bar where there is a terminal; elsewhere a plain line now and then:

        flamingo 320/1500  loss m3w 1.234 align 0.871  12,345 tokens/s 2,108 images/s  43% MFU  3:05 left
    """

    def __init__(
        self,
        name: str,
        total: int,
        start: int = 0,
        *,
        every: float = 10.0,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """``total`` steps, of which ``start`` are done; ``every``: seconds between plain lines; ``file``: stderr."""
        self._name, self._total, self._step = name, total, start
        self._every, self._clock = every, clock
        self._file = file or sys.stderr
        self._quiet = bool(jax.process_index())
        self._marks: collections.deque[tuple[float, int, float]] = collections.deque()
        self._started: tuple[float, int, float] | None = None  # the first of the marks
        self._seconds_at_peak = 0.0
        self._waited = 0.0
        self._shown_at, self._text, self._shown_text = -float("inf"), "", ""
        self._bar = None
        if self._file.isatty() and not self._quiet:
            self._bar = tqdm.tqdm(
                total=total,
                initial=start,
                desc=name,
                file=self._file,
                dynamic_ncols=True,
                bar_format="{desc} {n_fmt}/{total_fmt} |{bar:20}|{postfix}",
            )

    def update(
        self,
        step: int,
        values: Mapping[str, float],
        *,
        tokens: float = 0,
        images: float = 0,
        seconds_at_peak: float = 0,
    ) -> None:
        """Tells that ``step`` steps are done.

        Args:
            step: counts from 1.
            values: that step's metrics; those called ``loss/<dataset>`` are shown.
            tokens, images: how many one step processes; what is 0 is not shown.
            seconds_at_peak: that it would take at the devices' best rate, of which a share is shown; 0: not known.
        """
        now = self._clock()
        self._step, self._seconds_at_peak = step, seconds_at_peak
        self._marks.append((now, step, self._waited))
        self._started = self._started or self._marks[0]
        while len(self._marks) > 2 and now - self._marks[1][0] > _WINDOW:
            self._marks.popleft()
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(self._describe(values, tokens, images), refresh=False)
            self._bar.update(step - self._bar.n)
            return
        due = now - self._shown_at >= self._every
        if due or step >= self._total:
            self._text = f"{self._name} {step}/{self._total}  {self._describe(values, tokens, images)}"
        if due:
            self._show(now)

    def waited(self, seconds: float) -> None:
        """Tells that the devices stood still for so long, in seconds, because data were not ready."""
        self._waited += seconds

    def summary(self) -> str:
        """Which share of the time, from the second step on, the devices stood still for data; and the model's share of
        their best rate, where that is known."""
        now = self._clock()
        since, first, waited = self._started or (now, self._step, self._waited)
        taken = max(now - since, 1e-9)
        line = f"waited {(self._waited - waited) / taken:.1%} of its time for data"
        if self._seconds_at_peak and self._step > first:
            line += f", MFU {(self._step - first) * self._seconds_at_peak / taken:.1%}"
        return line

    def close(self) -> None:
        """Shows the end."""
        if self._bar is not None:
            self._bar.close()
        elif not self._quiet:
            self._show(self._clock())

    def _show(self, now: float) -> None:
        if self._text != self._shown_text:
            print(self._text, file=self._file, flush=True)
        self._shown_at, self._shown_text = now, self._text

    def _describe(self, values: Mapping[str, float], tokens: int, images: int) -> str:
        losses = [
            f"{name.removeprefix('loss/')} {value:.3f}" for name, value in values.items() if name.startswith("loss/")
        ]
        parts = [" ".join(["loss", *losses])] if losses else []
        (since, first, before), (now, last, waited) = self._marks[0], self._marks[-1]
        if last > first and now > since:
            rate = (last - first) / (now - since)
            parts.append(
                " ".join(
                    f"{count * rate:,.0f} {what}/s" for what, count in (("tokens", tokens), ("images", images)) if count
                )
            )
            if self._seconds_at_peak:
                parts.append(f"{rate * self._seconds_at_peak:.0%} MFU")
            if (share := (waited - before) / (now - since)) >= 0.01:
                parts.append(f"{share:.0%} waiting for data")
            parts.append(f"{clock_time((self._total - last) / rate)} left")
        return "  ".join(part for part in parts if part)


def _truncate(path: Path, step: int) -> None:
    """Keeps the lines up to ``step``; the file changes whole or not at all."""
    if not path.exists():
        return
    kept = "".join(json.dumps(line) + "\n" for line in read(path.parent, path.name) if line["step"] <= step)
    write_whole(path, kept)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Makes an OSError inside of it name the path: that of a full disk names none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"Cannot write metrics: {error.strerror}", str(path)) from None
