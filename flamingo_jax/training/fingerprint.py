"""Checksums of arrays, computed where they are: the same on every mesh, and other ones after any flipped bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def of(tree: dict) -> dict[str, jax.Array]:
    """{path: uint32 scalar} of every leaf; to be traced.

    Each element's bits are multiplied by an odd number that its place gives, and all are summed modulo 2**32: a flipped
    bit changes the sum by an odd multiple of a power of two below 2**32, which is never nothing, and what stands in
    another's place shows too. Whole numbers have the same sum in any order.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): _sum(leaf) for path, leaf in leaves}


def _sum(leaf: jax.Array) -> jax.Array:
    size = leaf.dtype.itemsize
    if size > 4:
        raise TypeError(f"Checksums are of elements of at most 32 bits, not of {leaf.dtype}.")
    bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * size}").astype(jnp.uint32)
    place, stride = jnp.zeros(leaf.shape, jnp.uint32), 1
    for axis in reversed(range(leaf.ndim)):
        place += jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= leaf.shape[axis]
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)
