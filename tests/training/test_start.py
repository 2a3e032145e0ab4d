"""How a process finds the others of its run."""

import pathlib

import jax
import pytest

from flamingo_jax.training import hosts

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.fixture
def started(monkeypatch):
    """What jax.distributed.initialize is called with; no variable is set, and there is no TPU."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(hosts, "_on_tpu_vm", lambda: False)
    for name in (*VARIABLES, *hosts._CLUSTERS):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, []),
        (dict(zip(VARIABLES, ("a:1", "4", "2"), strict=True)), [("a:1", 4, 2)]),
        (dict(zip(VARIABLES, ("a:1", "1", "0"), strict=True)), [("a:1", 1, 0)]),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, [()]),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, [()]),  # the cluster tells the rest
    ],
)
def test_variables_say_who_there_is(started, monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    hosts.start()
    assert started == expected


@pytest.mark.parametrize(
    "values, message",
    [
        (
            ("a:1", "2", None),
            "JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES given, but not JAX_PROCESS_ID; set all three",
        ),
        ((None, None, "1"), "JAX_PROCESS_ID given, but not JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES; set"),
        (("a:1", "2", "2"), "JAX_PROCESS_ID=2 must be a number below JAX_NUM_PROCESSES=2"),
        (("a:1", "two", "0"), "JAX_NUM_PROCESSES=two"),
    ],
)
def test_half_of_them_are_refused(started, monkeypatch, values, message):
    for name, value in zip(VARIABLES, values, strict=True):
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        hosts.start()
    assert not started


def test_a_machine_with_tpus_asks_its_cluster(started, monkeypatch):
    monkeypatch.setattr(hosts, "_on_tpu_vm", lambda: True)
    hosts.start()
    assert started == [()]


def test_one_process_needs_no_others(tmp_path):
    assert hosts.is_first() and hosts.agree(True) and not hosts.agree(False)
    hosts.wait("nobody")
    with hosts.alone():
        pass


def test_a_folder_that_is_not_shared_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts.time, "sleep", lambda seconds: None)
    hosts.check_shared(tmp_path)
    with pytest.raises(ValueError, match="--workdir must be a folder that all hosts share"):
        hosts.check_shared(pathlib.Path(tmp_path / "config.json"))
