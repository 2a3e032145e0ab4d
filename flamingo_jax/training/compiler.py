"""What the compiler is asked for beside the program."""

from __future__ import annotations

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


def options(mesh: Mesh) -> dict[str, str]:
    """``jax.jit``'s ``compiler_options`` for a step on the devices of ``mesh``."""
    return _OPTIONS.get(mesh.devices.flat[0].platform, {})
