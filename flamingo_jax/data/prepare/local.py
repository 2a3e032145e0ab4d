"""The driver of one machine: processes, each with one shard at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess

from flamingo_jax.data.process import start_worker

Report = Callable[[int], None]
"""Is told how many bytes of raw files are done."""

Work = Callable[[str, int, Report], None]
"""(folder of the dataset, number, report) -> writes a file: see ``shard``."""

_PATIENCE = 10.0  # seconds that a process without work has to end by itself


def run(
    work: Work,
    target: str,
    indices: Iterable[int],
    report: Report,
    workers: int,
    died_at: Callable[[str, int], str] = lambda target, index: "",
    convict: Callable[[str, str], None] = lambda target, medium: None,
) -> None:
    """Does the work of all ``indices``: in other processes, or with one worker in this one.

    A decoder may crash its process, or somebody kill it at an innocent medium: what two in a row die at is convicted.
    Where one died before, one worker's work is done in another process too.

    Args:
        died_at: (target, index) -> the medium that a process died at in this work since this was asked last, or "".
        convict: (target, medium): makes sure that the medium is left out when the work is done again.

    Raises what the work raises; OSError when processes end in the midst of it, and not twice at the same medium.
    """
    todo = list(indices)
    if workers <= 1:
        for index in todo:
            if medium := died_at(target, index):
                _alone(work, target, index, report, medium, died_at, convict)
            else:
                work(target, index, report)
        return
    while todo and (todo := _try(work, target, todo, report, workers)):
        # One of the first of these crashed and took the others along. Alone, it shows which one, and at what.
        for index in todo[:workers]:
            _alone(work, target, index, report, died_at(target, index), died_at, convict)
        todo = todo[workers:]


def _alone(
    work: Work,
    target: str,
    index: int,
    report: Report,
    last: str,
    died_at: Callable[[str, int], str],
    convict: Callable[[str, str], None],
) -> None:
    """Does work in a process of its own, again until it is done. Raises as ``run`` does.

    last: what the process before died at, if any.
    """
    puzzled = False
    while _try(work, target, [index], report, 1):
        medium = died_at(target, index)
        if medium and medium == last:
            convict(target, medium)
        elif not medium or puzzled:  # each time at another place: no medium is to blame
            raise OSError(
                f"A process ended while it prepared {target}: either memory is short, or the main script lacks "
                '`if __name__ == "__main__":`. Try fewer workers, or one, which works in the main process. The same '
                "command continues."
            )
        last, puzzled = medium, medium != last


def _try(work: Work, target: str, indices: list[int], report: Report, workers: int) -> list[int]:
    """Does the work in processes, which begin it in its order. Returns what is left to do when one of them crashed."""
    context, processes = _spawn()
    done = context.SimpleQueue()
    pool = ProcessPoolExecutor(min(workers, len(indices)), context, _start, (done,))
    left, patience = list(indices), 0.0
    try:
        pending = {pool.submit(_work, work, target, index): index for index in indices}
        while pending:
            finished, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            while not done.empty():
                report(done.get())
            for future in finished:
                future.result()
                left.remove(pending.pop(future))
        patience = _PATIENCE
        return []
    except BrokenProcessPool:
        return left
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            if process.pid is not None:  # else it could not be started
                process.join(patience)  # none when it did not go well: what they are at is not wanted any more
                process.terminate()  # nothing to one that has ended
                process.join()


def _spawn() -> tuple[SpawnContext, list[SpawnProcess]]:
    """How processes are made, and a list of those that were: the caller may have others, which are not ours to end.

    They are spawned, not forked: JAX's threads in the parent do not survive a fork.
    """
    context, processes = SpawnContext(), []

    def make(*arguments, **options) -> SpawnProcess:
        processes.append(SpawnProcess(*arguments, **options))
        return processes[-1]

    context.Process = make
    return context, processes


_done = None  # of a pool's process


def _start(done) -> None:
    global _done
    _done = done
    start_worker()


def _work(work: Work, target: str, index: int) -> None:
    work(target, index, _done.put)
