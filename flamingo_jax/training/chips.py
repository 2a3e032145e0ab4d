"""What one device of each kind can do: the TPUs that a plan knows, and the best rate of these and of GPUs."""

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


# As JAX calls the devices.
_TPUS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "tpu7x",
}
# bfloat16 with float32 sums, per second, matrices without zeros to skip (data sheets that give the rate with such zeros
# give twice that). Sources: NVIDIA's data sheets of each. A name stands for all that begin with it and that no longer
# one fits: "NVIDIA H100 80GB HBM3" is the SXM module.
_GPUS = {
    "A10": 125e12,
    "A30": 165e12,
    "A40": 149.7e12,
    "A100": 312e12,
    "L4": 121e12,
    "L40": 181e12,
    "L40S": 362e12,
    "H100": 989.5e12,
    "H100 PCIe": 756.5e12,
    "H100 NVL": 835.5e12,
    "H200": 989.5e12,
    "H200 NVL": 835.5e12,
    "GH200": 989.5e12,
    "B200": 2250e12,
    "GB200": 2500e12,
}


def tpu(kind: str) -> str:
    """A device's name in ``CHIPS`` by its ``jax.Device.device_kind``; "" of one that is no TPU known here."""
    return _TPUS.get(kind, "")


def peak(kind: str) -> float | None:
    """The best rate of a device by its ``jax.Device.device_kind``, bfloat16 operations per second.

    None where it is not known: CPUs, a part of a GPU, and what is not in the tables.
    """
    if name := tpu(kind):
        return CHIPS[name].flops
    words = kind.removeprefix("NVIDIA ").replace("-", " ")
    if " MIG " in words:
        return None
    names = [name for name in _GPUS if f"{words} ".startswith(f"{name} ")]
    return _GPUS[max(names, key=len)] if names else None
