"""The TPUs that a plan knows: what one device of each can do."""

from __future__ import annotations

import dataclasses

from flamingo_jax.config.suggest import suggest


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX counts them; in ``tpu7x`` that is half a chip.

    flops: bfloat16, per second, at best. memory: HBM, bytes. bandwidth: of HBM, bytes/s. clock: cycles/s, by which the
    compiler's cycles are seconds. link: bytes/s of one link to a neighbour, one way. axes: of the torus, two links
    each. network: bytes/s between slices, per device.

    Sources: docs.cloud.google.com/tpu/docs (v4, v5e, v5p, v6e, tpu7x); links from the book "How to scale your model".
    """

    flops: float
    memory: float
    bandwidth: float
    clock: float
    link: float
    axes: int
    network: float


_GIB = 2**30
CHIPS = {
    "v4": Chip(275e12, 32 * _GIB, 1228e9, 1.05e9, 45e9, 3, 3.125e9),
    "v5e": Chip(197e12, 16 * _GIB, 819e9, 1.5e9, 50e9, 2, 3.125e9),
    "v5p": Chip(459e12, 95 * _GIB, 2765e9, 1.75e9, 90e9, 3, 6.25e9),
    "v6e": Chip(918e12, 32 * _GIB, 1638e9, 1.75e9, 90e9, 2, 12.5e9),
    "tpu7x": Chip(2307e12 / 2, 96 * _GIB, 7380e9 / 2, 2.2e9, 90e9, 3, 6.25e9),
}


def find(topology: str) -> Chip:
    """The chip of a topology such as ``v5p:8x8x8``. Raises ValueError that lists those that are known."""
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise ValueError(f"--topology={topology}: there is no TPU {name!r}; {suggest(name, CHIPS)}.")
    return CHIPS[name]
