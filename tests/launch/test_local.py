"""launch/local.sh: one process or several, with a program in the place of Python."""

import os
import pathlib
import signal
import subprocess
import time

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "launch" / "local.sh"
SHOW = 'for name in ${!JAX_*} PYTHONUNBUFFERED; do echo "$name=${!name}"; done; printf "<%s>\\n" "$@"'
ARGUMENTS = ["configs/my base.py:quick", "runs/it's", "--config.a=(1, 'x')"]


def test_one_process(launch, stub):
    stub("python", SHOW)
    result = launch("local.sh", *ARGUMENTS)
    assert result.stdout.splitlines() == [
        "PYTHONUNBUFFERED=",
        "<-m>",
        "<flamingo_jax.train>",
        "<--config=configs/my base.py:quick>",
        "<--workdir=runs/it's>",
        "<--config.a=(1, 'x')>",
    ]
    split = launch("local.sh", *ARGUMENTS, DEVICES="8").stdout.splitlines()
    assert split == ["JAX_NUM_CPU_DEVICES=8", "JAX_PLATFORMS=cpu", *result.stdout.splitlines()]


def test_several_processes_share_the_devices_and_find_each_other(launch, stub):
    stub("python", SHOW)
    result = launch("local.sh", *ARGUMENTS, PROCESSES="2", DEVICES="8", PORT="12345")
    assert result.returncode == 0 and not result.stderr
    for process in range(2):
        lines = [line for line in result.stdout.splitlines() if line.startswith(f"[{process}] ")]
        assert [line.removeprefix(f"[{process}] ") for line in lines] == [
            "JAX_COORDINATOR_ADDRESS=127.0.0.1:12345",
            "JAX_NUM_CPU_DEVICES=4",
            "JAX_NUM_PROCESSES=2",
            "JAX_PLATFORMS=cpu",
            f"JAX_PROCESS_ID={process}",
            "PYTHONUNBUFFERED=1",
            "<-m>",
            "<flamingo_jax.train>",
            "<--config=configs/my base.py:quick>",
            "<--workdir=runs/it's>",
            "<--config.a=(1, 'x')>",
        ]


@pytest.mark.parametrize("processes", ["1", "2"])
def test_what_a_dry_run_prints_is_what_is_run(launch, stub, tmp_path, processes):
    stub("python", SHOW)
    variables = dict(PROCESSES=processes, DEVICES="4", PORT="12345")
    printed = launch("local.sh", "--dry-run", *ARGUMENTS, **variables).stdout
    if processes == "2":
        assert printed.splitlines()[1:] == [
            "env JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=2 PYTHONUNBUFFERED=1 JAX_COORDINATOR_ADDRESS=127.0.0.1:12345 "
            "JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=1 python -m flamingo_jax.train '--config=configs/my base.py:quick' "
            "'--workdir=runs/it'\\''s' '--config.a=(1, '\\''x'\\'')' &",
            "wait",
        ]
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    by_hand = subprocess.run(["bash", "-c", printed], capture_output=True, text=True, env={"PATH": path})
    run = launch("local.sh", *ARGUMENTS, **variables)
    without_mark = [line.split("] ", 1)[-1] for line in run.stdout.splitlines()]
    assert sorted(by_hand.stdout.splitlines()) == sorted(without_mark)


def test_when_one_fails_all_end_and_its_exit_code_is_passed_on(launch, stub, tmp_path):
    stub(
        "python",
        f"if [[ $JAX_PROCESS_ID == 1 ]]; then exit 3; fi\ntrap 'echo ended; exit 143' TERM\n{wait_long(tmp_path)}",
    )
    result = launch("local.sh", "a", "b", PROCESSES="3", timeout=20)
    assert result.returncode == 3
    assert "process 1 ended with exit code 3." in result.stderr
    assert sorted(result.stdout.splitlines()) == ["[0] ended", "[2] ended"]


def test_a_signal_is_passed_on(stub, tmp_path):
    stub("python", f"trap 'sleep 0.3; printf saved; exit 5' TERM\n{wait_long(tmp_path)}")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    for number in (signal.SIGTERM, signal.SIGINT):
        running = subprocess.Popen(
            [SCRIPT, "a", "b"], env={"PATH": path, "PROCESSES": "2"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            # Where the tests run in a shell's background SIGINT is ignored, and a shell traps no signal that is.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        wait_for(lambda: len(list(tmp_path.glob("started-*"))) == 2)
        running.send_signal(number)
        output, _ = running.communicate(timeout=120)
        assert running.returncode == 5 and sorted(output.splitlines()) == ["[0] saved", "[1] saved"]
        for mark in tmp_path.glob("started-*"):
            mark.unlink()


def wait_long(folder):
    """Of a program that has a trap; a trap runs between two commands."""
    return f"touch {folder}/started-$JAX_PROCESS_ID; for i in {{1..300}}; do sleep 0.1; done"


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
