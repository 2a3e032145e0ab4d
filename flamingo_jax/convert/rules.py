"""Rules as data: which public tensor becomes which of our weights, and how."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from flamingo_jax.convert.reader import Checkpoint

# Tensors that are no weights: buffers that older libraries stored, and what follows from a config.
BUFFERS = (
    r"(^|\.)(rotary_emb\.)?inv_freq$",
    r"\.attention\.(bias|masked_bias)$",
    r"\.attn\.(bias|masked_bias)$",
    r"(^|\.)position_ids$",
    r"(^|\.)num_batches_tracked$",
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """source: a public name; {i} counts layers (first, first + step, ..), {h} heads. target: our path, where layers are
    stacked in front.

    op: copy | transpose (out, in -> in, out) | conv (OIHW -> HWIO, or (H W I), O) | interleaved (the
    part-th of 3 in every head, GPT-NeoX). cut: (axis, start, stop) of the source, for what is stored together.
    falling: divided by the layer's number, the first is 1.
    """

    source: str
    target: str
    op: str = "copy"
    cut: tuple[int, int, int] | None = None
    part: int = 0
    first: int = 0
    step: int = 1
    falling: bool = False


def _interleaved(w: np.ndarray, shape: tuple[int, ...], part: int) -> np.ndarray:
    heads, size = shape[-2:]
    w = w.reshape(heads, 3, size, *w.shape[1:])[:, part]
    return (np.moveaxis(w, -1, 0) if w.ndim == 3 else w).reshape(shape)


# op -> (tensor, our shape of one layer, part) -> array
OPS = {
    "copy": lambda w, shape, part: w.reshape(shape),
    "transpose": lambda w, shape, part: w.T.reshape(shape),
    "conv": lambda w, shape, part: w.transpose(2, 3, 1, 0).reshape(shape),
    "interleaved": _interleaved,
}


def linear(source: str, target: str, op: str = "transpose") -> list[Rule]:
    """A torch ``Linear``: weight -> kernel, bias -> bias."""
    return [Rule(f"{source}.weight", f"{target}/kernel", op), Rule(f"{source}.bias", f"{target}/bias")]


def norm(source: str, target: str) -> list[Rule]:
    """A torch norm: weight -> scale, bias -> offset."""
    return [Rule(f"{source}.weight", f"{target}/scale"), Rule(f"{source}.bias", f"{target}/offset")]


def fused(source: str, targets: Mapping[str, int], op: str = "transpose", axis: int = 0, dot: str = ".") -> list[Rule]:
    """Several projections stored as one, one after another along ``axis``: {target: size}. dot: before "weight"."""
    rules, start = [], 0
    for target, size in targets.items():
        stop = start + size
        rules.append(Rule(f"{source}{dot}weight", f"{target}/kernel", op, (axis, start, stop)))
        rules.append(Rule(f"{source}{dot}bias", f"{target}/bias", "copy", (0, start, stop)))
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


def convert(
    checkpoint: Checkpoint,
    rules: Iterable[Rule],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    rename: Callable[[str], str | None] = str,
    ignore: Iterable[str] = (),
    dtype: str | None = None,
) -> dict[str, np.ndarray]:
    """Reads every weight of ours from ``checkpoint``.

    Args:
        rules: may name targets that this model does not have; those are left out. Of two rules for one target the
            later counts, so a family is another one's table and what differs.
        shapes: {path: shape} of all our weights.
        rename: from the file's names to those of the rules; None for a tensor that repeats another one.
        ignore: regular expressions of names (renamed) that are no weights of ours.
        dtype: the type to store; None keeps the file's.

    Returns:
        {path: array}.

    Raises:
        ValueError: listing all weights that no tensor fills, all tensors that nobody uses, and all wrong shapes; and
            for quantised weights.
    """
    names = {rename(name): name for name in checkpoint.shapes}
    names.pop(None, None)
    rules = {rule.target: rule for rule in rules if rule.target in shapes}
    errors = [f"no rule for our {path} {shape}" for path, shape in shapes.items() if path not in rules]
    plan, used = {}, set()
    for path, rule in rules.items():
        shape, sources = shapes[path], [rule.source]
        for counter, first, step in (("{i}", rule.first, rule.step), ("{h}", 0, 1)):
            if counter in rule.source:
                numbers = range(first, first + step * shape[0], step)
                sources = [s.replace(counter, str(number)) for s in sources for number in numbers]
                shape = shape[1:]
        used.update(sources)
        for source in sources:
            if source not in names:
                errors.append(f"{source} is missing, for our {path}")
                continue
            size = _size(checkpoint.shapes[names[source]], rule)
            if size != int(np.prod(shape)):
                stored = checkpoint.shapes[names[source]]
                errors.append(
                    f"{source} {stored} does not fit our {path} {shape} ({size} and {np.prod(shape)} numbers)"
                )
        plan[path] = (sources, shape, rule)
    ignored = [re.compile(pattern) for pattern in (*BUFFERS, *ignore)]
    errors += [
        f"{name} {checkpoint.shapes[stored]} is used by nothing"
        for name, stored in names.items()
        if name not in used and 0 not in checkpoint.shapes[stored] and not any(p.search(name) for p in ignored)
    ]
    if errors:
        raise ValueError(
            f"{checkpoint.path} does not fit the model that its config describes:\n  " + "\n  ".join(errors)
        )

    def read(source, shape, rule, layer):
        tensor = checkpoint.get(names[source])
        if tensor.dtype.kind in "iub" or tensor.dtype.itemsize < 2:
            raise ValueError(
                f"{checkpoint.path}: {source} holds {tensor.dtype}; quantised weights are not implemented, only float "
                "ones of 16 bits and more."
            )
        if rule.cut:
            axis, start, stop = rule.cut
            tensor = tensor[(slice(None),) * axis + (slice(start, stop),)]
        tensor = OPS[rule.op](tensor, shape, rule.part)
        if rule.falling:
            tensor = tensor / tensor.dtype.type(layer + 1)
        return tensor.astype(dtype) if dtype else tensor

    out = {}
    for path, (sources, shape, rule) in plan.items():
        parts = [read(source, shape, rule, layer) for layer, source in enumerate(sources)]
        out[path] = (
            np.stack(parts).reshape(shapes[path]) if sources != [rule.source] else np.asarray(parts[0], order="C")
        )
    return out


def _size(stored: tuple[int, ...], rule: Rule) -> int:
    """How many numbers of a stored tensor the rule takes; -1 when it does not hold them."""
    size = int(np.prod(stored))
    if rule.op == "interleaved":
        return size // 3 if size % 3 == 0 else -1
    if not rule.cut:
        return size
    axis, start, stop = rule.cut
    if axis >= len(stored) or stop > stored[axis]:
        return -1
    return size // stored[axis] * (stop - start)
