"""The driver: raw files -> documents -> a dataset on disk, with several processes and a report of what was dropped.

The readers (``html``, ``tar``, ``video``, ``text``) are pure functions; here are files, processes and the order. The
files are cut into tasks, and the results are written in the order of the tasks: the dataset is a function of the files
alone, whatever the number of workers.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import functools
import glob
import multiprocessing
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from flamingo_jax.data import html, image, record, tar, text, video
from flamingo_jax.data.document import Document, Dropped, encode
from flamingo_jax.data.process import start_worker

MAX_IMAGE_BYTES = 50_000_000
"""Larger image files are not read."""

_CACHE_BYTES = 64_000_000  # per process, of images already resized: the pages of a site share theirs


_TEXT_BYTES = 16_000_000  # of JSON lines in a task


@dataclasses.dataclass(frozen=True)
class Options:
    """How raw files become documents. size: longest side of stored images, pixels; fps, max_frames: see ``video``."""

    size: int = 320
    fps: float = 1.0
    max_frames: int = 32
    rules: image.Rules = image.Rules()


@dataclasses.dataclass(frozen=True)
class Task:
    """A handful of items that one worker reads at once. ``root``: the folder that names are given relative to."""

    format: str
    root: str
    items: tuple[Any, ...]


def prepare(
    format: str,
    source: str,
    target: str | os.PathLike,
    *,
    size: int = 320,
    fps: float = 1.0,
    max_frames: int = 32,
    shards: int = 2,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Turns the files of a glob into a dataset (see ``record``) at ``target``, which is complete at the end or absent.

    Args:
        format: ``html`` (pages with local images), ``tar`` (img2dataset), ``video`` (CSV tables with columns path and
            caption, paths relative to the table) or ``text`` (JSON lines).
        source: a glob, ``**`` included; its files are read in the order of their names.
        target: the dataset's folder; it must not exist yet, or be empty.
        size, fps, max_frames: see ``Options``.
        shards: files of the dataset.
        workers: processes; 1 works in this one.
        progress: called with (items done, all items); items are files, and rows of tables.

    Returns:
        The report, which is in the manifest too: format, source, documents, media, drops {reason: count} and
        first_drops {reason: place}.

    Raises:
        ValueError: unknown format or option, no file matches, or no document came out; it names the source.
        OSError: a source file cannot be read or the dataset not be written; the message names the path. Items that can
            be read but are bad are counted in the report, and never raise.
    """
    if format not in FORMATS:
        raise ValueError(f"Unknown format {format!r}; known here: {', '.join(sorted(FORMATS))}.")
    for name, value in (("size", size), ("fps", fps), ("max_frames", max_frames), ("workers", workers)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, but is {value!r}.")
    files = sorted(path for path in glob.glob(source, recursive=True) if not os.path.isdir(path))
    if not files:
        raise ValueError(f"No file matches {source!r}; check the path.")
    options = Options(size, fps, max_frames)
    tasks = list(FORMATS[format].tasks(_root(source), files))
    report = {"format": format, "source": source, "documents": 0, "media": 0, "drops": {}, "first_drops": {}}
    records = _records(_results(tasks, options, workers, source), report, progress, sum(len(t.items) for t in tasks))
    try:
        record.write(target, _not_empty(records, report), shards, report)
    except BrokenProcessPool:
        raise OSError(
            f"A worker process ended while it prepared {source}: either memory is short (try fewer workers), "
            'or the main script lacks `if __name__ == "__main__":`.'
        ) from None
    return report


def _records(results: Iterable[tuple[int, list[bytes | Dropped], int]], report: dict, progress, total: int):
    done = 0
    for items, outcomes, media in results:
        for outcome in outcomes:
            if isinstance(outcome, Dropped):
                report["drops"][outcome.reason] = report["drops"].get(outcome.reason, 0) + 1
                report["first_drops"].setdefault(outcome.reason, outcome.place)
            else:
                report["documents"] += 1
                yield outcome
        report["media"] += media
        done += items
        if progress is not None:
            progress(done, total)


def _not_empty(records: Iterator[bytes], report: dict) -> Iterator[bytes]:
    yield from records
    if not report["documents"]:
        drops = ", ".join(
            f"{count} x {reason} (first: {report['first_drops'][reason]})" for reason, count in report["drops"].items()
        )
        raise ValueError(f"No document came out of {report['source']!r}: {drops or 'its files are empty'}.")


def _results(
    tasks: list[Task], options: Options, workers: int, source: str
) -> Iterator[tuple[int, list[bytes | Dropped], int]]:
    """The tasks' results in order; a few tasks are ahead of the reader, so that memory stays bounded."""
    if workers == 1 or len(tasks) == 1:
        yield from map(_Worker(options), tasks)
        return
    # Spawned, not forked: JAX's threads in the parent do not survive a fork.
    pool = ProcessPoolExecutor(min(workers, len(tasks)), multiprocessing.get_context("spawn"), _start, (options,))
    try:
        pending = collections.deque()
        for task in tasks:
            pending.append(pool.submit(_work, task))
            if len(pending) > 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_worker: _Worker | None = None  # of a pool's process


def _start(options: Options) -> None:
    global _worker
    _worker = _Worker(options)
    start_worker()


def _work(task: Task) -> tuple[int, list[bytes | Dropped], int]:
    return _worker(task)


class _Worker:
    """What a process keeps from task to task: the options, and the images that it resized already."""

    def __init__(self, options: Options):
        self.options = options
        self._images: dict[str, bytes | Dropped] = {}
        self._cached = 0

    def __call__(self, task: Task) -> tuple[int, list[bytes | Dropped], int]:
        outcomes, media = [], 0
        for outcome in FORMATS[task.format].read(task, self):
            if isinstance(outcome, Document):
                media += len(outcome.media)
                outcome = encode(outcome)
            outcomes.append(outcome)
        return len(task.items), outcomes, media

    def image(self, path: str, place: str) -> bytes | Dropped:
        """A local image file in its stored form, resized once per process."""
        found = self._images.get(path)
        if found is None:
            data = _read_image(path, place)
            options = self.options
            found = data if isinstance(data, Dropped) else image.store(data, options.size, options.rules, place)
            self._cached += len(found) if isinstance(found, bytes) else 200
            if self._cached > _CACHE_BYTES:
                self._images.clear()
                self._cached = 0
            self._images[path] = found
        return found


def _read_html(task: Task, worker: _Worker) -> Iterator[Document | Dropped]:
    for path in task.items:
        name = PurePosixPath(os.path.relpath(path, task.root)).as_posix()
        lookup = functools.partial(_local_image, root=task.root, worker=worker)
        with _open(path) as file:
            data = file.read(html.MAX_BYTES + 1)
        yield from html.document(data, "file:///" + quote(name), lookup, name, name)


def _local_image(address: str, root: str, worker: _Worker) -> bytes | Dropped:
    """Looks an address up in the folder of the pages, which stands for the root of their site."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return Dropped("image without address", address)
    if parts.scheme != "file" or parts.netloc:
        return Dropped("image elsewhere", address)
    path = unquote(parts.path).lstrip("/")
    # urljoin cannot leave the root, but an encoded "%2e%2e" can; nor may a page read other files of this machine.
    if ".." in path.split("/") or "\0" in path:
        return Dropped("image elsewhere", address)
    return worker.image(os.path.join(root, path), path)


def _read_image(path: str, place: str) -> bytes | Dropped:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would block, a device never end
            return Dropped("image missing", f"{place} is no file")
        if status.st_size > MAX_IMAGE_BYTES:
            return Dropped("image too large", f"{place}: {status.st_size} bytes")
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        return Dropped("image missing", f"{place}: {getattr(error, 'strerror', None) or error}")


def _read_tar(task: Task, worker: _Worker) -> Iterator[Document | Dropped]:
    for path in task.items:
        with _open(path) as file:
            yield from tar.documents(file, os.path.relpath(path, task.root), worker.options.size)


def _read_text(task: Task, worker: _Worker) -> Iterator[Document | Dropped]:
    for path in task.items:
        with _open(path) as file:
            yield from text.documents(file, os.path.relpath(path, task.root))


def _read_video(task: Task, worker: _Worker) -> Iterator[Document | Dropped]:
    options = worker.options
    for path, caption in task.items:
        name = os.path.relpath(path, task.root)
        yield video.document(
            path, caption, name, name, fps=options.fps, max_frames=options.max_frames, size=options.size
        )


def _batches(format: str, count: int) -> Callable[[str, list], Iterator[Task]]:
    """Tasks of ``count`` items each."""

    def tasks(root: str, items: list) -> Iterator[Task]:
        for start in range(0, len(items), count):
            yield Task(format, root, tuple(items[start : start + count]))

    return tasks


def _text_tasks(root: str, files: list[str]) -> Iterator[Task]:
    """Tasks of about ``_TEXT_BYTES``: less is read sooner than a process is started."""
    batch, size = [], 0
    for path in files:
        batch.append(path)
        try:
            size += os.path.getsize(path)
        except OSError as error:
            raise _unreadable(path, error) from None
        if size > _TEXT_BYTES:
            yield Task("text", root, tuple(batch))
            batch, size = [], 0
    if batch:
        yield Task("text", root, tuple(batch))


def _video_tasks(root: str, files: list[str]) -> Iterator[Task]:
    for path in files:
        yield from _batches("video", 16)(root, list(_rows(path)))


def _rows(path: str) -> Iterator[tuple[str, str]]:
    """(path of the clip, caption) of each row of a table."""
    folder = os.path.dirname(path)
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            rows = csv.DictReader(file)
            missing = {"path", "caption"} - set(rows.fieldnames or ())
            if missing:
                raise ValueError(
                    f"{path} must be a CSV table with the columns path and caption, but lacks "
                    f"{' and '.join(sorted(missing))}."
                )
            for row in rows:
                yield os.path.join(folder, row["path"] or ""), row["caption"] or ""
    except OSError as error:
        raise _unreadable(path, error) from None
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV table: {error}.") from None


@dataclasses.dataclass(frozen=True)
class _Format:
    """tasks: (root, files) -> tasks. read: (task, worker) -> what its items give, in order."""

    tasks: Callable[[str, list[str]], Iterator[Task]]
    read: Callable[[Task, _Worker], Iterator[Document | Dropped]]


FORMATS = {
    "html": _Format(_batches("html", 32), _read_html),
    "tar": _Format(_batches("tar", 1), _read_tar),
    "video": _Format(_video_tasks, _read_video),
    "text": _Format(_text_tasks, _read_text),
}


def _open(path: str):
    """Opens a source file. One that cannot be opened is no bad item but a mistake in the run: OSError naming it."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: OSError) -> OSError:
    return OSError(f"Cannot read the source file {Path(path).absolute()}: {error.strerror or error}.")


_ESCAPED = re.compile(r"\[([*?[])\]")  # what ``glob.escape`` makes of a wildcard


def _root(source: str) -> str:
    """The folder of a glob's part before its first wildcard; of a plain file its folder."""
    folder = os.path.dirname(source)
    while glob.has_magic(_ESCAPED.sub("", folder)):
        folder = os.path.dirname(folder)
    return _ESCAPED.sub(r"\1", folder) or "."
