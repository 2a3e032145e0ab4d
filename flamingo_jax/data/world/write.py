"""Writes the whole world: all files, with several processes, or none."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from flamingo_jax.config import WorldConfig
from flamingo_jax.data.process import start_worker
from flamingo_jax.data.world import benchmarks, clips, library, pages, pairs, texts
from flamingo_jax.data.world.attributes import split

_CHUNK = {"library": 400, "pages": 250, "clips": 40}  # items of one job: about half a second of work
_TEXT_FILES = 4

Job = tuple[str, tuple, int]  # a key of _JOBS, its arguments, and how many items it makes


def write(
    directory: str | os.PathLike,
    config: WorldConfig,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 2,
) -> None:
    """Writes the world of ``config`` into ``directory``: pages, text, align, ltip, vtp and benchmarks.

    The files are a pure function of ``config``, whatever ``workers`` (1: this process alone). They are written into a
    hidden folder beside ``directory``, which gets its name at the end: ``directory`` is complete or absent.

    progress: called with (items made, all items), a few times a second.

    Raises:
        ValueError: a size in ``config`` is too small.
        OSError: ``directory`` is not empty, cannot be written, or the disk is full; the message names the path.
    """
    directory = Path(directory).absolute()
    _check(config)
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise FileExistsError(f"{directory} exists already; delete it, or name another folder for the world.")
    partial = directory.parent / f".{directory.name}.partial-{os.getpid()}"
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        for left_over in directory.parent.glob(f".{directory.name}.partial-*"):  # of runs that were killed
            shutil.rmtree(left_over, ignore_errors=True)
        partial.mkdir()
        _run(partial, config, progress, workers)
        partial.replace(directory)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"Cannot write the world to {directory}: {reason}; make room there or name another folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def jobs(config: WorldConfig) -> list[Job]:
    """All jobs, the slow ones first, so that the processes end together."""
    found: list[Job] = [("text", (), config.texts)]
    found += [("clips", (numbers,), len(numbers)) for numbers in _chunks(config.clips, _CHUNK["clips"])]
    for task in benchmarks.TASKS:
        found += [("benchmark", (task, name), benchmarks.size(config, task, name)) for name in benchmarks.SPLITS]
    for name in pairs.NAMES:
        found += [
            ("pairs", (name, shard), len(numbers))
            for shard, numbers in enumerate(_chunks(getattr(config, name), pairs.SHARD))
        ]
    images = len(split(config.seed)[0]) * config.images_per_concept
    found += [("library", (numbers,), len(numbers)) for numbers in _chunks(images, _CHUNK["library"])]
    found += [("pages", (numbers,), len(numbers)) for numbers in _chunks(config.pages, _CHUNK["pages"])]
    return [*found, ("clutter", (), 1), ("captions", (), 1)]


def _run(root: Path, config: WorldConfig, progress, workers: int) -> None:
    todo = jobs(config)
    total, done = sum(items for _, _, items in todo), 0
    if workers <= 1:
        for job in todo:
            done += _do(root, config, job)
            if progress is not None:
                progress(done, total)
        return
    # Spawned, not forked: the parent may hold threads (JAX) that do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker) as executor:
        futures = [executor.submit(_do, root, config, job) for job in todo]
        try:
            for future in as_completed(futures):
                done += future.result()
                if progress is not None:
                    progress(done, total)
        except BrokenProcessPool:
            raise OSError(f"A process that writes {root} was ended from outside; memory may be short.") from None
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _do(root: Path, config: WorldConfig, job: Job) -> int:
    name, arguments, items = job
    _JOBS[name](root, config, *arguments)
    return items


def _library(root: Path, config: WorldConfig, numbers: range) -> None:
    library.write(root, config, split(config.seed)[0], numbers)


def _pages(root: Path, config: WorldConfig, numbers: range) -> None:
    pages.write(root, config, split(config.seed)[0], numbers)


def _clutter(root: Path, config: WorldConfig) -> None:
    pages.write_clutter(root, config)


def _pairs(root: Path, config: WorldConfig, name: str, shard: int) -> None:
    pairs.write(root, config, split(config.seed)[0], name, shard)


def _clips(root: Path, config: WorldConfig, numbers: range) -> None:
    clips.write(root, config, split(config.seed)[0], numbers)


def _captions(root: Path, config: WorldConfig) -> None:
    clips.write_captions(root, config, split(config.seed)[0])
    benchmarks.write_words(root)


def _text(root: Path, config: WorldConfig) -> None:
    folder = root / "text"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text}) + "\n" for text in texts.texts(config)]
    for i in range(_TEXT_FILES):
        with open(folder / f"{i:05d}.jsonl", "w", encoding="utf-8") as file:
            file.writelines(lines[i::_TEXT_FILES])


def _chunks(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _check(config: WorldConfig) -> None:
    for name, least in _LEAST.items():
        if getattr(config, name) < least:
            raise ValueError(f"world.{name} must be at least {least}, but is {getattr(config, name)}.")


# A concept of ``binding`` needs a picture to support and another to ask about.
_LEAST = {
    "seed": 0,
    "images_per_concept": 1,
    "pages": 1,
    "align": 1,
    "ltip": 1,
    "clips": 1,
    "texts": 1,
    "queries": 1,
    "supports": 1,
    "binding_images": 2,
}
_JOBS = {
    "library": _library,
    "pages": _pages,
    "clutter": _clutter,
    "pairs": _pairs,
    "clips": _clips,
    "captions": _captions,
    "text": _text,
    "benchmark": benchmarks.write,
}
