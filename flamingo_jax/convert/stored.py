"""Weights that are still in their files: planned from headers, checked as a whole, read when they are asked for."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping

import jax.numpy as jnp
import numpy as np

from flamingo_jax.convert.reader import Checkpoint
from flamingo_jax.convert.rules import OPS, Rule, bits, chosen, needed, sources

# Tensors that are no weights: buffers that older libraries stored, and what follows from a config.
BUFFERS = (
    r"(^|\.)(rotary_emb\.)?inv_freq$",
    r"\.attention\.(bias|masked_bias)$",
    r"\.attn\.(bias|masked_bias)$",
    r"(^|\.)position_ids$",
    r"(^|\.)num_batches_tracked$",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """One weight of ours: an array over its stacked layers of tensors in files.

    tensors: object array of (checkpoint, name), one per layer. numbers: the layers' numbers. one: the shape of each.
    It has the shape, slices along stacked axes and ``reshape`` of the array that it stands for, and becomes that array
    by ``np.asarray``, or on devices by ``place.put``.
    """

    tensors: np.ndarray
    numbers: np.ndarray
    one: tuple[int, ...]
    rule: Rule
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensors.shape + self.one

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, where: int | slice | tuple) -> Stored | np.ndarray:
        """Some of the stacked layers; read at once where one tensor holds them all, as in files of ours."""
        if not self.tensors.ndim:
            first = where[0] if isinstance(where, tuple) and where else where
            rows = slice(first, first + 1) if isinstance(first, int) else first
            if not isinstance(rows, slice):
                return np.asarray(self)[where]
            read = self.layer((), (rows, *(slice(None),) * (self.ndim - 1)))
            rest = where[1:] if isinstance(where, tuple) else ()
            return read[(0, *rest)] if isinstance(first, int) else read[(slice(None), *rest)]
        tensors = np.empty((), object)
        if isinstance(picked := self.tensors[where], np.ndarray):
            tensors = picked
        else:
            tensors[()] = picked
        return dataclasses.replace(self, tensors=tensors, numbers=np.asarray(self.numbers[where]))

    def reshape(self, *shape: int) -> Stored | np.ndarray:
        """Other stacked axes; what a layer is stays."""
        if not self.tensors.ndim:
            return np.asarray(self).reshape(shape)
        lead = shape[: len(shape) - len(self.one)]
        return dataclasses.replace(self, tensors=self.tensors.reshape(lead), numbers=self.numbers.reshape(lead))

    def astype(self, dtype) -> Stored:
        """The same, to be read as another type."""
        return dataclasses.replace(self, dtype=jnp.dtype(dtype))

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        out = np.empty(self.shape, self.dtype)
        for where in np.ndindex(self.tensors.shape):
            self.fill(out[(*where, ...)], where, bounds((slice(None),) * len(self.one), self.one))
        return out if dtype is None else out.astype(dtype)

    def layer(self, where: tuple[int, ...] = (), block: tuple[slice, ...] | None = None) -> np.ndarray:
        """One layer or, of it, the block that a slice per axis cuts out, in the type that it is read as."""
        block = bounds(block or (slice(None),) * len(self.one), self.one)
        out = np.empty([s.stop - s.start for s in block], self.dtype)
        self.fill(out, where, block)
        return out

    def fill(self, out: np.ndarray, where: tuple[int, ...], block: tuple[slice, ...]) -> None:
        """Reads the block (with both ends of every slice) of a layer into ``out``, an array of its shape."""
        rest, shape = list(block), list(self.one)
        spans = list(bounds((slice(None),) * 2, (*self._taken(where), 1, 1)[:2]))
        for side, (first, unit) in enumerate(self.sides(where)):
            if first is not None:
                cut = rest[first]
                spans[side] = slice(cut.start * unit, cut.stop * unit)
                shape[first], rest[first] = cut.stop - cut.start, slice(0, cut.stop - cut.start)
        if self.rule.cut:
            axis, start, _ = self.rule.cut
            spans[axis] = slice(spans[axis].start + start, spans[axis].stop + start)
        checkpoint, name = self.tensors[where]
        if self.rule.op == "transpose" and tuple(shape) == out.shape and not self.rule.falling:
            _transpose(checkpoint, name, *spans, out)
            return
        tensor = OPS[self.rule.op][0](checkpoint.get(name, *spans), tuple(shape), self.rule)[tuple(rest)]
        if self.rule.falling:
            tensor = tensor / tensor.dtype.type(self.numbers[where] + 1)
        bits(out)[...] = bits(tensor.astype(self.dtype, copy=False))

    def sides(self, where: tuple[int, ...]) -> tuple[tuple[int | None, int], ...]:
        """For rows and columns of a layer's tensor: the axis of ours that they begin with, and how many there are per
        entry of it. Empty where the tensor is no matrix, nor as ours is."""
        stored, one, rule = self._taken(where), self.one, self.rule
        kernel = rule.op == "transpose" or rule.op == "copy" and rule.target.endswith("kernel")
        if len(stored) == 2 and kernel:
            split = next(k for k in range(len(one)) if math.prod(one[:k]) == rule.matrix(one)[0])
            axes = [(0, split), (split, len(one))]  # of ours that are the inputs, and the outputs
            axes = axes[::-1] if rule.op == "transpose" else axes
            return tuple((a, math.prod(one[a + 1 : b])) if a < b else (None, 1) for a, b in axes)
        return tuple((i, 1) for i in range(len(one))[:2]) if stored == one else ()

    def _taken(self, where: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what the rule takes of a layer's tensor."""
        checkpoint, name = self.tensors[where]
        shape = checkpoint.shapes[name]
        if not self.rule.cut:
            return shape
        axis, start, stop = self.rule.cut
        return (*shape[:axis], stop - start, *shape[axis + 1 :])


def _transpose(checkpoint: Checkpoint, name: str, rows: slice, columns: slice, out: np.ndarray) -> None:
    """A block of a matrix into ``out``: in stripes that stay in the cache, several times as fast as all at once."""
    matrix = bits(out).reshape(columns.stop - columns.start, rows.stop - rows.start)
    for start in range(rows.start, rows.stop, 128):
        stop = min(start + 128, rows.stop)
        read = checkpoint.get(name, slice(start, stop), columns).astype(out.dtype, copy=False)
        matrix[:, start - rows.start : stop - rows.start] = bits(read).T


def bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The same slices with both ends."""
    return tuple(slice(*s.indices(n)[:2]) for s, n in zip(index, shape, strict=True))


def plan(
    files: Iterable[tuple[Checkpoint, Callable[[str], str | None]]],
    rules: Iterable[Rule],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    ignore: Iterable[str] = (),
) -> dict[str, Stored]:
    """Finds every weight of ours in files, without reading any.

    Args:
        files: checkpoints, each with a renaming from its names to those of the rules (None for a tensor that repeats
            another one). What a later one has replaces what an earlier one has.
        rules: may name targets that this model does not have; those are left out.
        shapes: {path: shape} of all our weights.
        ignore: regular expressions of names (renamed) that are no weights of ours.

    Returns:
        {path: weight}.

    Raises:
        ValueError: listing all weights that no tensor fills, all tensors that nobody uses, all wrong shapes and all
            quantised weights.
    """
    files = list(files)
    names = {rename(name): (checkpoint, name) for checkpoint, rename in files for name in checkpoint.shapes}
    names.pop(None, None)
    table = chosen(rules, shapes)
    errors = [f"no rule for our {path} {shape}" for path, shape in shapes.items() if path not in table]
    out, used, count = {}, set(), len(names)
    for path, rule in table.items():
        if "{i}" in rule.source and shapes[path][0] > count:
            errors.append(f"the config has {shapes[path][0]} layers, more than there are tensors ({count})")
            break
        wanted, one = sources(rule, shapes[path])
        used.update(wanted.flat)
        tensors, types = np.empty(wanted.shape, object), []
        for where in np.ndindex(wanted.shape):
            source = wanted[where]
            if source not in names:
                errors.append(f"{source} is missing, for our {path}")
                continue
            checkpoint, name = tensors[where] = names[source]
            shape, kind = checkpoint.shapes[name], checkpoint.types[name]
            if needed(rule, shape) != math.prod(one):
                errors.append(
                    f"{source} {shape} does not fit our {path} {one} ({needed(rule, shape)} and {math.prod(one)} "
                    "numbers)"
                )
            if not jnp.issubdtype(kind, jnp.floating) or kind.itemsize < 2:
                errors.append(
                    f"{source} holds {kind}; quantised weights are not implemented, only float ones of 16 bits and more"
                )
            types.append(kind)
        if types:
            numbers = np.indices(wanted.shape)[0] if wanted.ndim else np.zeros((), int)
            kind = functools.reduce(jnp.promote_types, types)
            out[path] = Stored(tensors, numbers, one, rule, kind)
    ignored = [re.compile(pattern) for pattern in (*BUFFERS, *ignore)]
    errors += [
        f"{name} {checkpoint.shapes[stored]} is used by nothing"
        for name, (checkpoint, stored) in names.items()
        if name not in used and 0 not in checkpoint.shapes[stored] and not any(p.search(name) for p in ignored)
    ]
    if errors:
        errors = [*errors[:100], f"and {len(errors) - 100} more"] if len(errors) > 100 else errors
        where = " and ".join(str(checkpoint.path) for checkpoint, _ in files)
        raise ValueError(f"{where} does not fit the model that its config describes:\n  " + "\n  ".join(errors))
    return out
