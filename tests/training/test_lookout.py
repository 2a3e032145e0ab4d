"""When the loop saves and looks for signals."""

import jax
import pytest

from flamingo_jax.training import ending, hosts
from flamingo_jax.training.lookout import Due, Lookout


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_one_process_saves_at_the_ends_of_rounds_when_time_is_up_but_for_the_last():
    clock = Clock()
    look = Lookout(10.0, start=4, round_length=2, steps=20, clock=clock)
    saved = []
    for step in range(5, 21):
        clock.now += 3.0
        if look.after(step).save:
            saved.append(step)
    assert saved == [8, 12, 16]


def test_a_signal_saves_and_stops(monkeypatch):
    look = Lookout(1e9, start=0, round_length=3, steps=9)
    monkeypatch.setattr(ending, "asked", lambda: True)
    assert [look.after(step) for step in (1, 2, 3)] == [Due(), Due(), Due(save=True, stop=True)]
    assert look.after(9) == Due()  # the stage ends anyway


def test_a_reason_to_end_is_told_at_the_next_look():
    reasons = ["", "the disk is full"]
    look = Lookout(1e9, start=0, round_length=2, steps=9, end=lambda: reasons.pop(0))
    assert [look.after(step) for step in (1, 2, 3, 4)] == [Due(), Due(), Due(), Due(end="the disk is full")]


def test_several_look_once_a_second(monkeypatch):
    """After steps of 0.1 s: at 1, 3, 7 and then every tenth; after one that took a minute, at the next."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    clock, looks = Clock(), []
    monkeypatch.setattr(hosts, "agree", lambda choice: looks.append(step) or choice)
    look = Lookout(1e9, start=0, round_length=1, steps=100, clock=clock)
    for step in range(1, 40):
        clock.now += 60.0 if step == 30 else 0.1
        look.after(step)
    assert looks[:3] == [1, 3, 7] and looks[3] == pytest.approx(15, abs=1)
    assert looks[4] - looks[3] == pytest.approx(10, abs=1)
    after = next(i for i, at in enumerate(looks) if at >= 30)
    assert looks[after + 1] == looks[after] + 1
