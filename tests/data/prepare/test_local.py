"""The driver of one machine: what becomes of processes that die, of those that work, and of others."""

import functools
import multiprocessing
import os
import signal
import time

import pytest

from flamingo_jax.data.prepare import local


def work(target, index, report):
    """Writes down that it ran; dies at the media of a file, one after another, each of which crashes."""
    with open(f"{target}/ran", "a") as file:
        file.write(f"{index} {os.getpid()}\n")
    path = f"{target}/{index}.media"
    if os.path.exists(path):
        for medium in open(path).read().split():
            if medium not in open(f"{target}/out").read().split():
                open(f"{target}/{index}.now", "w").write(medium)
                os.kill(os.getpid(), signal.SIGKILL)
    report(1)


def die_elsewhere(target, index, report):
    with open(f"{target}/{index}.now", "w") as file:
        file.write(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_once(target, index, report):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(target, index, report):
    if index:
        time.sleep(600)
    raise ValueError("the raw files are bad")


def died_at(target, index):
    path = f"{target}/{index}.now"
    if not os.path.exists(path):
        return ""
    medium = open(path).read()
    os.remove(path)
    return medium


def convict(target, medium):
    with open(f"{target}/out", "a") as file:
        file.write(medium + "\n")


run = functools.partial(local.run, died_at=died_at, convict=convict)


@pytest.fixture
def target(tmp_path):
    (tmp_path / "out").touch()
    return tmp_path


def ran(target):
    """(index, whether in this process) of the work, in order."""
    lines = [line.split() for line in (target / "ran").read_text().splitlines()]
    return [(int(index), int(pid) == os.getpid()) for index, pid in lines]


def test_one_worker_works_here_but_for_what_a_process_died_at(target):
    (target / "1.now").write_text("innocent")
    seen = []
    run(work, str(target), range(3), seen.append, 1)
    assert ran(target) == [(0, True), (1, False), (2, True)] and seen == [1, 1, 1]
    assert not (target / "out").read_text()


def test_two_workers_work_elsewhere_even_on_one_thing(target):
    run(work, str(target), [5], lambda _: None, 2)
    assert ran(target) == [(5, False)]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_two_processes_die_at_is_convicted(target, workers):
    (target / "0.now").write_text("innocent")
    (target / "0.media").write_text("a b")
    run(work, str(target), [0], lambda _: None, workers)
    assert (target / "out").read_text() == "a\nb\n"


@pytest.mark.parametrize("dying", [die_elsewhere, die_at_once])
def test_processes_that_die_anywhere_convict_nothing(target, dying):
    (target / "0.now").write_text("innocent")
    with pytest.raises(OSError, match="A process ended while it prepared .*: either memory is short"):
        run(dying, str(target), [0], lambda _: None, 1)
    assert not (target / "out").read_text()


@pytest.mark.parametrize("dying", [work, fail, die_at_once])
def test_no_process_of_the_callers_is_ended(target, dying):
    """But all of its own are, at once."""
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    other.start()
    try:
        try:
            run(dying, str(target), range(2), lambda _: None, 2)
        except (ValueError, OSError):
            pass
        end = time.monotonic() + 5  # the pool's own thread waits for them too, and one of the two learns of it later
        while multiprocessing.active_children() != [other] and time.monotonic() < end:
            time.sleep(0.01)
        assert multiprocessing.active_children() == [other]
        assert not other.exitcode
    finally:
        other.kill()
        other.join()
