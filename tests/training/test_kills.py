"""Real runs that are killed, moved to other processes, whose disk is full or whose newest checkpoint is damaged: they
lose the work since their last save, and nothing else."""

import json

import kills
import numpy as np
import pytest
import victim
from harm import damage
from kills import Kill, Row

from flamingo_jax.training import ending, metrics, outcome


def test_a_plan_has_every_phase_and_is_the_seeds():
    one = kills.plan(50, 3, 2)
    assert one == kills.plan(50, 3, 2) != kills.plan(50, 4, 2)
    counts = [sum(kill.phase == name for kill in one) for name in victim.PHASES]
    assert sum(counts) == 50 and max(counts) - min(counts) <= 1
    assert {kill.who for kill in one} == {"0", "1", "all"}
    assert {kill.entry for kill in one if kill.phase in ("restore", "store")} == {1}
    assert {kill.who for kill in kills.plan(9, 0, 1)} == {"0"}


def test_a_kill_is_read_as_it_is_written():
    name, entry, delay, who = str(Kill("after rename", 2, 0.0131, "all")).split(":")
    assert (name, int(entry), float(delay), who) == ("after rename", 2, 0.0131, "all")


@pytest.mark.parametrize(
    "said, step", [("", None), ("language 1/18  loss", 0), ("x\nlanguage: continuing at step 6 of 18", 6)]
)
def test_where_a_run_went_on_is_read(said, step):
    assert kills.resumed(said) == step


def log(folder, process, *lines):
    (folder / "examples").mkdir(parents=True, exist_ok=True)
    with (folder / "examples" / f"{process}.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": step, "rows": {"pages": rows}}) + "\n" for step, rows in lines)


def finish(folder, weight=1.0, content="{}"):
    outcome.write_result(folder, {"weights": outcome.store_weights(folder, "a", {"a": np.float32(weight)})})
    for name in (metrics.FILE, metrics.VALIDATION):
        (folder / name).write_text(content)


def test_differences_are_found(tmp_path):
    """Whatever processes read the rows; also in an update that was made again."""
    whole, same, other, twice = (tmp_path / name for name in ("whole", "same", "other", "twice"))
    log(whole, 0, (1, {"0": "a", "1": "b"}), (2, {"0": "c", "1": "d"}))
    for folder in (same, twice):
        log(folder, 0, (1, {"0": "a"}), (2, {"0": "c"}), (2, {"0": "c"}))
        log(folder, 1, (1, {"1": "b"}), (2, {"1": "d"}))
    log(twice, 1, (2, {"1": "e"}))
    log(other, 0, (1, {"0": "c", "1": "d"}), (2, {"0": "a", "1": "b"}))
    for folder, *content in ((whole,), (same,), (twice,), (other, np.nextafter(np.float32(1), 2), "{} ")):
        finish(folder, *content)
    assert kills.differences(whole, same) == []
    assert kills.differences(whole, twice) == ["examples"]
    assert kills.differences(whole, other) == ["weights", "metrics", "examples"]


def test_the_table_says_what_was_lost_and_what_differs():
    rows = {"update": Row(2, [3, 4]), "write": Row(1, [0], {"metrics", "resumed"}), "delete": Row()}
    assert kills.table(rows).splitlines()[2:] == [
        "| update | 2 | 3.5 | 4 | yes | yes | yes |",
        "| write | 1 | 0.0 | 0 | no | no | yes |",
        "| delete | 0 | - | - | yes | yes | yes |",
    ]


def test_the_newest_save_is_the_last_whole_one(tmp_path):
    assert kills.saved(tmp_path) == 0
    for name in ("1/6", "1/9.orbax-checkpoint-tmp", "2/8", "2/from"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert kills.saved(tmp_path) == 8
    outcome.write_result(tmp_path, {"steps": 18})
    assert kills.saved(tmp_path) == 18


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run by two processes."""
    return kills.prepare(tmp_path_factory.mktemp("kills"), 2)


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_bits_and_examples(undisturbed):
    rows = kills.campaign(undisturbed.parent, 10, 0, 2)
    assert sum(row.kills for row in rows.values()) == 10 and all(row.kills for row in rows.values())
    assert not any(row.wrong for row in rows.values()), kills.table(rows)


@pytest.mark.slow
def test_it_goes_on_by_one_process_and_by_four(undisturbed):
    """Sums go round a ring of devices, whosever these are."""
    moved = undisturbed.parent / "moved"
    assert kills.live(moved, 2, kills.STEPS, Kill("after rename", 2, 0.0, "0")).killed
    one = kills.live(moved, 1, kills.STEPS, Kill("after rename", 1, 0.0, "0"))
    assert one.killed and 0 < one.resumed < kills.saved(moved)
    assert kills.live(moved, 4, kills.STEPS).resumed > one.resumed
    assert kills.differences(undisturbed, moved) == []
    contents = [str(rows) for rows in kills.examples(moved).values()]
    assert len(set(contents)) == len(contents) == kills.STEPS  # or an order would not show


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_process_fails_the_save_for_all(undisturbed):
    """Which is said, and the next one is whole. What failed is not among the checkpoints that a restart finds."""
    full = undisturbed.parent / "full"
    life = kills.live(full, 2, kills.STEPS, Kill("after rename", 2, 0.0, "all"), HARM="full:1:2")
    assert life.killed
    told = [[line for line in said.splitlines() if "could not be saved" in line] for said in life.said]
    assert [len(lines) for lines in told] == [1, 1], life.said
    assert "File too large" in told[1][0] and "process 1 could not; its log says why" in told[0][0]
    failed = int(told[0][0].split("step ")[1].split()[0])
    assert failed == int(told[1][0].split("step ")[1].split()[0])
    assert not list(full.glob(f"checkpoints/1/{failed}*")) and kills.saved(full) > failed
    again = kills.live(full, 2, kills.STEPS)
    assert again.resumed > failed
    assert kills.differences(undisturbed, full) == []


@pytest.mark.slow
def test_two_processes_pass_over_a_damaged_checkpoint(undisturbed):
    cut = undisturbed.parent / "damaged"
    assert kills.live(cut, 2, kills.STEPS, Kill("after rename", 3, 0.0, "0")).killed
    newest = kills.saved(cut)
    (path,) = cut.glob(f"checkpoints/*/{newest}")
    damage(path)
    life = kills.live(cut, 2, kills.STEPS)
    assert all(f"the checkpoint of step {newest} is damaged and passed over (" in said for said in life.said)
    assert 0 < life.resumed < newest
    assert kills.differences(undisturbed, cut) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "code", "sentences"),
    [
        ("flip:1:8", ending.DAMAGED, ["copies of the same weights differ, at step ", "(process 1) has "]),
        ("hang:1:8", ending.HUNG, ["nothing has moved for 1"]),
        ("full:1:2:", 1, ["No checkpoint could be written for 0 s. Cannot write "]),
    ],
    ids=["a flipped bit", "a hang", "a full disk that lasts"],
)
def test_two_processes_end_with_one_code_and_the_same_command_goes_on(undisturbed, harm, code, sentences):
    folder = undisturbed.parent / harm.replace(":", "_")
    life = kills.live(folder, 2, kills.STEPS, code=code, HARM=harm)
    for sentence in sentences:
        assert all(sentence in said for said in life.said), life.said
    assert ["in wait_for_nothing" in said for said in life.said] == [False, code == ending.HUNG]
    newest = kills.saved(folder)
    assert 0 < newest < kills.STEPS
    assert kills.live(folder, 2, kills.STEPS).resumed == newest
    assert kills.differences(undisturbed, folder) == []


@pytest.mark.slow
def test_two_processes_that_diverge_name_their_records_and_end(undisturbed):
    folder = undisturbed.parent / "diverged"
    for _ in range(2):
        newest = kills.saved(folder)
        life = kills.live(folder, 2, kills.STEPS, code=ending.DIVERGED, HARM="nan::3")
        assert life.resumed == newest < 6
        assert all("3 of the last 6 updates had a loss or gradients that were not" in said for said in life.said)
        assert all("step 6, pages: " in said and "step 4, packed: " in said for said in life.said), life.said
