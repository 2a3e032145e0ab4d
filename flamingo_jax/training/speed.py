"""How fast a stage is: time per update, what is worked through in it, how much of it the devices' best rate needs; and
what memory it takes."""

from __future__ import annotations

import pathlib
import resource
import time
from collections.abc import Callable, Iterable, Mapping

import jax
from jax.sharding import Mesh

from flamingo_jax.training import chips


class Speed:
    """Measures from one look to the next. What comes before update ``first`` (compilation) is in no measure."""

    def __init__(
        self,
        mesh: Mesh,
        work: Mapping[str, float],
        flops: float,
        first: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Args:

        mesh: the devices.
        work: {"tokens", "images"} an update.
        flops: floating-point operations that an update needs, on all devices together; 0: not known.
        first: the number of the first update that is measured, from 1.
        """
        self._work = {name: count for name, count in work.items() if count}
        self._flops, self._first, self._clock = flops, first, clock
        self._devices = mesh.devices.size
        self._peak = chips.peak(mesh.devices.flat[0].device_kind)
        self._lost = 0.0
        self._mark: tuple[float, int, float] | None = None  # when, after which update, what had been lost by then

    @property
    def seconds_at_peak(self) -> float:
        """That an update would take at the devices' best rate; 0: not known."""
        return self._flops / (self._devices * self._peak) if self._peak else 0.0

    def waited(self, seconds: float) -> None:
        """Tells that the devices stood still for so long because data were not ready."""
        self._lost += seconds

    def done(self, update: int) -> None:
        """Tells that an update's results are here."""
        if self._mark is None and update >= self._first - 1:
            self._mark = (self._clock(), update, self._lost)

    def look(self, update: int) -> dict[str, float]:
        """Of the updates since the last look, up to ``update``, which is done; {} where none was measured.

        seconds_per_step; tokens_per_second (positions of text, filled or not) and images_per_second (frames), of all
        devices; data_wait, the share of the time that the devices stood still for data; and, where operations are
        known, tflops_per_device, 1e12 a second, and, where the devices' best rate is known, mfu, the share of it.
        """
        now = self._clock()
        if self._mark is None or update <= self._mark[1] or now <= self._mark[0]:
            return {}
        then, before, lost = self._mark
        self._mark = (now, update, self._lost)
        seconds = (now - then) / (update - before)
        found = {"seconds_per_step": seconds}
        found |= {f"{name}_per_second": count / seconds for name, count in self._work.items()}
        found["data_wait"] = (self._lost - lost) / (now - then)
        if self._flops:
            found["tflops_per_device"] = self._flops / self._devices / seconds / 1e12
        if self.seconds_at_peak:
            found["mfu"] = self.seconds_at_peak / seconds
        return found


def memory(devices: Iterable[jax.Device] | None = None) -> dict[str, float]:
    """In GiB, of the fullest of these devices (this process's if none are given): ``memory``, in use; ``memory_peak``,
    the most that ever was, where they tell (CPUs do not); and ``memory_host``, of this process."""
    stats = [stats for device in devices or jax.local_devices() if (stats := device.memory_stats())]
    names = {"memory": "bytes_in_use", "memory_peak": "peak_bytes_in_use"}
    found = {name: max(stat[key] for stat in stats) for name, key in names.items()} if stats else {}
    return {name: value / 2**30 for name, value in {**found, "memory_host": _resident()}.items()}


def _resident() -> int:
    """Bytes of this process that are in memory; where the system does not tell, the most that ever were."""
    try:
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
