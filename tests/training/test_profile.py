"""Profiles: what is in a trace, and what becomes of one that cannot be made."""

import jax
import jax.numpy as jnp
import pytest

from flamingo_jax.training.profile import Profile


def drive(profile, first, last, died_at=0):
    """Updates as the loop has them."""
    state = {"step": jnp.zeros(())}
    for update in range(first, last + 1):
        profile.before(update, state)
        with jax.profiler.StepTraceAnnotation("stage", step_num=update):
            state = {"step": state["step"] + 1}
        if update == died_at:
            raise KeyboardInterrupt
        profile.after(update, state)


def traced(directory):
    """{trace: the updates in it}."""
    found = {}
    for path in directory.glob("plugins/profile/*/*.xplane.pb"):
        planes = jax.profiler.ProfileData.from_file(str(path)).planes
        events = [event for plane in planes for line in plane.lines for event in line.events]
        found[path.parent.name] = [dict(event.stats)["step_num"] for event in events if event.name == "stage"]
    return found


@pytest.mark.filterwarnings("ignore:builtin type event_stats")
def test_a_trace_has_the_updates_that_were_asked_for(tmp_path):
    said = []
    profile = Profile(tmp_path, (3, 5), 1, said.append)
    drive(profile, 1, 8)
    profile.close()
    assert traced(tmp_path) == {"updates_3_to_5": [3, 4, 5]}
    assert said == [f"profile of updates 3 to 5: {tmp_path}"]


@pytest.mark.filterwarnings("ignore:builtin type event_stats")
@pytest.mark.parametrize("start, expected", [(2, [4, 5]), (4, []), (6, [])])
def test_a_run_that_goes_on_traces_what_is_left(tmp_path, start, expected):
    """Its first update is compiled."""
    drive(Profile(tmp_path, (3, 5), start + 1, lambda line: None), start + 1, 8)
    assert traced(tmp_path) == ({"updates_4_to_5": expected} if expected else {})


def test_no_profile(tmp_path):
    drive(Profile(tmp_path, (), 1, lambda line: None), 1, 3)
    assert not list(tmp_path.iterdir())


def test_one_that_was_cut_leaves_the_next_alone(tmp_path):
    cut = Profile(tmp_path / "cut", (2, 5), 1, lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        drive(cut, 1, 5, died_at=3)
    cut.close()
    drive(Profile(tmp_path / "next", (2, 2), 1, lambda line: None), 1, 3)
    assert list((tmp_path / "next").glob("plugins/profile/updates_2_to_2/*.xplane.pb"))


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def full():
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", full)
    with pytest.raises(OSError, match=f"Cannot write the profile to {tmp_path}: No space left on device"):
        drive(Profile(tmp_path, (2, 2), 1, lambda line: None), 1, 3)
