"""Checksums of arrays, computed where they are: other ones after any flipped bit, the same on every mesh, and known by
device, so that copies of the same numbers can be compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec


def make(places: dict) -> Callable[[dict], jax.Array]:
    """A function to be traced: a tree of arrays, placed as the ``NamedSharding``s of ``places`` -> uint32 [leaves,
    devices], every device's sum over its own part of every leaf.

    Each element's bits are multiplied by an odd number that its place in the whole array gives, and all are summed
    modulo 2**32: a flipped bit changes the sum by an odd multiple of a power of two below 2**32, which is never
    nothing, and what stands in another's place shows too. Whole numbers have the same sum in any order.
    """
    mesh, specs = _mesh(places), [place.spec for place in jax.tree.leaves(places)]

    def parts(tree):
        return jnp.stack([_sum(leaf, spec, mesh) for leaf, spec in zip(jax.tree.leaves(tree), specs, strict=True)])

    return jax.shard_map(
        lambda tree: parts(tree)[:, None],
        mesh=mesh,
        in_specs=(jax.tree.map(lambda place: place.spec, places),),
        out_specs=PartitionSpec(None, mesh.axis_names),
        check_vma=False,  # copies are what is to be compared, and are not taken to be the same
    )


def read(parts: np.ndarray, places: dict) -> tuple[dict[str, int], list[str]]:
    """What ``make``'s function gives -> ({path: checksum of the whole leaf}, what is said of leaves whose copies on
    several devices differ; of none where nothing is wrong)."""
    mesh, sums, wrong = _mesh(places), {}, []
    for part, (path, place) in zip(parts, jax.tree_util.tree_flatten_with_path(places)[0], strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        copies = tuple(axis for axis in range(mesh.devices.ndim) if mesh.axis_names[axis] not in _names(place.spec))
        grid = part.reshape(mesh.devices.shape)
        first = grid[tuple(slice(0, 1) if axis in copies else slice(None) for axis in range(grid.ndim))]
        if (bad := (grid != first).any(axis=copies, keepdims=True)).any():
            at = np.argwhere(np.broadcast_to(bad, grid.shape))
            wrong.append(f"{name}: {_say(mesh.devices[tuple(at.T)], grid[tuple(at.T)])}")
        sums[name] = int(first.astype(np.uint64).sum() % 2**32)
    return sums, wrong


def of(leaf: np.ndarray) -> int:
    """The checksum of a whole array in the host's memory, as ``read`` gives it."""
    bits = leaf.reshape(-1).view(f"uint{8 * leaf.dtype.itemsize}")
    places = 2 * np.arange(leaf.size, dtype=np.uint32) + np.uint32(1)
    return int((bits * places).sum(dtype=np.uint32))


def _say(devices: np.ndarray, values: np.ndarray) -> str:
    """Which devices have which of several sums; those with the most common one are only counted."""
    found, counts = np.unique(values, return_counts=True)
    most = found[counts.argmax()] if counts.max() > 1 else None
    said = [
        f"device {device.id} (process {device.process_index}) has {value:08x}"
        for device, value in zip(devices, values, strict=True)
        if value != most
    ]
    return ", ".join(said + ([f"{counts.max()} others {most:08x}"] if most is not None else []))


def _sum(leaf: jax.Array, spec: PartitionSpec, mesh: Mesh) -> jax.Array:
    """Of this device's part of a leaf."""
    size = leaf.dtype.itemsize
    if size > 4:
        raise TypeError(f"Checksums are of elements of at most 32 bits, not of {leaf.dtype}.")
    bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * size}").astype(jnp.uint32)
    place, stride = jnp.zeros(leaf.shape, jnp.uint32), 1
    for axis in reversed(range(leaf.ndim)):
        split = _names(spec[axis : axis + 1])
        begin = jax.lax.axis_index(split) * leaf.shape[axis] if split else 0
        along = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) + jnp.uint32(begin)
        place += along * jnp.uint32(stride % 2**32)
        stride *= leaf.shape[axis] * math.prod(mesh.shape[name] for name in split)
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)


def _names(spec: Sequence[str | tuple[str, ...] | None]) -> tuple[str, ...]:
    """The mesh axes that a part of a PartitionSpec names."""
    return tuple(name for axes in spec if axes is not None for name in ((axes,) if isinstance(axes, str) else axes))


def _mesh(places: dict) -> Mesh:
    return jax.tree.leaves(places)[0].mesh
