"""Updates with something in them that is not finite."""

import pytest

from flamingo_jax.training import ending
from flamingo_jax.training.skips import Skips


class Stream:
    def records(self, state):
        return [("00000.array_record", state + i) for i in range(30)]


def skips(said=None, most=2):
    return Skips({"m3w": Stream(), "ltip": Stream()}, most, (said if said is not None else []).append)


def metrics(skipped):
    return {"loss/m3w": float("nan") if skipped else 2.5, "grad_norm": 0.5, "skipped": float(skipped)}


def test_they_are_counted_and_said():
    said = []
    count = skips(said)
    found = [count.add(step, metrics(step in (2, 4)), {"m3w": 0})["skipped"] for step in range(1, 6)]
    assert found == [0, 1, 1, 2, 2]
    assert said == [f"update {step} was not made: loss/m3w nan, grad_norm 0.5" for step in (2, 4)]


def test_too_many_end_the_run_and_name_what_they_read():
    count = skips()
    for step in (10, 11):
        count.add(step, metrics(True), {"m3w": 30 * step})
    with pytest.raises(ending.Ended) as end:
        count.add(12, metrics(True), {"ltip": 7})
    assert end.value.code == ending.DIVERGED
    lines = end.value.sentence.splitlines()
    assert lines[0].startswith("3 of the last 12 updates had a loss or gradients that were not finite or spiked")
    assert lines[1].startswith("  step 10, m3w: 00000.array_record:300, 00000.array_record:301, ")
    assert lines[1].endswith("00000.array_record:319 and 10 more")
    assert lines[3].startswith("  step 12, ltip: 00000.array_record:7, ")


def test_old_ones_are_forgiven():
    count = skips()
    for step in (1, 2, 1500, 1501):
        count.add(step, metrics(True), {"m3w": 0})
    with pytest.raises(ending.Ended, match=str(ending.DIVERGED)):
        count.add(1502, metrics(True), {"m3w": 0})


def test_the_count_outlives_a_restart():
    before, after = skips(), skips()
    for step in (1, 2):
        before.add(step, metrics(True), {"m3w": 0})
    after.restore(before.state())
    assert after.add(3, metrics(False), {"m3w": 0})["skipped"] == 2
    with pytest.raises(ending.Ended):
        after.add(4, metrics(True), {"m3w": 0})
