"""The processes of a run, one per host: how they find each other, and how they wait for each other."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost
from orbax.checkpoint import v1 as ocp

_OURS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# By which JAX knows that it is one of several: Cloud TPU's and GKE's, those of several slices, Slurm's, Open MPI's.
_CLUSTERS = (
    "TPU_WORKER_HOSTNAMES",
    "TPU_PROCESS_ADDRESSES",
    "MEGASCALE_COORDINATOR_ADDRESS",
    "SLURM_STEP_NODELIST",
    "OMPI_MCA_orte_hnp_uri",
)
_DAY = 24 * 3600


def start() -> None:
    """Makes this process one of its run's, if there are several. To be called before JAX looks for devices.

    On Cloud TPU VMs, GKE, Slurm and Open MPI JAX finds the others by itself; elsewhere ``JAX_COORDINATOR_ADDRESS``
    (host:port of process 0), ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID`` name them.

    Raises ValueError when one of these three is missing or makes no sense.
    """
    # It would take SIGTERM for a notice that somebody asks for, and nothing would end the process.
    jax.config.update("jax_enable_preemption_service", False)
    given = {name: os.environ[name] for name in _OURS if os.environ.get(name)}
    if "JAX_NUM_PROCESSES" in given or "JAX_PROCESS_ID" in given:
        if missing := [name for name in _OURS if name not in given]:
            raise ValueError(f"{' and '.join(given)} given, but not {' and '.join(missing)}; set all three.")
        address, count, number = given.values()
        if not (count.isdigit() and number.isdigit() and int(number) < int(count)):
            raise ValueError(
                f"JAX_PROCESS_ID={number} must be a number below JAX_NUM_PROCESSES={count}, from 0 on, one per process."
            )
        if int(count) > 1:
            jax.distributed.initialize(address, int(count), int(number))
    elif "JAX_COORDINATOR_ADDRESS" in given or any(name in os.environ for name in _CLUSTERS) or _on_tpu_vm():
        jax.distributed.initialize()


def _on_tpu_vm() -> bool:
    """Whether this machine has TPUs, which a cluster's metadata then tell of."""
    if "tpu" not in os.environ.get("JAX_PLATFORMS", "tpu") or importlib.util.find_spec("libtpu") is None:
        return False
    return any(pathlib.Path("/dev").glob("accel[0-9]*")) or any(pathlib.Path("/dev/vfio").glob("[0-9]*"))


def is_first() -> bool:
    """Whether this is the process that writes, and says, what only one may."""
    return jax.process_index() == 0


def wait(name: str, seconds: int = _DAY) -> None:
    """Returns when all processes are here. ``name`` is the same in all of them, and used once.

    It takes the processes' own connection and no collective of devices, which would give up earlier.
    """
    if jax.process_count() > 1:
        multihost.sync_global_processes(name, timeout=seconds, processes=set(range(jax.process_count())))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, this process reads and writes checkpoints by itself, while the others wait elsewhere."""
    options = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"alone{jax.process_index()}",
    )
    with contextlib.nullcontext() if jax.process_count() == 1 else ocp.Context(multiprocessing_options=options):
        yield


def agree(choice: bool) -> bool:
    """The first process's choice, in all of them, which call this together."""
    if jax.process_count() == 1:
        return choice
    return bool(multihost_utils.broadcast_one_to_all(np.array(choice)))


def check_shared(path: pathlib.Path) -> None:
    """Raises ValueError when what the first process wrote to ``path`` is not seen here."""
    for _ in range(10):  # a network's disk may lag behind
        if path.exists():
            return
        time.sleep(1.0)
    raise ValueError(
        f"Process 0 has written {path}, but process {jax.process_index()} does not see it: --workdir must be a folder "
        "that all hosts share."
    )


def gather(leaf: jax.Array) -> np.ndarray:
    """All of an array, on every host, whichever hosts' devices hold it."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return np.asarray(leaf)
    if leaf.size > 2**28 and leaf.ndim > 1:  # layer by layer: whole, it may not fit into one device
        return np.stack([gather(leaf[i]) for i in range(leaf.shape[0])])
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
