"""SIGTERM: the run saves, ends with the code that launchers know, and goes on with the same bits."""

import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import stage as script
from processes import environment, free_address

from flamingo_jax.training import ending, metrics


def start(folder, count, steps, pause, number, address):
    return subprocess.Popen(
        [sys.executable, script.__file__, *map(str, (folder, number, count, address, steps, pause))],
        env=environment(8 // count),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder, count, steps, pause=0.0, at_step=None):
    """Runs the stage to its end, or sends SIGTERM to the last process once so many steps are logged. Returns the exit
    codes and the outputs."""
    address = free_address()
    processes = [start(folder, count, steps, pause, number, address) for number in range(count)]
    try:
        log = pathlib.Path(folder) / metrics.FILE
        while at_step is not None and all(process.poll() is None for process in processes):
            if log.exists() and len(log.read_text().splitlines()) >= at_step:
                processes[-1].send_signal(signal.SIGTERM)
                break
            time.sleep(0.05)
        said = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [process.returncode for process in processes], said


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sigterm_saves_and_the_same_command_goes_on(tmp_path, count):
    """Sent to one process of two, both of which save the same step."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(whole, count, 30)[0] == [0] * count
    codes, said = run(cut, count, 30, pause=0.2, at_step=5)
    assert codes == [ending.PREEMPTED] * count, said
    assert "SIGTERM: language is saved at step " in said[0] and not (cut / "weights.npz").exists()
    step = int(said[0].split("saved at step ")[1].split()[0])
    assert 5 <= step < 30 and f"at step {step} of 30" in said[-1]
    codes, said = run(cut, count, 30)
    assert codes == [0] * count and f"continuing at step {step} of 30" in said[0], said
    one, two = (dict(np.load(folder / "weights.npz")) for folder in (whole, cut))
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)
    assert (whole / metrics.FILE).read_bytes() == (cut / metrics.FILE).read_bytes()


@pytest.mark.parametrize("signals, said", [(1, "inside\n"), (2, "")])
def test_a_signal_that_nobody_heeded_and_a_second_one_end_the_process(signals, said):
    """The first at the end of what deferred it, the second at once."""
    program = (
        "import os, signal; from flamingo_jax.training import ending\n"
        "with ending.deferred():\n"
        f"    for _ in range({signals}): os.kill(os.getpid(), signal.SIGTERM)\n"
        "    assert ending.asked(); print('inside', flush=True)\n"
        "print('never')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM and done.stdout == said


def test_handlers_are_as_they_were():
    before = signal.getsignal(signal.SIGTERM)
    with ending.deferred():
        assert signal.getsignal(signal.SIGTERM) is not before
        assert not ending.asked()
    assert signal.getsignal(signal.SIGTERM) is before
