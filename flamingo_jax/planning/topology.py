"""Devices that are not there: a named slice of TPUs, or several, as the TPU's compiler knows them."""

from __future__ import annotations

import importlib.util
import os

import jax
import numpy as np

from flamingo_jax.planning.links import Links
from flamingo_jax.training import chips

# The compiler alone is wanted: no TPU is looked for, no cloud is asked, and nobody's lock on it counts.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
_EXAMPLES = "v4:8x12x16, v5e:16x16, v5p:8x8x8, v6e:16x16, tpu7x:4x4x4"


def devices(topology: str, slices: int = 1) -> list[jax.Device]:
    """The devices of ``slices`` slices of a topology such as ``v5p:8x8x8``; two a chip in ``tpu7x``.

    They compile, and compute nothing. Raises ValueError when there is no such topology, or no libtpu.
    """
    chip = chips.find(topology)
    sizes = topology.partition(":")[2].split("x")
    if len(sizes) != chip.axes or not all(size.isdigit() and int(size) for size in sizes):
        raise ValueError(f"--topology={topology} must have {chip.axes} sizes; some that there are: {_EXAMPLES}.")
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("The TPU's compiler is missing; install it: pip install -e '.[tpu]'.")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}  # else two devices a chip
    if slices > 1:
        options["num_slices"] = slices
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    except Exception as error:
        reason = str(error).removeprefix("INVALID_ARGUMENT: ")
        raise ValueError(f"--topology={topology} is none: {reason}. Some that there are: {_EXAMPLES}.") from None


def links(topology: str, mesh: jax.sharding.Mesh) -> Links:
    """What connects the devices of a mesh, in the order in which a program for it numbers them."""
    places = [
        [getattr(device, "slice_index", 0) or 0, *device.coords, device.core_on_chip]
        for device in mesh.devices.flatten()
    ]
    places = np.array(places)
    return Links(chips.find(topology), places, tuple(int(n) for n in places[:, 1:].max(0) + 1))
