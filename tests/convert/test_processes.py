"""Two processes convert together: each reads what its devices hold, and both end with one folder."""

import os
import pathlib
import socket
import subprocess
import sys

import chex
import pytest

import flamingo_jax

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
ROOT = GOLDEN.parents[1]
# The command, and the bytes that it read of weights.
COUNTING = """
import functools, os
import jax
found = os.environ["ADDRESS"], 2, int(os.environ["NUMBER"])  # what a pod tells by itself
jax.distributed.initialize = functools.partial(jax.distributed.initialize, *found)
from flamingo_jax.convert.reader import Checkpoint
get, read = Checkpoint.get, []
Checkpoint.get = lambda *a: (tensor := get(*a), read.append(tensor.nbytes))[0]
from absl import app
from flamingo_jax.convert import __main__ as command
try:
    app.run(command.main)
finally:
    print("read", sum(read))
"""


@pytest.mark.parametrize("layout", ["orbax", "safetensors"])
def test_two_processes_write_one_folder(tmp_path, layout):
    source = GOLDEN / "language" / "llama_yarn"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    options = [f"--source={source}", f"--target={tmp_path}/out", f"--export={layout}", "--multihost"]
    processes = []
    for number in range(2):
        env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
        env |= {"ADDRESS": address, "NUMBER": str(number)}
        command = [sys.executable, "-c", COUNTING, *options]
        processes.append(
            subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    chex.assert_trees_all_equal(flamingo_jax.load(tmp_path / "out").variables, flamingo_jax.load(source).variables)
    whole = (source / "model.safetensors").stat().st_size
    read = [int(output.split("read ")[1]) for output, _ in outputs]
    if layout == "orbax":
        assert all(0.4 * whole < count < 0.6 * whole for count in read), (read, whole)
