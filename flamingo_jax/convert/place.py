"""Weights in files -> arrays on devices."""

from __future__ import annotations

import concurrent.futures
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from flamingo_jax.convert.rules import bits
from flamingo_jax.convert.stored import Stored, bounds


def put(weight: Stored, sharding: Sharding) -> jax.Array:
    """The weight on devices. Beside the result, one layer at most is in memory; a process reads what its devices need.

    The stacked axes must not be split.
    """
    lead, named = weight.tensors.ndim, isinstance(sharding, NamedSharding)
    spec = (*sharding.spec, *(None,) * weight.ndim)[: weight.ndim] if named else (None,) * weight.ndim
    if any(spec[:lead]):
        raise ValueError(f"The layers of {weight.rule.target} cannot be split over devices: {sharding.spec}.")
    if all(device.platform == "cpu" for device in sharding.addressable_devices):
        return _fill(weight, sharding)
    return _stream(weight, sharding, NamedSharding(sharding.mesh, PartitionSpec(*spec[lead:])) if named else sharding)


def _stream(weight: Stored, sharding: Sharding, one: Sharding) -> jax.Array:
    """Of accelerators: one layer after another goes to its place in what is there already; ``one`` is a layer's."""
    if not weight.tensors.ndim:
        return _put_layer(weight, (), one)
    out = _zeros(weight.shape, weight.dtype, sharding)
    for where in np.ndindex(weight.tensors.shape):
        out = _insert(out, _put_layer(weight, where, one), where, sharding)
    return out


def _fill(weight: Stored, sharding: Sharding) -> jax.Array:
    """Of CPU devices, whose memory is the host's: every device's part is read into the place where it stays."""
    parts, reads = {}, []
    indices = sharding.addressable_devices_indices_map(weight.shape)
    lead = weight.tensors.ndim
    for index in indices.values():
        block = bounds(index, weight.shape)
        key = tuple((s.start, s.stop) for s in block)
        if key not in parts:
            parts[key] = out = _aligned([s.stop - s.start for s in block], weight.dtype)
            reads += [(out[(*where, ...)], where, block[lead:]) for where in np.ndindex(weight.tensors.shape)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(weight.fill, *read) for read in reads]:
            done.result()
    arrays = []
    for device, index in indices.items():
        key = tuple((s.start, s.stop) for s in bounds(index, weight.shape))
        arrays.append(jax.device_put(parts[key], device))
    return jax.make_array_from_single_device_arrays(weight.shape, sharding, arrays)


def _aligned(shape: list[int], dtype: np.dtype) -> np.ndarray:
    """An empty array that begins where JAX wants it, so that it is taken as it is instead of copied."""
    size, line = int(np.prod(shape)) * dtype.itemsize, 64
    memory = np.empty(size + line, np.uint8)
    start = -memory.ctypes.data % line
    return memory[start : start + size].view(dtype).reshape(shape)


def _put_layer(weight: Stored, where: tuple[int, ...], sharding: Sharding) -> jax.Array:
    """One layer: the part of it that this process needs is read once, and cut among its devices."""
    indices = sharding.addressable_devices_indices_map(weight.one)
    blocks = {device: bounds(index, weight.one) for device, index in indices.items()}
    axes = zip(*blocks.values(), strict=True)
    hull = tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in axes)
    read = weight.layer(where, hull)

    def cut(block):
        part = read[tuple(slice(s.start - h.start, s.stop - h.start) for s, h in zip(block, hull, strict=True))]
        return np.ascontiguousarray(bits(part)).view(part.dtype).reshape(part.shape)

    parts = [jax.device_put(cut(block), device) for device, block in blocks.items()]
    return jax.make_array_from_single_device_arrays(weight.one, sharding, parts)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _zeros(shape, dtype, sharding):
    return jax.lax.with_sharding_constraint(jnp.zeros(shape, dtype), sharding)


@functools.partial(jax.jit, static_argnums=3, donate_argnums=0)
def _insert(whole, layer, where, sharding):
    """One layer into its place."""
    start = (*where, *(0,) * layer.ndim)
    whole = jax.lax.dynamic_update_slice(whole, layer[(None,) * len(where)], start)
    return jax.lax.with_sharding_constraint(whole, sharding)
