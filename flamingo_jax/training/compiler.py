"""The step as a program for devices, and what the compiler is asked for beside it."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import Mesh

from flamingo_jax.training import chips

# Weights that are gathered layer by layer travel while the matrix units work on the layer before; without these the
# TPU's compiler waits for each, and makes a sum over all devices of zeros and weights of each gather over all of them.
# ``docs/pods.md`` has what that makes of a step. How depends on the chip: v4's gathers run beside products by
# themselves, v5e's within them, those of v5p and what came after on the SparseCores. The second way is refused by newer
# libtpus on any chip but v5e, where it might give wrong results or hang, as they say; older ones, such as Python 3.11's
# 0.0.42, take it without a word.
_BESIDE = {
    "xla_enable_async_all_gather": "true",
    "xla_tpu_prefer_async_allgather_to_allreduce": "true",
    "xla_tpu_overlap_compute_collective_tc": "true",
}
_FUSED = _BESIDE | {
    "xla_tpu_enable_async_collective_fusion": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
}
_OFFLOADED = _BESIDE | {
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "false",
    "xla_tpu_enable_sparse_core_collective_offload_all_gather": "true",
    "xla_tpu_enable_sparse_core_collective_offload_2d_all_gather": "true",  # over two and three axes of the torus
    "xla_tpu_enable_sparse_core_collective_offload_3d_all_gather": "true",
    "xla_tpu_use_tc_device_shape_on_sc": "true",
}
_OPTIONS = {"v4": _BESIDE, "v5e": _FUSED, "v5p": _OFFLOADED, "v6e": _OFFLOADED, "tpu7x": _OFFLOADED}


def jit(step: Callable, state: dict, mesh: Mesh) -> Callable:
    """``step`` of ``make_step`` as the devices of ``mesh`` run it: the new state stands where the old one was.

    state: arrays, or their shapes with shardings.
    """
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    options = _OPTIONS.get(chips.tpu(mesh.devices.flat[0].device_kind), {})
    return jax.jit(step, donate_argnums=0, out_shardings=(places, None), compiler_options=options)
