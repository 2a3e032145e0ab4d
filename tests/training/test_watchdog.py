"""A run in which nothing moves any more."""

import os
import pathlib
import subprocess
import sys
import time

import pytest
from processes import environment

from flamingo_jax.training import ending
from flamingo_jax.training.checkpoint import find
from flamingo_jax.training.watchdog import Watchdog

PROGRAM = """
import sys, threading, time
from flamingo_jax.training.watchdog import Watchdog

def stuck_in_a_collective():
    threading.Event().wait()

dog = Watchdog({seconds}, "flamingo")
with dog.watching():
    for _ in range({beats}):
        time.sleep(0.2)
        dog.beat("update 7 was made")
    if {hangs}:
        stuck_in_a_collective()
print("done")
"""


def run(seconds=0.5, beats=5, hangs=True):
    program = PROGRAM.format(seconds=seconds, beats=beats, hangs=hangs)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


def test_it_says_where_it_hangs_and_ends():
    done = run()
    assert done.returncode == ending.HUNG and not done.stdout
    assert done.stderr.startswith("flamingo: nothing has moved for ")
    assert "since update 7 was made. This process ends with exit code 70" in done.stderr
    assert "in stuck_in_a_collective" in done.stderr and "Thread 0x" in done.stderr


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_what_moves_is_left_alone(seconds):
    done = run(seconds, beats=4, hangs=False)
    assert done.returncode == 0 and done.stdout == "done\n" and not done.stderr


def test_after_its_end_it_watches_no_more():
    dog = Watchdog(0.1, "flamingo")
    with dog.watching():
        dog.beat("it went well")
    time.sleep(0.5)


STAGE = """
import pathlib, sys, threading
import jax
from small_stage import Numbers, stage
from updates import MODEL
from flamingo_jax.config import MeshConfig
from flamingo_jax.training import loop, sharding

class Stuck(Numbers):
    def __next__(self):
        if self.next == 3:
            self.wait_for_a_disk()
        return super().__next__()

    def wait_for_a_disk(self):
        threading.Event().wait()

mesh = sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
loop.train(stage(MODEL, pathlib.Path(sys.argv[1]), Stuck(), mesh, saved=True, watchdog_minutes=0.4))
"""


@pytest.mark.slow
def test_a_stage_that_waits_for_ever_ends_and_has_its_checkpoint(tmp_path):
    folder = pathlib.Path(__file__).parent
    env = environment(1) | {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, "-c", STAGE, str(tmp_path)], capture_output=True, text=True, env=env)
    assert done.returncode == ending.HUNG, done.stderr
    assert "language: nothing has moved for 2" in done.stderr and "in wait_for_a_disk" in done.stderr
    assert "since update 2 was made" in done.stderr or "since update 3 was made" in done.stderr
    assert [found.step for found in find(tmp_path / "checkpoints")] == [3, 2, 1]
