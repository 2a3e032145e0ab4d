"""Times: when this process began, and durations as text."""

from __future__ import annotations

import os
import pathlib
import time


def process_start() -> float:
    """When this process began, in seconds since the epoch; now where the system does not tell (it is not Linux)."""
    now = time.time()
    try:
        ticks = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]  # since the machine's start
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return now
    return now - max(age, 0.0)


def clock_time(seconds: float) -> str:
    """``3:05``, ``2:46:38``: minutes and seconds, after hours where there are any."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
