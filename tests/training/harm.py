"""What happens to files and to devices' memory."""

import pathlib

import jax
import numpy as np


def damage(path: pathlib.Path, how: str = "flip") -> None:
    """Breaks the largest of a checkpoint's files."""
    file = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data[: len(data) // 2] if how == "cut" else data)


def flip(leaf, number, bit=0):
    """The array as it is, but for a bit in the first element of the ``number``-th device's copy or part."""
    parts = [np.array(shard.data) for shard in leaf.addressable_shards]
    parts[number].reshape(-1).view(np.uint32)[0] ^= np.uint32(1 << bit)
    parts = [jax.device_put(part, shard.device) for part, shard in zip(parts, leaf.addressable_shards, strict=True)]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, parts)
