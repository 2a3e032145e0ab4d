"""Ends a process in which nothing moves any more, after it has said where it stands."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator

from flamingo_jax.training import ending


class Watchdog:
    """Waits for ``beat`` in a thread of its own. Every process has one: which of them hangs is told by their stacks."""

    def __init__(self, seconds: float, what: str):
        """Args:

        seconds: without a beat, after which the process ends with ``ending.HUNG``; 0: never.
        what: the stage, for the message.
        """
        self._seconds, self._what = seconds, what
        self._last, self._said = time.monotonic(), "it began"
        self._closed = threading.Event()

    def beat(self, said: str) -> None:
        """Something has come to its end: ``said``, as what follows "since "."""
        self._last, self._said = time.monotonic(), said

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, it watches."""
        self.beat(self._said)
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if self._seconds:
            thread.start()
        try:
            yield
        finally:
            self._closed.set()

    def _watch(self) -> None:
        period = min(self._seconds / 4, 10.0)
        while not self._closed.wait(period):
            quiet = time.monotonic() - self._last
            if quiet > self._seconds:
                print(
                    f"{self._what}: nothing has moved for {quiet:,.0f} s, since {self._said}. This process ends with "
                    f"exit code {ending.HUNG}; the same command goes on from the newest checkpoint. It stands here:",
                    file=sys.stderr,
                    flush=True,
                )
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
                sys.stderr.flush()
                time.sleep(2 * period)  # an end of the first process ends all, and they look later than this one
                os._exit(ending.HUNG)  # whatever hangs would keep an orderly end waiting
