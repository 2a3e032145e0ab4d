"""One table from logical axes to mesh axes, and the checks that keep a pod from finding mistakes the slow way."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flamingo_jax.config import MeshConfig, MixConfig
from flamingo_jax.models.axes import ACTIVATION_AXES, WEIGHT_AXES

MESH_AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")  # examples are split over both: fsdp is data parallelism whose weights are sharded

# Logical axis -> mesh axis (or axes). Weights: the residual width over fsdp, what is wide over tensor (Megatron).
# The vision encoder's convolutions are split over fsdp alone: it is small beside the language model. In it and in the
# resampler the devices that share a text have its images divided among them, and gather weights instead.
RULES = {
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head": None,
    "vocab": "tensor",
    "joint": None,
    "features": None,
    "channels_in": None,
    "channels_out": "fsdp",
    "latents": None,
    "frames": None,
    "positions": None,
    "layers": None,
    "groups": None,
    "vector": None,
    "batch": BATCH,
    "images": MESH_AXES,
    "length": None,
    "act_embed": None,
    "act_heads": "tensor",
    "act_vocab": "tensor",
    "lookup_batch": "data",
    "lookup_embed": "fsdp",
}
assert RULES.keys() == WEIGHT_AXES.keys() | ACTIVATION_AXES.keys(), "every logical axis has exactly one rule"

LARGE = 2**20  # elements; a weight above this must not be replicated when there is an axis to split it over


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
    """The mesh (data, fsdp, tensor) over all devices; one axis may be -1 and takes what is left.

    Of several slices, whose network is slow, each holds its own part of the data. Raises ValueError when the sizes do
    not multiply to the number of devices, or the slices do not share data evenly.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(config, axis) for axis in MESH_AXES]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known > 0 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices) or min(sizes) < 1:
        asked = ", ".join(f"{axis}={getattr(config, axis)}" for axis in MESH_AXES)
        raise ValueError(
            f"config.mesh ({asked}) does not fit {len(devices)} devices: the sizes must multiply to that number, "
            "and at most one may be -1 (whatever is left)."
        )
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if sizes[0] % slices:
        raise ValueError(
            f"config.mesh has data={sizes[0]}, but the devices are {slices} slices, between which only data is split; "
            f"make data a multiple of {slices}."
        )
    if slices > 1:
        inside = (sizes[0] // slices, *sizes[1:])
        grid = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), devices, allow_split_physical_axes=True)
    else:
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    # Auto: the other kind, Explicit, is refused by flax's logical constraints.
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


@contextlib.contextmanager
def use(mesh: Mesh):
    """Makes ``constrain`` in the models effective for this mesh. Put it around tracing and running."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(tuple(RULES.items())):
        yield


def shard_tree(mesh: Mesh, boxed, frozen: str = "") -> dict:
    """NamedShardings for a tree of boxed abstract weights (``jax.eval_shape(model.init, ..)``), unboxed in structure.

    frozen: of frozen weights, what ``MeshConfig.frozen`` says. They have neither gradients nor moments: "replicated"
    leaves fsdp out, and "sharded" too for those outside of loops over layers, which would be gathered all at once.

    Raises ValueError, naming all offenders at once, for an axis that does not divide and for a large replicated weight.
    """
    errors = []

    def place(path, box):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axes = box.names if isinstance(box, nn.LogicallyPartitioned) else (None,) * box.ndim
        shape = box.value.shape if isinstance(box, nn.LogicallyPartitioned) else box.shape
        places = [None if axis is None else _rule(axis) for axis in axes]
        if frozen == "replicated" or (frozen and not {"layers", "groups"} & set(axes)):
            places = [None if place == "fsdp" else place for place in places]
        if math.prod(shape) <= LARGE:  # the first convolutions have fewer channels than a pod has devices
            for i, (axis, size) in enumerate(zip(axes, shape, strict=True)):
                if axis == "channels_out" and size % _ways(mesh, places[i]):
                    places[i] = None
        spec = PartitionSpec(*places)
        for axis, size, mesh_axis in zip(axes, shape, spec, strict=True):
            if size % (ways := _ways(mesh, mesh_axis)):
                fit = ", ".join(str(n) for n in range(1, mesh.size + 1) if mesh.size % n == 0 and size % n == 0)
                errors.append(f"{name} {shape}: {axis}={size} is not divisible by {mesh_axis}={ways}; {fit} would do")
        used = [mesh_axis for mesh_axis in spec if mesh_axis is not None]
        if len(used) != len(set(used)):
            errors.append(f"{name} {shape}: two of the axes {axes} are split over the same mesh axis, {used}")
            return replicated(mesh)
        split = math.prod(_ways(mesh, mesh_axis) for mesh_axis in used)
        if not frozen and math.prod(shape) > LARGE and split == 1 and mesh.shape["fsdp"] * mesh.shape["tensor"] > 1:
            errors.append(f"{name} {shape}: a large weight with axes {axes} would be replicated on every device")
        return NamedSharding(mesh, spec)

    tree = jax.tree_util.tree_map_with_path(
        place, boxed, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
    )
    if errors:
        raise ValueError(
            "These weights do not fit the mesh; change config.mesh or the sizes:\n  " + "\n  ".join(errors)
        )
    return tree


def _ways(mesh: Mesh, axes: str | tuple[str, ...] | None) -> int:
    """Into how many parts a dimension is split over a mesh axis, or over several."""
    names = () if axes is None else (axes,) if isinstance(axes, str) else axes
    return math.prod(mesh.shape[name] for name in names)


def _rule(axis: str):
    if axis not in RULES:
        raise ValueError(f"Logical axis {axis!r} has no sharding rule; known: {', '.join(RULES)}.")
    return RULES[axis]


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def host_part(mesh: Mesh, process: int) -> tuple[int, int]:
    """(index, count): which of how many equal parts of every batch process ``process`` feeds its devices with.

    Where ``tensor`` reaches over processes, those whose devices hold the same rows feed the same part.

    Raises ValueError when the processes' rows overlap in part, or are not as many each.
    """
    rows: dict[int, set[int]] = {}
    for way, devices in enumerate(mesh.devices.reshape(batch_ways(mesh), -1)):
        for device in devices:
            rows.setdefault(device.process_index, set()).add(way)
    parts = sorted({tuple(sorted(part)) for part in rows.values()})
    if len({len(part) for part in parts}) > 1 or sum(map(len, parts)) != batch_ways(mesh):
        raise ValueError(
            f"config.mesh ({dict(mesh.shape)}) splits a batch so that {len(rows)} processes hold the parts {parts}, "
            "some of them in part the same; let tensor divide the devices of a process, or be a multiple of them."
        )
    return parts.index(tuple(sorted(rows[process]))), len(parts)


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's part of a batch (``host_part``), {key: [B / parts, ..]}, as global arrays over the batch axes."""
    sharding = NamedSharding(mesh, PartitionSpec(BATCH))
    return jax.make_array_from_process_local_data(sharding, batch)  # all at once, which takes half the time


def concatenate(parts: Sequence[jax.Array]) -> jax.Array:
    """Batches [B_i, ..] as one, [sum of B_i, ..], in an order that leaves every example on its device."""
    mesh = jax.sharding.get_abstract_mesh()
    ways = 1 if mesh.empty else batch_ways(mesh)
    split = [part.reshape(ways, part.shape[0] // ways, *part.shape[1:]) for part in parts]
    return jnp.concatenate(split, axis=1).reshape(-1, *parts[0].shape[1:])


def after(batch: dict[str, jax.Array], done: dict) -> tuple[dict[str, jax.Array], dict]:
    """Both as they are, but nothing is made of ``batch`` before ``done`` is there.

    CPUs' compiler drops such a barrier at its end, and loops that do not depend on each other run at once. Within a
    process that does no harm; by messages (Gloo's), which know their order alone, a sum of one loop meets one of the
    other. There the batch itself depends on ``done``, by a choice that is never made.
    """
    batch, done = jax.lax.optimization_barrier((batch, done))
    mesh = jax.sharding.get_abstract_mesh()
    if jax.distributed.is_initialized() and mesh.abstract_device.platform == "cpu":
        never = sum(leaf.sum() for leaf in jax.tree.leaves(done)) == jnp.finfo(jnp.float32).min
        batch = {key: jnp.where(never, jnp.ones_like(leaf), leaf) for key, leaf in batch.items()}
    return batch, done


def settled(tree: Any) -> Any:
    """``tree``, of several processes on CPUs once it is computed: what is computed there before it is through must wait
    for threads that its own sums occupy, and with few cores none is left."""
    if jax.distributed.is_initialized() and jax.tree.leaves(tree)[0].sharding.mesh.devices.flat[0].platform == "cpu":
        jax.block_until_ready(tree)
    return tree


def batch_ways(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return _ways(mesh, BATCH)


def check_batch(mesh: Mesh, name: str, mix: MixConfig) -> None:
    """Raises ValueError when the batch of ``name`` (a path in the config) cannot be split evenly over the mesh, or its
    microbatches cannot."""
    ways, pieces = batch_ways(mesh), mix.microbatches
    if mix.rows % (ways * pieces):
        rows = f" is {mix.rows} rows and" if mix.pack > 1 else " is"
        times, other = f" x microbatches = {pieces}" if pieces > 1 else "", ""
        if not mix.rows % ways:  # then the pieces alone are to blame
            fit = [str(n) for n in range(1, mix.rows // ways + 1) if mix.rows // ways % n == 0]
            other = f", or microbatches of {', '.join(fit)}"
        raise ValueError(
            f"{name}.batch_size={mix.batch_size}{rows} not divisible by data x fsdp = {ways} devices{times}; "
            f"use a multiple of {ways * pieces * mix.pack}{other}."
        )
