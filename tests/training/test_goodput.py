"""The ledger: every second is in one bucket, also of runs that were killed; what was trained in vain is lost."""

import dataclasses
import itertools
import time

import jax
import pytest
import stage as script

from flamingo_jax.config import MeshConfig
from flamingo_jax.training import clock, goodput, ledger, loop, sharding


class Clock:
    """The time, of which so much passes as a test says."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def book(tmp_path):
    """() -> the ledger of another start, the clock that all of them see, and the path of their file."""
    time, path = Clock(), tmp_path / goodput.FILE

    def start(**options):
        made = ledger.Ledger(path, every=0, clock=time, now=time, **options)
        made.begin()
        return made

    return start, time, path


def nonzero(seconds):
    return {name: value for name, value in seconds.items() if value}


def train(made, time, first, last, seconds=1.0, stage="flamingo"):
    """Trains a stage in steps of so many seconds, and writes a line every ten steps."""
    with made.training(stage, first):
        for step in range(first + 1, last + 1):
            time.now += seconds
            made.done(step)
            if step % 10 == 0:
                made.write()


def test_every_second_is_in_one_bucket(book):
    start, time, path = book
    made = start(begun=993.0)
    time.now += 3
    with made.during("restore"):
        time.now += 4
    time.now += 1
    with made.training("language", 0):
        with made.during("compile"):
            time.now += 20
        time.now += 51
        with made.during("data"):
            time.now += 9
        made.move(3, "data", "train")
        with made.during("save"):
            time.now += 2
    with made.during("evaluation"):
        time.now += 5
    made.close(complete=True)
    found = goodput.summary(path)
    expected = {"train": 54, "start": 11, "compile": 20, "restore": 4, "data": 6, "save": 2, "evaluation": 5}
    assert nonzero(found) == expected and set(found) == set(goodput.BUCKETS)
    assert sum(found.values()) == time.now - 993


def test_more_than_there_was_is_not_taken_away(book):
    start, time, path = book
    made = start()
    with made.training("language", 0):
        with made.during("data"):
            time.now += 2
        made.move(3, "data", "train")
    made.close()
    assert nonzero(goodput.summary(path)) == {"train": 2}


def test_an_error_leaves_the_buckets_in_order(book):
    start, time, path = book
    made = start()
    with pytest.raises(KeyError), made.training("language", 0), made.during("compile"):
        time.now += 7
        raise KeyError
    time.now += 1
    made.close()
    assert nonzero(goodput.summary(path)) == {"compile": 7, "start": 1}


def test_what_was_trained_beyond_the_checkpoint_is_lost(book):
    """A killed start (its lines end at step 40) from which step 25 was saved, and one that begins 50 s later."""
    start, time, path = book
    train(start(), time, 0, 40)
    time.now += 50
    train(start(), time, 25, 45, seconds=2.0)
    assert nonzero(goodput.summary(path)) == {"train": 25 + 40, "lost": 15, "down": 50}
    first, second = goodput.starts(path)
    assert (first["begin"], first["end"], second["begin"], second["end"]) == (1000, 1040, 1090, 1130)
    assert nonzero(first["seconds"]) == {"train": 25, "lost": 15}


def test_an_older_checkpoint_makes_more_than_one_start_lose(book):
    """Starts that trained steps 0 to 40, 30 to 50, 20 to 25 and 25 to 60; another stage is left alone."""
    start, time, path = book
    made = start()
    train(made, time, 0, 100, stage="language")
    train(made, time, 0, 40)
    for first, last in ((30, 50), (20, 25), (25, 60)):
        train(start(), time, first, last)
    assert [each["seconds"]["lost"] for each in goodput.starts(path)] == [20, 20, 0, 0]
    assert nonzero(goodput.summary(path)) == {"train": 100 + 60, "lost": 40}


def test_a_stage_that_starts_anew_has_lost_everything(book):
    start, time, path = book
    train(start(), time, 0, 40)
    train(start(), time, 30, 50)
    train(start(), time, 0, 50)
    assert nonzero(goodput.summary(path)) == {"train": 50, "lost": 60}


def test_what_hung_after_its_last_step_is_lost(book):
    start, time, path = book
    made = start()
    with made.training("flamingo", 0):
        for step, seconds in ((10, 10), (20, 10), (20, 500)):
            time.now += seconds
            made.done(step)
            made.write()
    train(start(), time, 20, 30)
    assert nonzero(goodput.summary(path)) == {"train": 30, "lost": 500}


def test_a_torn_line_is_read_past(book):
    """A kill in the middle of a line, and a start that goes on after it."""
    start, time, path = book
    train(start(), time, 0, 10)
    path.write_bytes(path.read_bytes()[:-9])  # the last line, of the end of training, says what the one before says
    before = goodput.summary(path)
    assert nonzero(before) == {"train": 10}
    time.now += 5
    train(start(), time, 10, 20)
    assert nonzero(goodput.summary(path)) == {"train": 20, "down": 5}
    assert len(path.read_bytes().splitlines()) == len(goodput.read(path)) + 1


def test_starts_are_numbered_and_do_not_overlap(book):
    """Two in one process, of which both are told when that began."""
    start, time, path = book
    for _ in range(2):
        made = start(begun=900.0)
        time.now += 10
        made.close()
    assert [line["start"] for line in goodput.read(path)] == [1, 1, 2, 2]
    assert nonzero(goodput.summary(path)) == {"start": 120}


def test_after_the_run_is_complete_nothing_is_down(book):
    start, time, path = book
    for complete in (False, True, False):
        made = start()
        time.now += 1
        made.close(complete)
        time.now += 100
    assert nonzero(goodput.summary(path)) == {"start": 3, "down": 100}


def test_a_start_that_does_nothing_leaves_no_line(tmp_path):
    made = ledger.Ledger(tmp_path / goodput.FILE)
    made.close(complete=True)
    assert not list(tmp_path.iterdir()) and goodput.summary(tmp_path / goodput.FILE) == {}


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ledger.Ledger().training("language", 0):
        pass
    assert not list(tmp_path.iterdir())


def test_a_line_that_cannot_be_written_is_left_out(book, monkeypatch):
    start, time, path = book
    made = start()
    path.rename(path.with_name("aside"))
    path.mkdir()
    with made.training("language", 0):
        time.now += 5
    path.rmdir()
    path.with_name("aside").rename(path)
    made.close()
    assert nonzero(goodput.summary(path)) == {"train": 5} and len(goodput.read(path)) == 2


def test_lines_are_written_while_nothing_happens(tmp_path):
    """So that a kill in the middle of a long compilation costs little; none comes after the end."""
    path = tmp_path / goodput.FILE
    made = ledger.Ledger(path, every=0.02)
    made.begin()
    with made.during("compile"):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and sum(line["now"] == "compile" for line in goodput.read(path)) < 3:
            time.sleep(0.02)
    made.close(complete=True)
    lines = goodput.read(path)
    assert sum(line["now"] == "compile" for line in lines) >= 3 and "complete" in lines[-1]
    time.sleep(0.1)
    assert goodput.read(path) == lines
    assert all(one["time"] <= other["time"] for one, other in itertools.pairwise(lines))


def test_the_sentence():
    assert goodput.sentence({"train": 75.0, "start": 5.0, "down": 19.99, "data": 0.01}) == (
        "goodput: trained 75.0 % of 1:40; down 20.0 %, start 5.0 %"
    )
    assert goodput.sentence({"train": 2.0}) == "goodput: trained 100.0 % of 0:02"


def test_the_process_knows_when_it_began():
    assert time.time() - 86400 < clock.process_start() <= time.time() - time.process_time() / 64


def test_a_stage_tells_where_its_time_goes(tmp_path):
    """Trained to step 8, of which step 4 is saved, and from there on; its batches take their time."""
    path, begun, pause = tmp_path / goodput.FILE, time.time(), 0.2
    mesh = sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])

    def run(steps):
        made = ledger.Ledger(path, every=0.05)
        plain = script.stage(tmp_path, steps, pause)
        mixture = {"packed": plain.config.mixture["packed"]}
        config = dataclasses.replace(plain.config, keep_every_steps=4, mixture=mixture)
        streams = {"packed": plain.streams["packed"]}
        one = dataclasses.replace(plain, ledger=made, config=config, streams=streams, mesh=mesh)
        loop.train(one, lambda line: None)
        made.close()

    run(8)
    run(10)
    taken, whole, lines = time.time() - begun, goodput.summary(path), goodput.read(path)
    assert sum(whole.values()) == pytest.approx(taken, abs=0.5)
    assert {(line["start"], line["from"]) for line in lines if "from" in line} == {(1, 0), (2, 4)}
    assert [line["step"] for line in lines if line.get("stage") == "language"][-1] == 10 and "step" not in lines[-1]
    first, second = (start["seconds"] for start in goodput.starts(path))
    for seconds, steps in ((first, 8), (second, 6)):
        assert seconds["compile"] > 0.2 and seconds["train"] > 0 and seconds["start"] > 0
        assert steps / 2 * pause < seconds["data"] < steps * pause + 2
    assert first["save"] > 0 and second["restore"] > first["restore"]
    assert 0 < first["lost"] < first["train"] + first["lost"] and second["lost"] == 0
