"""Matrices of 8 bits: whole numbers, and for every output the step that they count in."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
    """A ``kernel`` in a tree of weights that a module reads as any other: it asks for ``astype``, layer by layer.

    values: int8, of the kernel's shape. steps: float32, of the same shape with 1 for the inputs that are summed over.
    """

    values: jax.Array
    steps: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> jnp.dtype:
        return self.values.dtype

    @property
    def size(self) -> int:
        return self.values.size

    def astype(self, dtype) -> jax.Array:
        """The numbers as floats."""
        return (self.values.astype(jnp.float32) * self.steps).astype(dtype)


def like(w: jax.ShapeDtypeStruct, inputs: tuple[int, ...]) -> Int8:
    """What ``quantise`` makes of such a weight: shapes, types, places on a mesh. Steps lie where outputs do."""
    summed = {axis % len(w.shape) for axis in inputs}
    spec = (*w.sharding.spec, *(None,) * len(w.shape))[: len(w.shape)]
    place = NamedSharding(w.sharding.mesh, PartitionSpec(*(None if i in summed else at for i, at in enumerate(spec))))
    shape = tuple(1 if i in summed else size for i, size in enumerate(w.shape))
    return Int8(
        jax.ShapeDtypeStruct(w.shape, jnp.int8, sharding=w.sharding),
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place),
    )


def is_int8(leaf) -> bool:
    """Whether it is such a matrix: for ``is_leaf`` of tree functions."""
    return isinstance(leaf, Int8)


# Who owns a kernel -> its axes that are summed over, counted from the end; of others the last but one.
_INPUTS = {"query": (-3,), "key": (-3,), "value": (-3,), "distance": (-3,), "out": (-3, -2)}


def inputs_of(path: Sequence[str], ndim: int) -> tuple[int, ...] | None:
    """The axes that a weight's matrix product sums over; None for what stays as it is: all but the kernels of
    projections, and convolutions."""
    convolves = any(name.startswith(("stem_", "stage_", "expansion")) for name in path)
    if path[-1] != "kernel" or ndim < 2 or convolves:
        return None
    return _INPUTS.get(path[-2], (-2,))


@functools.partial(jax.jit, static_argnums=1)  # whole, it makes no copy of the weight
def quantise(w: jax.Array, inputs: tuple[int, ...]) -> Int8:
    """The nearest numbers of 8 bits; ``inputs``: the axes that share a step. The error is half a step at most."""
    largest = jnp.max(jnp.abs(w), axis=inputs, keepdims=True).astype(jnp.float32)
    steps = jnp.where(largest > 0, largest / 127, 1.0)
    return Int8(jnp.clip(jnp.round(w.astype(jnp.float32) / steps), -127, 127).astype(jnp.int8), steps)
