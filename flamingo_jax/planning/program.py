"""A compiled program's text, as XLA prints it, read into computations and operations."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

# Bits of an element, by XLA's names of types; of what is none of these, nothing is stored.
_BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64,
    "f8e4m3fn": 8, "f8e5m2": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128,
}  # fmt: skip
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\dm\d(?:fn)?)?)\[([\d,<=]*)\]")
_CALLS = re.compile(r"\b(calls|body|condition|to_apply|true_computation|false_computation)=%([\w.-]+)")
_NOTES = re.compile(r"kernel_metadata=\{\n.*\n\}")  # of hand-written kernels, lines of their own within an operation's
_CALLED = re.compile(r"called_computations=\{%([\w.-]+)\}")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One line of a computation.

    kind: XLA's opcode. shape: its result's type as XLA writes it. operands: names, in order. calls: {attribute: name of
    the computation that it calls}. name, text: as they are in the program.
    """

    name: str
    kind: str
    shape: str
    operands: tuple[str, ...]
    calls: dict[str, str]
    text: str

    @property
    def bytes(self) -> int:
        """Of its result; of a tuple all parts."""
        return size_of(self.shape)

    @property
    def channel(self) -> str:
        """Of a collective: what its start and its end have in common."""
        found = re.search(r"channel_id=(\d+)", self.text)
        return found[1] if found else self.name

    @property
    def cycles(self) -> int:
        """The compiler's estimate of its duration, 0 where it made none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.text)
        return int(found[1]) if found else 0


@dataclasses.dataclass(frozen=True)
class Program:
    """{name: operations in the order in which they are run} of all computations, and which of them is the entry."""

    computations: dict[str, tuple[Operation, ...]]
    entry: str

    def trips(self, loop: Operation) -> int:
        """How often the body of a ``while`` runs, which counts from 0 by equal steps up to a constant.

        Raises ValueError for any other loop.
        """
        condition = {op.name: op for op in self.computations[loop.calls["condition"]]}
        compare = next((op for op in condition.values() if op.kind == "compare" and "direction=LT" in op.text), None)
        if compare is not None:
            counter, end = (condition[name] for name in compare.operands)
            if counter.kind == "get-tuple-element" and end.kind == "constant":
                step = self._step(loop.calls["body"], _index(counter))
                if step > 0:
                    return -(-_constant(end) // step)
        raise ValueError(f"It cannot be told how often the loop {loop.name} runs: it does not count up to a constant.")

    def fused(self, operation: Operation, stage: str) -> list[Operation]:
        """Collectives that run beside products, whose "Start" or "Done" the operation has: within a fusion, with all
        else that that does, or on the SparseCores, which are called, given the operands, and waited for."""
        if _call(operation) in {"Start": ("call-start", "call-update"), "Done": ("call-done",)}[stage]:
            return self._offloaded(operation) if operation.operands else []  # they may be given after the call
        parts = self.computations.get(operation.calls.get("calls", ""), ())
        if not any(f'custom_call_target="AsyncCollective{stage}"' in part.text for part in parts):
            return []
        return [part for part in parts if _is_sent(part)]

    def _offloaded(self, operation: Operation) -> list[Operation]:
        """The collectives of the call that a call-update or call-done belongs to."""
        while _call(operation) != "call-start":
            operation = self._lines[operation.operands[0]]
        return [part for part in self.computations.get(operation.calls.get("to_apply", ""), ()) if _is_sent(part)]

    @functools.cached_property
    def _lines(self) -> dict[str, Operation]:
        return {line.name: line for lines in self.computations.values() for line in lines}

    def _step(self, body: str, index: int) -> int:
        """By how much a loop's body increases part ``index`` of what it carries; 0 where that cannot be told."""
        lines = {op.name: op for op in self.computations[body]}
        last = self.computations[body][-1]
        total, at = 0, lines[last.operands[index]]
        while at.kind in ("add", "copy"):
            parts = [lines[name] for name in at.operands]
            total += sum(_constant(part) for part in parts if part.kind == "constant")
            rest = [part for part in parts if part.kind != "constant"]
            if len(rest) != 1:
                return 0
            at = rest[0]
        return total if at.kind == "get-tuple-element" and _index(at) == index else 0


def read(text: str) -> Program:
    """Reads what ``compiled.as_text()`` returns. Raises ValueError for what is no such text."""
    computations: dict[str, tuple[Operation, ...]] = {}
    entry, name, lines = "", "", []
    for line in _NOTES.sub("", text).splitlines():
        if name:
            if line.startswith("}"):
                computations[name], name, lines = tuple(lines), "", []
            elif found := _operation(line):
                lines.append(found)
        elif head := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = head[2]
            entry = name if head[1] else entry
    if not entry:
        raise ValueError("This is no text of a compiled program: it has no ENTRY.")
    return Program(computations, entry)


def _call(operation: Operation) -> str:
    """What it has to do with a call; libtpu 0.0.52 writes ``custom-call-start`` where others write ``call-start``."""
    return operation.kind.removeprefix("custom-")


def _is_sent(operation: Operation) -> bool:
    return "channel_id=" in operation.text


def _index(element: Operation) -> int:
    return int(re.search(r"index=(\d+)", element.text)[1])


def _constant(operation: Operation) -> int:
    found = re.search(r" constant\((-?\d+)\)", operation.text)
    return int(found[1]) if found else 0


def size_of(shape: str) -> int:
    """Bytes of a type such as ``bf16[8,128]{1,0:T(8,128)(2,1)}``, or of a tuple of such, without padding."""
    bits = 0
    for kind, sizes in _ARRAY.findall(shape):
        bits += _BITS.get(kind, 0) * math.prod(int(size.lstrip("<=")) for size in sizes.split(",") if size)
    return bits // 8


def _operation(line: str) -> Operation | None:
    head = re.match(r"\s+(?:ROOT )?%([\w.-]+) = ", line)
    if not head:
        return None
    shape, rest = _split(line[head.end() :])
    kind, _, rest = rest.strip().partition("(")
    operands, tail = _closing(rest)
    calls = dict(_CALLS.findall(tail))
    if kind == "custom-call-start" and (called := _CALLED.search(tail)):
        calls["to_apply"] = called[1]
    if branches := _BRANCHES.search(tail):
        calls |= {f"branch {i}": branch.strip().lstrip("%") for i, branch in enumerate(branches[1].split(","))}
    return Operation(head[1], kind, shape, tuple(re.findall(r"%([\w.-]+)", operands)), calls, line.strip())


def _split(text: str) -> tuple[str, str]:
    """(type, what follows it). A tuple's type is in brackets, and layouts hold brackets of their own."""
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, rest
    inside, rest = _closing(text[1:])
    return f"({inside})", rest


def _closing(text: str) -> tuple[str, str]:
    """What stands before the bracket that closes one that is open at the beginning, and what stands after it."""
    depth = 1
    for place, character in _brackets(text):
        depth += 1 if character == "(" else -1
        if not depth:
            return text[:place], text[place + 1 :]
    raise ValueError(f"A bracket is not closed in {text[:200]!r}.")


def _brackets(text: str) -> Iterator[tuple[int, str]]:
    for found in re.finditer(r"[()]", text):
        yield found.start(), found[0]
