"""The driver of one machine: processes, each with one shard at a time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from flamingo_jax.data.process import start_worker

Work = Callable[[str, int, Callable[[int], None]], None]
"""(folder of the dataset, number, report of what is done) -> writes a file: see ``shard``."""


def run(work: Work, target: str, indices: Iterable[int], report: Callable[[int], None], workers: int) -> None:
    """Does the work of all ``indices``. Raises what it raises; OSError when a process ends in the midst of it."""
    indices = list(indices)
    workers = min(workers, len(indices))
    if workers <= 1:
        for index in indices:
            work(target, index, report)
        return
    # Spawned, not forked: JAX's threads in the parent do not survive a fork.
    context = multiprocessing.get_context("spawn")
    done = context.SimpleQueue()
    pool = ProcessPoolExecutor(workers, context, _start, (done,))
    try:
        pending = {pool.submit(_work, work, target, index) for index in indices}
        while pending:
            finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            while not done.empty():
                report(done.get())
            for future in finished:
                future.result()
    except BrokenProcessPool:
        raise OSError(
            f"A process ended while it prepared {target}: either memory is short (try fewer workers), or the main "
            'script lacks `if __name__ == "__main__":`. The same command continues.'
        ) from None
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
