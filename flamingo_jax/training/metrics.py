"""What a run tells: metrics as JSON lines and TensorBoard events, and a progress bar.

In a run of several processes only the first one writes and shows anything.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

import jax
import tqdm
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from flamingo_jax.data.file import write_whole

FILE = "metrics.jsonl"

# Rates and the time left come from this many seconds, so that they follow a change and forget the compilation.
_WINDOW = 30.0


class Writer:
    """Writes metrics to ``directory/metrics.jsonl`` and to a TensorBoard event file beside it.

    A line is ``{"step": 20, "loss/m3w": 1.5, ...}``, keys sorted, and holds neither time nor speed: a run that is
    killed and resumed from its checkpoint ends with the same file as one that was not.
    """

    def __init__(self, directory: str | os.PathLike, resume_step: int):
        """Opens both for writing after step ``resume_step`` (0: from the start), the step of the checkpoint in use.

        Lines of later steps, and a line that a killed process left unfinished, are cut off; TensorBoard is told to
        forget those steps. Raises OSError that names the file.
        """
        self._file: TextIO | None = None
        self._path = Path(directory) / FILE
        if jax.process_index():
            return
        with _named(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _truncate(self._path, resume_step)
            self._file = self._path.open("a", encoding="utf-8")
        with _named(self._path.parent):
            # The plain writer: tensorboardX's SummaryWriter writes in a thread, where a full disk would go unseen.
            self._events = EventsWriter(str(self._path.parent / "events"), f".{os.getpid()}.{resume_step}")
            start = Event(wall_time=time.time(), step=resume_step + 1, session_log=SessionLog(status=SessionLog.START))
            self._events.write_event(start)
            self._events.flush()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one step's metrics. Raises OSError that names the file, e.g. when the disk is full."""
        if self._file is None:
            return
        values = {name: float(value) for name, value in values.items()}
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        with _named(self._path):
            self._file.write(json.dumps({"step": int(step)} | dict(sorted(values.items()))) + "\n")
            self._file.flush()
        with _named(self._path.parent):
            self._events.write_event(Event(wall_time=time.time(), step=int(step), summary=summary))

    def flush(self) -> None:
        """Returns when all that was written is on the disk; to be called before a checkpoint refers to it."""
        if self._file is None:
            return
        with _named(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        with _named(self._path.parent):
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes both files. Nothing may be written afterwards."""
        if self._file is None:
            return
        self.flush()
        self._file.close()
        self._events.close()
        self._file = None


def read(directory: str | os.PathLike) -> list[dict[str, float]]:
    """The lines of ``directory/metrics.jsonl`` as dicts, in order; an unfinished last line is left out.

    Raises OSError if there is none.
    """
    lines = []
    for line in (Path(directory) / FILE).read_bytes().splitlines(keepends=True):
        try:
            if not line.endswith(b"\n"):
                break
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


class Progress:
    """Shows how far a stage is: loss per dataset, tokens/s, images/s, time left.

    A bar where there is a terminal; elsewhere a plain line now and then:

        flamingo 320/1500  loss m3w 1.234 align 0.871  12,345 tokens/s 2,108 images/s  3:05 left
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
        self._started: tuple[float, float] | None = None  # when the second step began, and what was waited until then
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

    def update(self, step: int, values: Mapping[str, float], *, tokens: int = 0, images: int = 0) -> None:
        """Tells that ``step`` steps are done.

        Args:
            step: counts from 1.
            values: that step's metrics; those called ``loss/<dataset>`` are shown.
            tokens, images: how many one step processes; what is 0 is not shown.
        """
        now = self._clock()
        self._step = step
        self._started = self._started or (now, self._waited)
        self._marks.append((now, step, self._waited))
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
        """Which share of the time, from the second step on, the devices stood still for data."""
        since, waited = self._started or (0.0, 0.0)
        share = (self._waited - waited) / max(self._clock() - since, 1e-9) if self._started else 0.0
        return f"waited {share:.1%} of its time for data"

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
            if (share := (waited - before) / (now - since)) >= 0.01:
                parts.append(f"{share:.0%} waiting for data")
            parts.append(f"{_clock_time((self._total - last) / rate)} left")
        return "  ".join(part for part in parts if part)


def _clock_time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _truncate(path: Path, step: int) -> None:
    """Keeps the lines up to ``step``; the file changes whole or not at all."""
    if not path.exists():
        return
    kept = "".join(json.dumps(line) + "\n" for line in read(path.parent) if line["step"] <= step)
    write_whole(path, kept)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Makes an OSError inside of it name the path: that of a full disk names none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"Cannot write metrics: {error.strerror}", str(path)) from None
