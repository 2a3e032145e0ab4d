"""Weights that are still in their files: planned from headers, checked as a whole, read when they are asked for."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

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
    by ``np.asarray``, or on devices by ``put``.
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
        out = np.empty(self.shape, dtype or self.dtype)
        for where in np.ndindex(self.tensors.shape):
            out[where] = self.layer(where)
        return out

    def layer(self, where: tuple[int, ...] = (), block: tuple[slice, ...] | None = None) -> np.ndarray:
        """One layer or, of it, the block that a slice per axis cuts out, in the type that it is read as."""
        rest = list(_bounds(block or (slice(None),) * len(self.one), self.one))
        shape, spans = list(self.one), list(_bounds((slice(None),) * 2, (*self._taken(where), 1, 1)[:2]))
        for side, (first, unit) in enumerate(self.sides(where)):
            if first is not None:
                cut = rest[first]
                spans[side] = slice(cut.start * unit, cut.stop * unit)
                shape[first], rest[first] = cut.stop - cut.start, slice(None)
        if self.rule.cut:
            axis, start, _ = self.rule.cut
            spans[axis] = slice(spans[axis].start + start, spans[axis].stop + start)
        checkpoint, name = self.tensors[where]
        tensor = OPS[self.rule.op][0](checkpoint.get(name, *spans), tuple(shape), self.rule)[tuple(rest)]
        if self.rule.falling:
            tensor = tensor / tensor.dtype.type(self.numbers[where] + 1)
        return tensor.astype(self.dtype, copy=False)

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


def plan(
    files: Iterable[tuple[Checkpoint, Callable[[str], str | None]]],
    rules: Iterable[Rule],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    ignore: Iterable[str] = (),
    dtype: str | None = None,
) -> dict[str, Stored]:
    """Finds every weight of ours in files, without reading any.

    Args:
        files: checkpoints, each with a renaming from its names to those of the rules (None for a tensor that repeats
            another one). What a later one has replaces what an earlier one has.
        rules: may name targets that this model does not have; those are left out.
        shapes: {path: shape} of all our weights.
        ignore: regular expressions of names (renamed) that are no weights of ours.
        dtype: the type to read; None for the file's.

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
    out, used = {}, set()
    for path, rule in table.items():
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
            if kind.kind in "iub" or kind.itemsize < 2:
                errors.append(
                    f"{source} holds {kind}; quantised weights are not implemented, only float ones of 16 bits and more"
                )
            types.append(kind)
        if types:
            numbers = np.indices(wanted.shape)[0] if wanted.ndim else np.zeros((), int)
            kind = jnp.dtype(dtype) if dtype else functools.reduce(jnp.promote_types, types)
            out[path] = Stored(tensors, numbers, one, rule, kind)
    ignored = [re.compile(pattern) for pattern in (*BUFFERS, *ignore)]
    errors += [
        f"{name} {checkpoint.shapes[stored]} is used by nothing"
        for name, (checkpoint, stored) in names.items()
        if name not in used and 0 not in checkpoint.shapes[stored] and not any(p.search(name) for p in ignored)
    ]
    if errors:
        where = " and ".join(str(checkpoint.path) for checkpoint, _ in files)
        raise ValueError(f"{where} does not fit the model that its config describes:\n  " + "\n  ".join(errors))
    return out


def put(weight: Stored, sharding: Sharding) -> jax.Array:
    """The weight on devices. Beside the result, one layer at most is in memory; a process reads what its devices need.

    The stacked axes must not be split.
    """
    lead, mesh = weight.tensors.ndim, isinstance(sharding, NamedSharding)
    spec = (*sharding.spec, *(None,) * weight.ndim)[: weight.ndim] if mesh else (None,) * weight.ndim
    if any(spec[:lead]):
        raise ValueError(f"The layers of {weight.rule.target} cannot be split over devices: {sharding.spec}.")

    def place(*axes):
        return NamedSharding(sharding.mesh, PartitionSpec(*axes)) if mesh else sharding

    if not lead:
        return jax.device_put(_cut(weight.one, place(*spec), lambda block: weight.layer((), block)), sharding)
    out = _zeros(weight.shape, weight.dtype, sharding)
    for where in np.ndindex(weight.tensors.shape):
        layer = _cut(weight.one, place(*spec[lead:]), lambda block, where=where: weight.layer(where, block))
        out = _insert(out, layer, where, sharding)
    return jax.device_put(out, sharding)  # equivalent already; now also by name


def _cut(shape: tuple[int, ...], sharding: Sharding, read: Callable) -> jax.Array:
    """An array on devices: the part of it that this process needs is read once, and cut among its devices."""
    indices = sharding.addressable_devices_indices_map(shape)
    blocks = {device: _bounds(index, shape) for device, index in indices.items()}
    axes = list(zip(*blocks.values(), strict=True))
    hull = tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in axes)
    whole = read(hull)

    def cut(block):
        part = whole[tuple(slice(s.start - h.start, s.stop - h.start) for s, h in zip(block, hull, strict=True))]
        return np.ascontiguousarray(bits(part)).view(part.dtype).reshape(part.shape)

    parts = [jax.device_put(cut(block), device) for device, block in blocks.items()]
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The same slices with both ends."""
    return tuple(slice(*s.indices(n)[:2]) for s, n in zip(index, shape, strict=True))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _zeros(shape, dtype, sharding):
    return jax.lax.with_sharding_constraint(jnp.zeros(shape, dtype), sharding)


@functools.partial(jax.jit, static_argnums=3, donate_argnums=0)
def _insert(whole, layer, where, sharding):
    """One layer into its place."""
    start = (*where, *(0,) * layer.ndim)
    whole = jax.lax.dynamic_update_slice(whole, layer[(None,) * len(where)], start)
    return jax.lax.with_sharding_constraint(whole, sharding)
