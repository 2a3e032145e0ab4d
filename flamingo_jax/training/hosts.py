"""The processes of a run, one per host: how they find each other, wait for each other, and come to one mind.

All of it goes over the processes' own connection: a collective of devices waits behind whatever the devices are at, for
ever where one of them is gone, and never says whom it waits for.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # what processes tell each other has no other name
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
_AGREED, _CALLED = "flamingo/agreed", "flamingo/called"
_REMEMBERED = 1000  # answers that the first process keeps for those that have not asked yet


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
        jax.distributed.initialize(address, int(count), int(number))  # also one, which then sums on CPUs as many do
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

    Raises TimeoutError, after so many seconds, that says which processes are missing.
    """
    if jax.process_count() == 1:
        return
    try:
        multihost.sync_global_processes(name, timeout=seconds, processes=set(range(jax.process_count())))
    except jax.errors.JaxRuntimeError as error:
        missing = re.search(r"timed out task names:\s*((?:\d+\s)*)", str(error))
        if "DEADLINE_EXCEEDED" not in str(error) or not missing:
            raise
        raise TimeoutError(
            f"Process {jax.process_index()} has waited {seconds:,} s at {name!r}, but of {jax.process_count()} "
            f"processes these have not come: {', '.join(missing[1].split())}. Their logs say where they are."
        ) from error


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


_questions = itertools.count()


def agree(choice: Any, seconds: int = _DAY) -> Any:
    """The first process's choice, anything that JSON has, in all of them, which ask for it in the same order.

    The first one does not wait for the others. Raises TimeoutError when it has not answered after so many seconds.
    """
    client = distributed.global_state.client
    if client is None:
        return choice
    number = next(_questions)
    if is_first():
        client.key_value_set(f"{_AGREED}/{number}", json.dumps(choice))
        if number >= _REMEMBERED:  # read by all long ago
            client.key_value_delete(f"{_AGREED}/{number - _REMEMBERED}")
        return choice
    try:
        return json.loads(client.blocking_key_value_get(f"{_AGREED}/{number}", seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        raise TimeoutError(
            f"Process {jax.process_index()} has waited {seconds:,} s for what process 0 decides; its log says where it "
            "is."
        ) from error


def call(word: str) -> None:
    """Says a word that the first process finds by ``called``."""
    if client := distributed.global_state.client:
        client.key_value_set(f"{_CALLED}/{word}/{jax.process_index()}", "", allow_overwrite=True)


def called(word: str) -> list[int]:
    """The processes that have said the word, in order."""
    client = distributed.global_state.client
    found = client.key_value_dir_get(f"{_CALLED}/{word}/") if client else []
    return sorted(int(key.rsplit("/", 1)[1]) for key, _ in found)


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
