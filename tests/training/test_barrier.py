"""Two processes save and restore together: where one fails, both do, at once, and the next time both succeed."""

import json

from processes import run

SCRIPT = """
import errno, io, json, sys, time
import jax, numpy as np
folder, number, address = sys.argv[1:]
jax.distributed.initialize(address, 2, int(number))
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp
from orbax.checkpoint._src.path import async_path
from flamingo_jax.config import MeshConfig
from flamingo_jax.training import checkpoint, hosts, sharding
import pathlib

mesh = sharding.make_mesh(MeshConfig(1, 2, 1))
places = {"w": jax.NamedSharding(mesh, jax.P("fsdp")), "step": sharding.replicated(mesh)}
def state(step):
    make = jax.jit(lambda: {"w": jax.numpy.arange(64.0) + step, "step": jax.numpy.int32(step)}, out_shardings=places)
    return make()
abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0))

def no_collective(*arguments, **options):
    raise AssertionError("a collective of devices")
for name in ("broadcast_one_to_all", "process_allgather"):
    setattr(multihost_utils, name, no_collective)

def fails(module, name, who):
    # The next call of it in process ``who``, and no other.
    whole = getattr(module, name)
    def once(*arguments, **options):
        setattr(module, name, whole)
        raise OSError(errno.ENOSPC, "no room")
    if int(number) == who:
        setattr(module, name, once)

said, seconds = [], []
if int(number):  # what it says stands in its own log
    sys.stderr = io.StringIO()
checkpoints = checkpoint.Checkpoints(pathlib.Path(folder) / "stage" / "checkpoints", said.append, latest=9)
def save(step):
    start = time.monotonic()
    checkpoints.save(step, state(step), {})
    checkpoints.wait()
    seconds.append(time.monotonic() - start)

save(1)
fails(ocp, "save", 1)  # before the library counts what it does
save(2)
save(3)
fails(async_path, "rename", 0)  # the last thing of all, in the process that makes a checkpoint whole
save(4)
save(5)
checkpoints.close()
again = checkpoint.Checkpoints(pathlib.Path(folder) / "stage" / "checkpoints", said.append, latest=9)
fails(ocp, "metadata", 1)
start = time.monotonic()
restored, _ = again.restore(abstract)
seconds.append(time.monotonic() - start)
again.save(6, restored, {})
again.close()
steps = [found.step for found in checkpoint.find(pathlib.Path(folder) / "stage" / "checkpoints")]
if int(number):
    lines, sys.stderr = sys.stderr.getvalue().splitlines(), sys.__stderr__
    assert not said, said
    said = [line.removeprefix("process 1: ") for line in lines if line.startswith("process 1: ")]
with open(f"{folder}/{number}.json", "w") as file:
    json.dump({"said": said, "seconds": seconds, "steps": steps, "restored": int(restored["step"])}, file)
hosts.wait("end")
"""


def test_what_fails_in_one_process_fails_in_both_and_is_over(tmp_path):
    run(2, 1, lambda number, address: ["-c", SCRIPT, tmp_path, number, address])
    first, second = (json.loads((tmp_path / f"{number}.json").read_text()) for number in range(2))
    other = "step {} could not be saved, and training goes on: Cannot write {}: process {} could not; its log says why."
    folder = tmp_path / "stage" / "checkpoints" / "1"
    assert first["said"][0] == other.format(2, folder, 1) and second["said"][1] == other.format(4, folder, 0)
    assert "no room" in second["said"][0] and "no room" in first["said"][1]
    assert "no room" in second["said"][2] and "process 1 could not" in first["said"][2]
    for found in (first, second):
        assert len(found["said"]) == 3 and found["said"][2].startswith("the checkpoint of step 5 is damaged")
        assert found["restored"] == 3 and max(found["seconds"]) < 30
    assert first["steps"] == [6, 3, 1]
