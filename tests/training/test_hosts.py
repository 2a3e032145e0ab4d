"""Two processes of four devices feed a step with the arrays that one process of eight feeds it with."""

import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from archives import picture
from processes import run
from written import write

from flamingo_jax.data import image, tokenizer
from flamingo_jax.data.document import Document

FEED = """
import os, sys
import jax
import numpy as np
folder, number, count, address, state, *mesh = sys.argv[1:]
if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(number))
from jax.experimental import multihost_utils
from flamingo_jax.config import ExampleConfig, MeshConfig, MixConfig
from flamingo_jax.data import record, stream, tokenizer
from flamingo_jax.training import sharding
mesh = sharding.make_mesh(MeshConfig(*map(int, mesh)))
part, parts = sharding.host_part(mesh, jax.process_index())
batches = stream.stream(
    record.Source(f"{folder}/data"), tokenizer.load(f"{folder}/tokenizer.json"), ExampleConfig(16, size=8, flip=0.5),
    MixConfig(32, pack=2, row_length=24), seed=3, shard_index=part, shard_count=parts,
)
batches.set_state(int(state))
for step in range(2):
    batch = sharding.put_batch(mesh, next(batches))
    assert batch["media"].shape == (16, 2, 1, 8, 8, 3) and len(batch["media"].sharding.device_set) == 8
    batch = multihost_utils.process_allgather(batch, tiled=True)
    np.savez(f"{folder}/{count}-{number}-{step}.npz", **batch)
assert batches.get_state() == int(state) + 64
batches.close()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("hosts")
    texts = [f"thing {i} of many" for i in range(50)]
    media = [((image.store(picture(i), 8),),) for i in range(5)]
    write(path / "data", (Document(t, t, (0,), media[i % 5]) for i, t in enumerate(texts)), 3)
    tokenizer.train(texts, 300).save(path / "tokenizer.json")
    return path


def feed(folder, count, devices, mesh):
    """Runs so many processes from document 32 on, to the end."""
    run(count, devices, lambda number, address: ["-c", FEED, folder, number, count, address, 32, *mesh])


@pytest.mark.parametrize("mesh", [(4, 2, 1), (1, 1, 8)], ids=["split", "tensor over both hosts"])
def test_two_hosts_feed_what_one_feeds(folder, mesh):
    feed(folder, 1, 8, mesh)
    feed(folder, 2, 4, mesh)
    for step in range(2):
        one, *two = (np.load(folder / f"{name}-{step}.npz") for name in ("1-0", "2-0", "2-1"))
        assert set(one) == set(two[0]) and one["tokens"].any()
        for key in one:
            for host in two:
                np.testing.assert_array_equal(one[key], host[key], err_msg=key)


def test_sigterm_ends_a_process_of_several(tmp_path):
    """By itself JAX keeps the signal for whoever asks whether it came."""
    wait = (
        "import sys, time; from flamingo_jax.training import hosts; hosts.start(); print(1, flush=True); time.sleep(99)"
    )
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    known = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", wait],
            env={**known, "JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for number in range(2)
    ]
    try:
        assert [process.stdout.read(1) for process in processes] == [b"1", b"1"]
        for process in reversed(processes):  # the first one serves the others
            process.terminate()
            assert process.wait(timeout=20) == -signal.SIGTERM
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
