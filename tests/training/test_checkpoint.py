"""Training checkpoints: which are kept, which are found, and what is said of damaged ones and of full disks."""

import json
import pathlib
import resource
import shutil
import threading

import chex
import jax
import numpy as np
import optax
import pytest
from harm import damage
from orbax.checkpoint import v1 as ocp

from flamingo_jax.config import MeshConfig
from flamingo_jax.training import sharding
from flamingo_jax.training.checkpoint import Checkpoints, discard, find

RNG = np.random.default_rng(0)
PARAMS = {"decoder": {"kernel": RNG.standard_normal((64, 512)).astype(np.float32)}, "gate": np.ones(8, np.float32)}
OPTIMIZER = optax.adamw(1e-3)


def state(step, mesh=(1, 1, 1), params=PARAMS):
    """On the mesh, with another value at every step."""
    mesh = sharding.make_mesh(MeshConfig(*mesh), jax.devices()[: int(np.prod(mesh))])

    def put(leaf):
        leaf = np.asarray(leaf)
        spec = jax.P("fsdp", "tensor") if leaf.ndim == 2 else jax.P()
        return jax.device_put(leaf, jax.NamedSharding(mesh, spec))

    params = jax.tree.map(lambda leaf: leaf + np.float32(step), params)
    return jax.tree.map(put, {"params": params, "opt_state": OPTIMIZER.init(params), "step": np.int32(step)})


def abstract(*args, **kwargs):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0, *args, **kwargs)
    )


def write(directory, *steps, **options):
    """One attempt that saves these steps."""
    checkpoints = Checkpoints(directory, **options)
    for step in steps:
        checkpoints.save(step, state(step), {"at": 10 * step})
    checkpoints.close()
    return checkpoints


def steps(directory):
    return [f"{found.path.parent.name}/{found.step}" for found in find(directory)]


@pytest.fixture
def small_files():
    """No file may grow beyond 64 KiB, as on a disk that is full."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(bytes_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_ or old[0], old[1]))

    yield limit
    limit(None)


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_the_newest_comes_back_on_any_mesh(tmp_path, mesh):
    write(tmp_path, 3, 4, 5)
    restored, notes = Checkpoints(tmp_path).restore(abstract(mesh))
    chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(state(5)))
    assert notes == {"at": 50}
    assert restored["params"]["decoder"]["kernel"].sharding == abstract(mesh)["params"]["decoder"]["kernel"].sharding


def test_nothing_is_restored_where_nothing_was_saved(tmp_path):
    assert Checkpoints(tmp_path).restore(abstract()) is None


def test_what_is_saved_is_the_state_when_it_was_asked_for(tmp_path):
    """The next update overwrites the arrays that are being written."""
    checkpoints, current = Checkpoints(tmp_path), state(1)
    move = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    checkpoints.save(1, current, {})
    for _ in range(3):
        current = move(current)
    checkpoints.close()
    restored, _ = Checkpoints(tmp_path).restore(abstract())
    chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(state(1)))


def test_the_newest_and_every_tenth_are_kept(tmp_path):
    write(tmp_path, 8, 9, 10, 11, latest=2, every=10)
    assert steps(tmp_path) == ["1/11", "1/10"]
    write(tmp_path, 12, 20, 21, latest=2, every=10)
    assert steps(tmp_path) == ["2/21", "2/20", "1/10"]
    discard(tmp_path, every=10)
    assert steps(tmp_path) == ["2/20", "1/10"]
    discard(tmp_path)
    assert not tmp_path.exists()


@pytest.mark.parametrize("how", ["flip", "cut"])
def test_a_damaged_one_is_passed_over_and_said(tmp_path, how):
    write(tmp_path, 3, 4)
    damage(tmp_path / "1" / "4", how)
    said = []
    restored, _ = Checkpoints(tmp_path, said.append).restore(abstract())
    assert int(restored["step"]) == 3
    assert len(said) == 1 and said[0].startswith("the checkpoint of step 4 is damaged and passed over (")


def test_a_bit_that_flips_before_it_is_written_shows(tmp_path):
    """What the library itself cannot see: its own checksums are of what it got."""
    write(tmp_path, 3, 4)
    path = tmp_path / "1" / "4"
    metadata = json.loads((path / "_CHECKPOINT_METADATA").read_text())
    metadata["custom_metadata"]["sums"]["params/decoder/kernel"] ^= 1
    (path / "_CHECKPOINT_METADATA").write_text(json.dumps(metadata))
    said = []
    restored, _ = Checkpoints(tmp_path, said.append).restore(abstract())
    assert int(restored["step"]) == 3 and "checksums differ: params/decoder/kernel" in said[0]


def test_where_all_are_damaged_nothing_starts_over(tmp_path):
    write(tmp_path, 3, 4)
    for step in ("3", "4"):
        damage(tmp_path / "1" / step, "cut")
    with pytest.raises(
        ValueError, match=rf"None of the checkpoints in {tmp_path} can be read .*; or delete that folder"
    ):
        Checkpoints(tmp_path).restore(abstract())


def test_another_model_is_refused_with_a_list(tmp_path):
    write(tmp_path, 3)
    other = {"decoder": {"kernel": np.zeros((64, 256), np.float32)}, "scale": np.ones(8, np.float32)}
    with pytest.raises(ValueError) as error:
        Checkpoints(tmp_path).restore(abstract(params=other))
    said = str(error.value)
    assert f"The checkpoint {tmp_path}/1/3 is of another model" in said
    assert "params/decoder/kernel: the model has (64, 256), the checkpoint (64, 512)" in said
    assert "params/gate: the model has nothing, the checkpoint (8,)" in said
    assert "params/scale: the model has (8,), the checkpoint nothing" in said


def test_an_older_version_is_refused(tmp_path):
    ocp.save(tmp_path / "12", state(12))
    with pytest.raises(ValueError, match="12 was written by an older version; delete .* to start the stage anew"):
        Checkpoints(tmp_path)


def test_what_an_older_attempt_still_writes_is_not_found(tmp_path):
    """It was thought to be gone, and a newer one went on from step 4."""
    stale = Checkpoints(tmp_path)
    stale.save(4, state(4), {})
    stale.wait()
    newer = Checkpoints(tmp_path)
    assert int(newer.restore(abstract())[0]["step"]) == 4
    stale.save(9, state(9), {})
    stale.close()
    assert steps(tmp_path) == ["1/4"]
    newer.save(5, state(5), {})
    newer.close()
    assert steps(tmp_path) == ["2/5", "1/4"]
    assert int(Checkpoints(tmp_path).restore(abstract())[0]["step"]) == 5


def test_a_stale_one_takes_nothing_from_a_newer_one(tmp_path):
    """Else the newer one, ended before its first save, would start over."""
    stale = Checkpoints(tmp_path)
    for step in (4, 5):
        stale.save(step, state(step), {})
    stale.wait()
    assert int(Checkpoints(tmp_path).restore(abstract())[0]["step"]) == 5
    for step in (6, 7):
        stale.save(step, state(step), {})
    stale.close()
    assert int(Checkpoints(tmp_path).restore(abstract())[0]["step"]) == 5


def test_where_what_was_gone_on_from_is_gone_nothing_starts_over(tmp_path):
    write(tmp_path, 5, 6)
    newer = Checkpoints(tmp_path)
    newer.restore(abstract())
    shutil.rmtree(tmp_path / "1" / "5")
    (tmp_path / "2" / "from").write_text("5")
    with pytest.raises(ValueError, match="None of the checkpoints .* can be read .*is gone, and .*/[12]/.* is beyond"):
        Checkpoints(tmp_path).restore(abstract())


def test_notes_that_changed_show(tmp_path):
    write(tmp_path, 3, 4)
    path = tmp_path / "1" / "4" / "_CHECKPOINT_METADATA"
    before = path.read_text()
    path.write_text(before.replace('"at": 40', '"at": 41').replace('"at":40', '"at":41'))
    assert path.read_text() != before
    said = []
    restored, notes = Checkpoints(tmp_path, said.append).restore(abstract())
    assert int(restored["step"]) == 3 and notes == {"at": 30} and "the checksum of its notes differs" in said[0]


def test_what_must_be_on_the_disk_before_fails_the_save(tmp_path):
    said = []

    def full():
        raise OSError("no room for metrics")

    checkpoints = Checkpoints(tmp_path, said.append)
    checkpoints.save(1, state(1), {}, before=full)
    assert not checkpoints.wait() and not steps(tmp_path) and "no room for metrics" in said[0]
    checkpoints.close()


def test_what_a_killed_process_left_is_cleaned_away(tmp_path):
    write(tmp_path, 3)
    (tmp_path / "1" / "4.orbax-checkpoint-tmp").mkdir()
    Checkpoints(tmp_path)
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["3"]


def test_a_full_disk_is_the_saves_error_until_it_lasts(tmp_path, small_files):
    said = []
    checkpoints = Checkpoints(tmp_path, said.append, patience=0.0)
    checkpoints.save(1, state(1), {})
    assert checkpoints.wait()
    small_files(64 * 1024)
    checkpoints.save(2, state(2), {})
    assert not checkpoints.wait()
    small_files(None)
    assert said == [
        f"step 2 could not be saved, and training goes on: Cannot write {checkpoints.folder}: File too large."
    ]
    assert checkpoints.failure == (
        f"No checkpoint could be written for 0 s. Cannot write {checkpoints.folder}: File too large."
    )
    assert steps(tmp_path) == ["1/1"]  # what failed is not taken for good
    checkpoints.save(2, state(2), {})
    assert checkpoints.wait() and not checkpoints.failure
    assert steps(tmp_path) == ["1/2", "1/1"]
    checkpoints.close()


def test_a_save_does_not_hold_the_loop_up(tmp_path, monkeypatch):
    """It is given to a thread, which the next save waits for, and nobody else."""
    go, saved = threading.Event(), ocp.save
    monkeypatch.setattr(ocp, "save", lambda *args, **kwargs: go.wait(20) and saved(*args, **kwargs))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1), {})
    assert checkpoints.busy and not steps(tmp_path)
    go.set()
    checkpoints.save(2, state(2), {})
    checkpoints.close()
    assert steps(tmp_path) == ["1/2", "1/1"] and not checkpoints.busy


def test_notes_are_those_of_the_moment_of_the_save(tmp_path, monkeypatch):
    go, saved = threading.Event(), ocp.save
    monkeypatch.setattr(ocp, "save", lambda *args, **kwargs: go.wait(20) and saved(*args, **kwargs))
    checkpoints, recent = Checkpoints(tmp_path), [1]
    checkpoints.save(1, state(1), {"recent": recent})
    recent.append(2)
    go.set()
    checkpoints.close()
    assert Checkpoints(tmp_path).restore(abstract())[1] == {"recent": [1]}


def test_it_holds_trainable_weights_and_nothing_else(tmp_path):
    """Three times their size, moments with them, and no frozen byte."""
    write(tmp_path, 1)
    size = sum(path.stat().st_size for path in pathlib.Path(tmp_path / "1" / "1").rglob("*") if path.is_file())
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(PARAMS))
    assert size < 3 * weights + 64 * 1024
