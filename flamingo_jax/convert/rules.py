"""Rules as data: which public tensor becomes which of our weights, and how. They are read in both directions."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Rule:
    """source: a public name; {i} counts layers (first, first + step, ..), {h} heads. target: our path, where layers are
    stacked in front.

    op: how the file has it, a key of ``OPS``. cut: (axis, start, stop) of the source, for what is stored together.
    part: of "interleaved". falling: divided by the layer's number, the first is 1.
    """

    source: str
    target: str
    op: str = "copy"
    cut: tuple[int, int, int] | None = None
    part: int = 0
    first: int = 0
    step: int = 1
    falling: bool = False

    def matrix(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(inputs, outputs) of a kernel of this shape: one axis of inputs, but of an attention's "out" all but one."""
        split = len(shape) - 1 if self.target.split("/")[-2:-1] == ["out"] else 1
        return math.prod(shape[:split]), math.prod(shape[split:])


def bits(w: np.ndarray) -> np.ndarray:
    """The same numbers as whole ones: numpy copies types that it does not know, like bfloat16, one by one."""
    return w.view(f"u{w.dtype.itemsize}")


def _read_interleaved(w, shape: tuple[int, ...], rule: Rule):
    heads, size = shape[-2:]
    w = w.reshape(heads, 3, size, *w.shape[1:])[:, rule.part]
    return (w.transpose(2, 0, 1) if w.ndim == 3 else w).reshape(shape)


def _write_conv(w, rule: Rule):
    if w.ndim == 2:  # square patches of RGB
        side = math.isqrt(w.shape[0] // 3)
        w = w.reshape(side, side, 3, -1)
    return w.transpose(3, 2, 0, 1)


# op -> (tensor of the file, our shape of one layer, rule -> our weight; our weight, rule -> tensor of the file)
OPS: dict[str, tuple[Callable, Callable]] = {
    # the same; a kernel as a matrix (in, out)
    "copy": (
        lambda w, shape, rule: w.reshape(shape),
        lambda w, rule: w.reshape(rule.matrix(w.shape)) if rule.target.endswith("kernel") else w,
    ),
    # a kernel as a matrix (out, in)
    "transpose": (
        lambda w, shape, rule: w.T.reshape(shape),
        lambda w, rule: w.reshape(rule.matrix(w.shape)).T,
    ),
    # OIHW, ours HWIO or (H W I), O
    "conv": (lambda w, shape, rule: w.transpose(2, 3, 1, 0).reshape(shape), _write_conv),
    # a 1x1 convolution, ours a matrix (in, out)
    "pointwise": (
        lambda w, shape, rule: w.reshape(w.shape[:2]).T.reshape(shape),
        lambda w, rule: w.T[:, :, None, None],
    ),
    # in every head queries, keys, values (GPT-NeoX), put together by ``write``
    "interleaved": (_read_interleaved, lambda w, rule: w.transpose(1, 2, 0) if w.ndim == 3 else w),
    # one axis; one more in front; two more in front; three more behind
    "vector": (lambda w, shape, rule: w.reshape(shape), lambda w, rule: w.reshape(-1)),
    "batch": (lambda w, shape, rule: w.reshape(shape), lambda w, rule: w[None]),
    "channels": (lambda w, shape, rule: w.reshape(shape), lambda w, rule: w.reshape(1, 1, -1)),
    "gain": (lambda w, shape, rule: w.reshape(shape), lambda w, rule: w.reshape(-1, 1, 1, 1)),
}


def linear(source: str, target: str, op: str = "transpose") -> list[Rule]:
    """A torch ``Linear``: weight -> kernel, bias -> bias."""
    return [Rule(f"{source}.weight", f"{target}/kernel", op), Rule(f"{source}.bias", f"{target}/bias", "vector")]


def norm(source: str, target: str) -> list[Rule]:
    """A torch norm: weight -> scale, bias -> offset."""
    return [
        Rule(f"{source}.weight", f"{target}/scale", "vector"),
        Rule(f"{source}.bias", f"{target}/offset", "vector"),
    ]


def fused(source: str, targets: Mapping[str, int], op: str = "transpose", axis: int = 0, dot: str = ".") -> list[Rule]:
    """Several projections stored as one, one after another along ``axis``: {target: size}. dot: before "weight"."""
    rules, start = [], 0
    for target, size in targets.items():
        stop = start + size
        rules.append(Rule(f"{source}{dot}weight", f"{target}/kernel", op, (axis, start, stop)))
        rules.append(Rule(f"{source}{dot}bias", f"{target}/bias", "vector", (0, start, stop)))
        start = stop
    return rules


def without(prefix: str) -> Callable[[str], str]:
    """A renaming that takes away what stands before the names, a regular expression."""
    return lambda name: re.sub(f"^({prefix})", "", name)


def prefixed(rules: Iterable[Rule], source: str = "", target: str = "", **more) -> list[Rule]:
    """The rules with something before their names, and other fields (``first``, ``step``)."""
    return [
        dataclasses.replace(rule, source=source + rule.source, target=target + rule.target, **more) for rule in rules
    ]


def chosen(rules: Iterable[Rule], paths: Iterable[str]) -> dict[str, Rule]:
    """{path: rule}, for those of our ``paths`` that have one. Of two rules for one path the later counts, so that a
    family is another one's table and what differs."""
    wanted = set(paths)
    return {rule.target: rule for rule in rules if rule.target in wanted}


def sources(rule: Rule, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """(names of the tensors of a weight of ours, an array over its stacked axes; the shape that each gives)."""
    names, axes = [rule.source], 0
    for counter, first, step in (("{i}", rule.first, rule.step), ("{h}", 0, 1)):
        if counter in rule.source:
            numbers = range(first, first + step * shape[axes], step)
            names = [name.replace(counter, str(number)) for name in names for number in numbers]
            axes += 1
    return np.array(names, object).reshape(shape[:axes]), shape[axes:]


def write(rules: Iterable[Rule], weights: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Our {path: array} under public names, one tensor after another: (name, array). The inverse of reading.

    Raises ValueError listing the paths that no rule names.
    """
    table = chosen(rules, weights)
    if missing := weights.keys() - table.keys():
        raise ValueError(f"These weights have no public name: {', '.join(sorted(missing))}.")
    together: dict[str, list[tuple[Rule, int | tuple]]] = {}  # public name -> what it is made of: (rule, where)
    for path, rule in table.items():
        names, _ = sources(rule, np.shape(weights[path]))
        for where in np.ndindex(names.shape):
            together.setdefault(names[where], []).append((rule, where))
    for name, parts in together.items():
        parts.sort(key=lambda part: (part[0].cut or (0, 0))[1] + part[0].part)
        pieces = []
        for rule, where in parts:
            layer = np.asarray(weights[rule.target][where] if where else weights[rule.target])
            if rule.falling:
                layer = layer * layer.dtype.type(where[0] + 1)
            pieces.append(OPS[rule.op][1](layer, rule))
        rule = parts[0][0]
        if rule.op == "interleaved":
            whole = np.stack(pieces, axis=1).reshape(-1, *pieces[0].shape[2:])
        else:
            whole = np.concatenate(pieces, axis=rule.cut[0]) if rule.cut else pieces[0]
        yield name, np.ascontiguousarray(bits(whole)).view(whole.dtype).reshape(whole.shape)


def needed(rule: Rule, stored: tuple[int, ...]) -> int:
    """How many numbers of a stored tensor the rule takes; -1 when it does not hold them."""
    size = math.prod(stored)
    if rule.op == "interleaved":
        return size // 3 if size % 3 == 0 else -1
    if not rule.cut:
        return size
    axis, start, stop = rule.cut
    if axis >= len(stored) or stop > stored[axis]:
        return -1
    return size // stored[axis] * (stop - start)
