"""--status: a run that has just begun, is under way, was killed, is complete, or is none."""

import fcntl
import json
import os
import pathlib
import subprocess
import sys

import pytest

from flamingo_jax import status
from flamingo_jax.training import goodput

ROOT = pathlib.Path(__file__).parents[1]
NOW = 2_000_000.0


def write_lines(path, *lines, torn=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)
    os.utime(path, (NOW - 20, NOW - 20))


@pytest.fixture
def run(tmp_path):
    """A run that has just begun, of two stages."""
    stages = {
        "language": {"objective": "language", "steps": 100},
        "flamingo": {"objective": "flamingo", "steps": 2000},
    }
    (tmp_path / "config.json").write_text(json.dumps({"order": ["language", "flamingo"], "stages": stages}))
    return tmp_path


def finish(run, stage, steps, weights):
    metrics = {"loss/text": 1.5, "grad_norm": 0.25, "skipped": 1.0}
    (run / stage).mkdir(exist_ok=True)
    (run / stage / "result.json").write_text(json.dumps({"weights": weights, "steps": steps, "metrics": metrics}))


def train(run):
    """Half of the second stage, killed in the middle of a line, and what it had saved by then."""
    finish(run, "language", 100, "a")
    (run / "flamingo" / "checkpoints" / "1" / "800").mkdir(parents=True)
    os.utime(run / "flamingo" / "checkpoints" / "1" / "800", (NOW - 3700, NOW - 3700))
    values = {"grad_norm": 0.5, "loss/align": 0.75, "loss/m3w": 1.25, "seen/m3w/tokens": 7, "skipped": 3.0}
    write_lines(run / "flamingo" / "metrics.jsonl", {"step": 1000, **values}, torn='{"step": 1010, "lo')
    speed = {"tokens_per_second": 12345.6, "data_wait": 0.015, "mfu": 0.4321, "seconds_per_step": 2.0}
    write_lines(run / "flamingo" / "speed.jsonl", {"step": 1000, **speed}, torn="{")
    line = {"start": 1, "time": NOW - 5, "now": "train", "seconds": {"train": 30.0, "start": 10.0}}
    write_lines(run / goodput.FILE, line | {"stage": "flamingo", "step": 1009}, torn='{"start": 1')


def test_a_run_that_has_just_begun(run):
    assert status.status(run, NOW).splitlines() == [
        f"{run}: no process is at work in it",
        "language    not begun",
        "flamingo    not begun",
        "evaluation  not complete",
    ]


def test_a_stage_whose_first_update_is_still_compiled(run):
    write_lines(run / "language" / "metrics.jsonl")
    write_lines(run / "language" / "speed.jsonl")
    assert status.status(run, NOW).splitlines()[1:3] == [
        "language    step 0 of 100 (0.0 %)",
        "            no checkpoint yet",
    ]


def test_a_killed_run(run):
    train(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert status.status(run, NOW).splitlines() == [
        f"{run}: no process is at work in it, last heard of 0:05 ago (start 1: train)",
        "language    complete, 100 steps: loss text 1.500, grad norm 0.25, skipped updates: 1",
        "flamingo    step 1,009 of 2,000 (50.5 %), 33:02 left at its last speed",
        "            at step 1,000, written 0:20 ago: loss align 0.750 m3w 1.250, grad norm 0.5, skipped updates: 3",
        "            12,346 tokens/s, MFU 43.2 %, waited 1.5 % of its time for data",
        "            newest checkpoint: step 800, 1:01:40 ago",
        "evaluation  not complete",
        "goodput: trained 75.0 % of 0:40; start 25.0 %",
    ]
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_run_without_a_ledger(run):
    """Of an older version."""
    train(run)
    (run / goodput.FILE).unlink()
    lines = status.status(run, NOW).splitlines()
    assert lines[0].endswith("no process is at work in it") and lines[-1] == "evaluation  not complete"
    assert lines[2].startswith("flamingo    step 1,000 of 2,000 (50.0 %), 33:20 left")


def test_a_complete_run(run):
    train(run)
    finish(run, "flamingo", 2000, "b")
    line = {"start": 1, "time": NOW - 60, "now": "start", "seconds": {"train": 30.0}, "complete": True}
    write_lines(run / goodput.FILE, line)
    (run / "evaluation").mkdir()
    (run / "evaluation" / "results.json").write_text(json.dumps({"weights": "b"}))
    lines = status.status(run, NOW).splitlines()
    assert lines[0].endswith("last heard of 1:00 ago (start 1: complete)")
    assert lines[2].startswith("flamingo    complete, 2,000 steps: loss") and lines[3] == "evaluation  complete"
    finish(run, "flamingo", 2000, "c")
    assert status.status(run, NOW).splitlines()[3] == "evaluation  of older weights than flamingo's; it starts anew"


def test_whether_a_process_is_at_work(run):
    assert not status.is_at_work(run) and not (run / status.LOCK).exists()
    with (run / status.LOCK).open("w") as file:
        assert not status.is_at_work(run)
        fcntl.flock(file, fcntl.LOCK_EX)
        assert status.is_at_work(run) and ": a process is at work in it" in status.status(run, NOW)
    assert not status.is_at_work(run)


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(ValueError, match="There is no folder .*/none; give"):
        status.status(tmp_path / "none")
    with pytest.raises(ValueError, match="is no run: it has no config.json"):
        status.status(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": 1}')
    with pytest.raises(ValueError, match="is no run: its config.json has no stages"):
        status.status(tmp_path)


def command(*arguments):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "flamingo_jax.train", *arguments], capture_output=True, text=True, env=env
    )


def test_the_command(run):
    train(run)
    for arguments in ((f"--status={run}",), ("--status", str(run))):
        said = command(*arguments)
        assert said.returncode == 0 and "flamingo    step 1,009 of 2,000" in said.stdout and not said.stderr
    assert not (run / status.LOCK).exists()
    said = command("--status", str(run / "none"))
    assert said.returncode == 1 and "flamingo_jax.train: There is no folder" in said.stderr and not said.stdout


def test_it_needs_no_jax():
    program = "import sys; from flamingo_jax import status, train; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode == 0
