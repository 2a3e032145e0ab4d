"""How long collectives take over the links of a torus, or between slices: bytes over rates, by the usual rings."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from flamingo_jax.planning.program import Operation, size_of
from flamingo_jax.training.chips import Chip

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_HOP = 1e-6  # seconds until the first byte is at a neighbour


@dataclasses.dataclass(frozen=True)
class Links:
    """chip: the devices' kind. places int [devices, 1 + axes]: of each partition of a program its slice, and where in
    the slice's torus it is. sizes: the torus' devices along each axis."""

    chip: Chip
    places: np.ndarray
    sizes: tuple[int, ...]

    def seconds(self, operation: Operation) -> float:
        """Of a collective, or of the start of an asynchronous one, with the links to itself."""
        kind, moved = kind_of(operation), bytes_of(operation)
        if kind == "collective-permute":
            return self._permute(operation, moved)
        return self.ring(kind, moved, groups_of(operation.text, len(self.places))[0])

    def ring(self, kind: str, moved: float, group: Sequence[int]) -> float:
        """Of a collective among the partitions ``group``, of ``moved`` bytes as ``bytes_of`` counts them."""
        if len(group) == 1:
            return 0.0
        places = self.places[list(group)]
        if len(set(places[:, 0])) > 1:
            inside = [place for place in places if place[0] == places[0][0]]
            share = moved / len(inside)  # each device of a slice brings its own part across
            return self._ring(kind, share, len(group) // len(inside), self.chip.network) + (
                self._torus(kind, moved, np.array(inside)) if len(inside) > 1 else 0.0
            )
        return self._torus(kind, moved, places)

    def _torus(self, kind: str, moved: float, places: np.ndarray) -> float:
        """Rings along all axes that the group reaches over, at once."""
        rate, hops = 0.0, 0
        for axis, size in enumerate(self.sizes, 1):
            extent = len(set(places[:, axis]))
            if extent > 1:
                wraps = extent == size and size >= 4
                rate += self.chip.link * (2 if wraps else 1)
                hops += extent // 2 if wraps else extent - 1
        count = len(places)
        if kind == "all-to-all":  # every byte goes a quarter of the way round, on average
            return moved * max(1.0, max(self.sizes) / 4) / rate + hops * _HOP
        return self._ring(kind, moved, count, rate) + hops * _HOP

    @staticmethod
    def _ring(kind: str, moved: float, count: int, rate: float) -> float:
        passes = 2 if kind == "all-reduce" else 1
        return passes * moved * (count - 1) / count / rate

    def way(self, operation: Operation) -> tuple[int, ...]:
        """Which way most pairs of a collective-permute send: permutes of other ways run beside it. () for others."""
        if kind_of(operation) != "collective-permute":
            return ()
        ways = collections.Counter()
        for source, target in _pairs(operation):
            ways[tuple(int(np.sign(step)) for step in self._steps(source, target))] += 1
        return max(ways, key=ways.get)

    def _steps(self, source: int, target: int) -> list[int]:
        """From one device to another, the shorter way round each axis."""
        steps = []
        for a, b, size in zip(self.places[source][1:], self.places[target][1:], self.sizes, strict=True):
            step = int(b - a)
            steps.append(step - int(np.sign(step)) * size if size >= 4 and 2 * abs(step) > size else step)
        return steps

    def _permute(self, operation: Operation, moved: float) -> float:
        pairs = _pairs(operation)
        if any(self.places[source][0] != self.places[target][0] for source, target in pairs):
            return moved / self.chip.network
        hops = max((sum(map(abs, self._steps(*pair))) for pair in pairs), default=0)
        return hops * (moved / self.chip.link + _HOP)


def kind_of(operation: Operation) -> str:
    """Which collective an operation is or starts, "" for none."""
    name = operation.kind.removesuffix("-start")
    return name if name in COLLECTIVES else ""


def bytes_of(operation: Operation) -> int:
    """What each device has in the end, or what it gives: the larger of operand and result."""
    shape = operation.shape
    if operation.kind.endswith("-start") and shape.startswith("("):  # (operand, result, ..): the larger of them
        parts = re.findall(r"[a-z]+\d*\[[\d,]*\]", shape)
        return max(size_of(part) for part in parts)
    size = operation.bytes
    if kind_of(operation) == "reduce-scatter":
        size *= len(groups_of(operation.text, 0)[0])
    return size


def _pairs(operation: Operation) -> list[tuple[int, int]]:
    pairs = re.search(r"source_target_pairs=\{(.*?\})\}", operation.text)
    return [(int(a), int(b)) for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[1] if pairs else "")]


def groups_of(text: str, devices: int) -> list[Sequence[int]]:
    """The groups of devices of a collective: ``{{0,1},{2,3}}``, or ``[2,2]<=[4]``, or that with a transposition, or
    ``mesh['a'=2,'b'=2] {'a'}``, the devices in that shape, one group along the axes named, in their order; between
    these ``, device_ids=([2,2]T(1,0))`` may say in which order the devices come. ``{}`` are all of them.

    Raises ValueError for any other text.
    """
    if found := re.search(r"replica_groups=\{\{(.*?)\}\}", text):
        return [[int(n) for n in group.split(",")] for group in found[1].split("},{")]
    if found := re.search(rf"replica_groups=\[([\d,]+)\]<={_IOTA}", text):
        return _iota(found[2], found[3]).reshape(_numbers(found[1])).tolist()
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^{]*)\))?(?: \{([^}]*)\})?", text):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        numbers = np.arange(math.prod(sizes.values()))
        if found[2]:
            order = re.fullmatch(_IOTA, found[2])
            numbers = _iota(order[1], order[2]) if order else np.array(_numbers(found[2]))
        along = re.findall(r"'(\w+)'", found[3] or "")
        names = list(sizes)
        turn = [names.index(name) for name in [n for n in names if n not in along] + along]
        grid = numbers.reshape(list(sizes.values())).transpose(turn)
        return grid.reshape(-1, math.prod(sizes[name] for name in along)).tolist()
    if "replica_groups={}" in text:
        return [list(range(devices))]
    raise ValueError(f"No groups of devices are known in {text[:300]!r}.")


_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"


def _iota(shape: str, turn: str | None) -> np.ndarray:
    """0, 1, 2, .. in that shape, or with its axes in another order."""
    numbers = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return numbers.transpose(_numbers(turn)) if turn else numbers


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]
