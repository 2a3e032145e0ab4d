"""Weights & Biases: what is sent, by a library that is told apart from the real one only by keeping it."""

import importlib.util
import sys
import types

import pytest

from flamingo_jax.training import metrics, tracking


class Run:
    def __init__(self, **options):
        self.options, self.axes, self.lines, self.ended = options, [], [], []

    def define_metric(self, name, step_metric):
        self.axes.append((name, step_metric))

    def log(self, line):
        self.lines.append(line)

    def finish(self, exit_code=0):
        self.ended.append(exit_code)


@pytest.fixture
def runs(monkeypatch):
    """The runs that were begun."""
    begun = []
    fake = types.ModuleType("wandb")
    fake.Error = type("Error", (Exception,), {})
    fake.errors = types.SimpleNamespace(CommError=type("CommError", (fake.Error,), {}))
    fake.errors.AuthenticationError = type("AuthenticationError", (fake.errors.CommError,), {})
    fake.teardown = lambda: None
    fake.init = lambda **options: begun.append(Run(**options)) or begun[-1]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return begun


def test_all_that_is_written_is_sent_on_an_axis_of_its_stage(tmp_path, runs):
    with tracking.opened("birds", tmp_path, {"seed": 1}, ["language", "flamingo"]) as send:
        writer = metrics.Writer(tmp_path / "flamingo", resume_step=4, send=send)
        writer.write(5, {"loss/m3w": 2.0})
        writer.write(5, {"mfu": 0.5}, metrics.SPEED)
        writer.write(5, {"loss": 3.0}, metrics.VALIDATION)
        writer.close()
    (run,) = runs
    assert run.options["project"] == "birds" and run.options["config"] == {"seed": 1} and run.ended == [0]
    assert run.axes == [("language/*", "language/step"), ("flamingo/*", "flamingo/step")]
    assert run.lines == [
        {"flamingo/loss/m3w": 2.0, "flamingo/step": 5},
        {"flamingo/speed/mfu": 0.5, "flamingo/step": 5},
        {"flamingo/validation/loss": 3.0, "flamingo/step": 5},
    ]


def test_a_workdir_is_one_run_however_often_it_is_started(tmp_path, runs):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), tracking.opened("birds", tmp_path, {}, []):
            raise KeyboardInterrupt
    assert runs[0].options["id"] == runs[1].options["id"] and runs[1].options["resume"] == "allow"
    assert [run.ended for run in runs] == [[1], [1]]


def test_nothing_is_sent_unasked(tmp_path, runs):
    with tracking.opened("", tmp_path, {}, []) as send:
        send("flamingo", 1, {"loss": 1.0})
    assert not runs and not list(tmp_path.iterdir())


def test_a_run_begins_while_nobody_is_there_to_send_to(tmp_path, runs, monkeypatch):
    begin, said = sys.modules["wandb"].init, []

    def outage(mode="online", **options):
        if mode == "online":
            raise sys.modules["wandb"].errors.CommError("timed out.")
        return begin(mode=mode, **options)

    monkeypatch.setattr(sys.modules["wandb"], "init", outage)
    with tracking.opened("birds", tmp_path, {}, [], said.append) as send:
        send("flamingo", 1, {"loss": 1.0})
    (run,) = runs
    assert run.options["mode"] == "offline" and len(run.options["id"]) == 8 and len(run.lines) == 1
    assert said == [
        f"Weights & Biases cannot be reached, and metrics are kept in {tmp_path}/wandb for `wandb sync`: timed out."
    ]


@pytest.mark.parametrize("kind", ["Error", "AuthenticationError"])
def test_what_is_wrong_is_said(tmp_path, runs, monkeypatch, kind):
    def fail(**options):
        wandb = sys.modules["wandb"]
        raise {"Error": wandb.Error, **vars(wandb.errors)}[kind]("no API key.")

    monkeypatch.setattr(sys.modules["wandb"], "init", fail)
    with pytest.raises(ValueError, match="config.wandb='birds': Weights & Biases cannot begin: no API key. WANDB_MODE"):
        with tracking.opened("birds", tmp_path, {}, []):
            pass


def test_a_library_that_is_missing_is_said_first(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"config.wandb='birds' needs a library: pip install -e '.\[wandb\]'"):
        tracking.check("birds")
    tracking.check("")


def test_the_real_library_keeps_it_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with tracking.opened("birds", tmp_path, {"seed": 1}, ["flamingo"]) as send:
        send("flamingo", 1, {"loss/m3w": 2.0})
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"flamingo/loss/m3w" in kept.read_bytes()
