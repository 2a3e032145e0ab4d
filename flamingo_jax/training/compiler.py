"""The step as a program for devices, and what the compiler is asked for beside it."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import Mesh

# Weights that are gathered layer by layer travel while the matrix units work on the layer before; without these the
# TPU's compiler waits for each. ``docs/pods.md`` has what that makes of a step.
_OPTIONS = {
    "tpu": {
        "xla_enable_async_all_gather": "true",
        "xla_tpu_enable_async_collective_fusion": "true",
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
        "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
        "xla_tpu_overlap_compute_collective_tc": "true",
    }
}


def jit(step: Callable, state: dict, mesh: Mesh) -> Callable:
    """``step`` of ``make_step`` as the devices of ``mesh`` run it: the new state stands where the old one was.

    state: arrays, or their shapes with shardings.
    """
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    options = _OPTIONS.get(mesh.devices.flat[0].platform, {})
    return jax.jit(step, donate_argnums=0, out_shardings=(places, None), compiler_options=options)
