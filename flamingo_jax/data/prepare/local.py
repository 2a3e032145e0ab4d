"""The driver of one machine: processes, each with one shard at a time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from flamingo_jax.data.process import start_worker

Report = Callable[[int], None]
"""Is told how many bytes of raw files are done."""

Work = Callable[[str, int, Report], None]
"""(folder of the dataset, number, report) -> writes a file: see ``shard``."""


def run(
    work: Work,
    target: str,
    indices: Iterable[int],
    report: Report,
    workers: int,
    blame: Callable[[str, int], bool] = lambda target, index: False,
) -> None:
    """Does the work of all ``indices``.

    blame: told of work that crashed its process when it was done alone; it says whether it has found out what the
        process was at, and made sure that it is left out when the work is done again.

    Raises what the work raises; OSError when a process ends in the midst of it, and ``blame`` found nothing.
    """
    todo = list(indices)
    if min(workers, len(todo)) <= 1:
        for index in todo:
            work(target, index, report)
        return
    while todo and (todo := _try(work, target, todo, report, workers)):
        # One of the first of these crashed and took the others along. Alone, it shows which one, and at what.
        for index in todo[:workers]:
            while _try(work, target, [index], report, 1):
                if not blame(target, index):
                    raise OSError(
                        f"A process ended while it prepared {target}: either memory is short (try fewer workers), or "
                        'the main script lacks `if __name__ == "__main__":`. The same command continues.'
                    )
        todo = todo[workers:]


def _try(work: Work, target: str, indices: list[int], report: Report, workers: int) -> list[int]:
    """Does the work in processes, which begin it in its order. Returns what is left to do when one of them crashed."""
    # Spawned, not forked: JAX's threads in the parent do not survive a fork.
    context = multiprocessing.get_context("spawn")
    done = context.SimpleQueue()
    pool = ProcessPoolExecutor(min(workers, len(indices)), context, _start, (done,))
    try:
        pending = {pool.submit(_work, work, target, index): index for index in indices}
        left = list(indices)
        while pending:
            finished, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            while not done.empty():
                report(done.get())
            for future in finished:
                future.result()
                left.remove(pending.pop(future))
        return []
    except BrokenProcessPool:
        return left
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():  # none of its work is left when all went well
            if process.name.startswith("SpawnProcess"):
                process.terminate()
                process.join()


_done = None  # of a pool's process


def _start(done) -> None:
    global _done
    _done = done
    start_worker()


def _work(work: Work, target: str, index: int) -> None:
    work(target, index, _done.put)
