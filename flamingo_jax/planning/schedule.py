"""How long a compiled program takes, by the compiler's own schedule: an estimate, and no measurement.

Operations run one after another. Collectives and copies that are started early run beside them, so only what is left of
them where they are waited for counts. Loops count as often as they run.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping

from flamingo_jax.planning.links import Links, kind_of
from flamingo_jax.planning.program import Operation, Program

_MATRIX = ("convolution", "dot")
# Kernels of splash attention, which the compiler says nothing of, and their products of queries, keys and head size.
_PRODUCTS = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}
_ROWS = re.compile(r"\[(\d+),(\d+),(\d+),(\d+)\]")  # queries [B, H, L, K]
_MEMORY_SHARE = 0.9  # of the memory's bandwidth that a large copy gets


@dataclasses.dataclass(frozen=True)
class Estimate:
    """seconds: of the whole program. busy: {kind of work: seconds}, in which what overlaps counts each time; matrix,
    memory, and the collectives by their names. waited: {collective: seconds in which nothing else was done}."""

    seconds: float
    busy: Mapping[str, float]
    waited: Mapping[str, float]


def estimate(program: Program, links: Links) -> Estimate:
    """Adds up a program's schedule on the devices of ``links``."""
    return _Clock(program, links).run(program.entry)


class _Clock:
    def __init__(self, program: Program, links: Links):
        self._program, self._links, self._known = program, links, {}
        self._matrix = {
            name
            for name, operations in program.computations.items()
            if any(operation.kind in _MATRIX for operation in operations)
        }

    def run(self, name: str) -> Estimate:
        """Of one computation, once."""
        if name not in self._known:
            self._known[name] = self._run(name)
        return self._known[name]

    def _run(self, name: str) -> Estimate:
        now, memory_free = 0.0, 0.0
        links_free: dict[tuple[int, ...], float] = {}  # a way over them -> when it is free; () takes all
        busy, waited = collections.Counter(), collections.Counter()
        pending: dict[str, tuple[str, float]] = {}
        lines = {operation.name: operation for operation in self._program.computations[name]}
        for operation in lines.values():
            kind = operation.kind
            for one in self._program.fused(operation, "Start"):
                seconds = self._links.seconds(one)
                busy[kind_of(one)] += seconds
                pending[one.channel] = kind_of(one), self._send(one, seconds, now, links_free)
            if collective := kind_of(operation):
                seconds = self._links.seconds(operation)
                busy[collective] += seconds
                end = self._send(operation, seconds, now, links_free)
                pending[operation.name] = collective, end
                if not kind.endswith("-start"):
                    waited[collective] += end - now
                    now = end
            elif kind in ("copy-start", "slice-start"):
                seconds = 2 * max(lines[o].bytes for o in operation.operands) / self._links.chip.bandwidth
                busy["memory"] += seconds
                memory_free = max(now, memory_free) + seconds
                pending[operation.name] = "memory", memory_free
            elif kind.endswith("-done") and operation.operands and operation.operands[0] in pending:
                what, end = pending[operation.operands[0]]
                waited[what] += max(0.0, end - now)
                now = max(now, end)
            else:
                part, times = self._part(operation, lines)
                now += part.seconds * times
                for key, seconds in part.busy.items():
                    busy[key] += seconds * times
                for key, seconds in part.waited.items():
                    waited[key] += seconds * times
            for one in self._program.fused(operation, "Done"):
                what, end = pending[one.channel]
                waited[what] += max(0.0, end - now)
                now = max(now, end)
        return Estimate(now, dict(busy), dict(waited))

    def _send(self, operation: Operation, seconds: float, now: float, links_free: dict) -> float:
        """When it ends, if it starts as soon as the links that it takes are free."""
        way = self._links.way(operation)
        taken = links_free.values() if way == () else (links_free.get(way, 0.0), links_free.get((), 0.0))
        links_free[way] = max(now, *taken, 0.0) + seconds
        return links_free[way]

    def _part(self, operation: Operation, lines: Mapping[str, Operation]) -> tuple[Estimate, int]:
        """(once, how often): of an operation that nothing else runs beside."""
        if operation.kind == "while":
            return self.run(operation.calls["body"]), self._program.trips(operation)
        if operation.kind == "conditional":
            branches = [self.run(name) for key, name in operation.calls.items() if "branch" in key or "comp" in key]
            return max(branches, key=lambda branch: branch.seconds), 1
        if operation.kind == "call":
            return self.run(operation.calls["to_apply"]), 1
        if kernel := next((name for name in _PRODUCTS if operation.name.startswith(name)), None):
            seconds = self._kernel(_PRODUCTS[kernel], operation, lines)
            return Estimate(seconds, {"matrix": seconds}, {}), 1
        if not operation.cycles:  # it only names what is there
            return Estimate(0.0, {}, {}), 1
        seconds = float(operation.cycles / self._links.chip.clock)
        if operation.kind in _MATRIX or operation.calls.get("calls") in self._matrix:
            return Estimate(seconds, {"matrix": seconds}, {}), 1
        # The compiler takes what moves through memory to be two to four times as slow as memory is.
        moved = operation.bytes + sum(lines[name].bytes for name in operation.operands)
        seconds = min(seconds, max(moved / _MEMORY_SHARE / self._links.chip.bandwidth, seconds / 4))
        return Estimate(seconds, {"memory": seconds}, {}), 1

    def _kernel(self, products: int, operation: Operation, lines: Mapping[str, Operation]) -> float:
        """Seconds of causal attention's products over half of all pairs, at half the matrix units' peak; or of what it
        reads and writes, where that takes longer."""
        shapes = [found for name in operation.operands if (found := _ROWS.search(lines[name].shape))]
        rows, heads, length, size = map(int, shapes[0].groups())
        moved = operation.bytes + sum(lines[name].bytes for name in operation.operands)
        work = products * 2 * rows * heads * length**2 * size
        return max(work / self._links.chip.flops, moved / _MEMORY_SHARE / self._links.chip.bandwidth)
