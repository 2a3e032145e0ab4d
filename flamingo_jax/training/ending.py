"""How a run ends before its last step: the exit codes that launchers know, and SIGTERM."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

PREEMPTED = 75  # what sysexits.h calls a temporary failure: the same command goes on
DIVERGED = 65  # what it calls bad data: the same command would come to the same end
HUNG = 70  # what it calls an internal error: nothing moved any more; the same command goes on
DAMAGED = 74  # what it calls an error of input or output: a device or its memory; the same command goes on

_asked = threading.Event()


class Ended(SystemExit):
    """Ends the program with an exit code that launchers know, and a sentence for its owner."""

    def __init__(self, code: int, sentence: str):
        super().__init__(code)
        self.sentence = sentence


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Inside, a first SIGTERM only makes ``asked`` true; a second one ends the process, as every one does outside.

    Whoever is inside has the time until then to come to where nothing is lost. To be entered by the main thread.
    """

    def note(number, frame):
        signal.signal(signal.SIGTERM, before)
        _asked.set()

    _asked.clear()
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if _asked.is_set():  # and nobody inside made an end of it
        os.kill(os.getpid(), signal.SIGTERM)


def asked() -> bool:
    """Whether SIGTERM has come, inside of ``deferred``."""
    return _asked.is_set()
