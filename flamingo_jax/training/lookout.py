"""When a stage saves, and when it stops for SIGTERM: at the same step in all processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax

from flamingo_jax.training import ending, hosts

_EVERY = 1.0  # seconds between two looks of several processes at each other; one alone looks after every round


class Due(NamedTuple):
    """What is to be done after a step."""

    save: bool = False
    stop: bool = False
    end: str = ""  # the reason for which the run ends at once


class Lookout:
    """Asked after every step, it says what is due there.

    The first process decides, for its clock is the one that counts, and tells the others, together with the step at
    which they ask again. A process that gets SIGTERM says so, and all stop at the look after the next.
    """

    def __init__(
        self,
        every: float,
        start: int,
        round_length: int,
        steps: int,
        *,
        at: Iterable[int] = (),
        busy: Callable[[], bool] = lambda: False,
        end: Callable[[], str] = str,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Args:

        every: seconds between saves.
        start: the step that the stage goes on from.
        round_length: updates; only at its multiples, and before the last round, is anything due.
        steps: of the stage.
        at: steps that one of them divides are saved whatever the time; 0 divides none.
        busy: whether a save is at work, which another one does not hurry.
        end: a reason for which the run ends; "" for none.
        """
        self._every, self._round, self._clock = every, round_length, clock
        self._busy, self._end = busy, end
        self._at = [math.lcm(interval, round_length) for interval in at if interval]
        self._last = steps - round_length  # what is saved later is trained no further
        self._next = -(-(start + 1) // round_length) * round_length
        self._saved = clock()
        self._looked, self._looked_at, self._interval = start, self._saved, round_length

    def after(self, step: int) -> Due:
        """What is due after step ``step``. Raises TimeoutError when the first process does not answer."""
        if step < self._next or step > self._last:
            return Due()
        _tell()
        *due, self._next = hosts.agree(self._decide(step) if hosts.is_first() else None)
        return Due(*due)

    def _decide(self, step: int) -> tuple[bool, bool, str, int]:
        now = self._clock()
        if end := self._end():
            return False, False, end, step
        stop = _asked()
        save = (
            stop
            or any(step % interval == 0 for interval in self._at)
            or (now - self._saved > self._every and not self._busy())
        )
        if save:
            self._saved = now
        if jax.process_count() > 1:
            steps = (step - self._looked) * _EVERY / max(now - self._looked_at, 1e-9)
            rounds = min(steps, 2 * self._interval) // self._round  # carefully: the first steps are slow, or fast
            self._interval = max(1, int(rounds)) * self._round
        self._looked, self._looked_at = step, now
        marks = [step - step % interval + interval for interval in self._at]
        return save, stop, "", min([step + self._interval, *marks])


def stopping() -> bool:
    """Whether SIGTERM has come to one of the processes: the same answer in all, which ask in the same order."""
    _tell()
    return hosts.agree(_asked() if hosts.is_first() else None)


def _tell() -> None:
    if ending.asked():
        hosts.call("stop")


def _asked() -> bool:
    """In the first process."""
    return ending.asked() or bool(hosts.called("stop"))
