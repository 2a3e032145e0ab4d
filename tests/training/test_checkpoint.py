"""What stays on disk, and what is said, when a checkpoint cannot be written."""

import resource

import numpy as np
import pytest

from flamingo_jax.training import checkpoint

WEIGHTS = {"a": np.random.default_rng(0).standard_normal((400, 400)).astype(np.float32)}


@pytest.fixture
def small_files():
    """No file may grow beyond 64 KiB, as on a disk that is full."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_weights_that_do_not_fit_leave_nothing_that_looks_whole(tmp_path, small_files):
    with pytest.raises(OSError, match=rf"Cannot write {tmp_path}/weights/x-[0-9a-f]+: File too large\.$"):
        checkpoint.store_weights(tmp_path, "x", WEIGHTS)
    assert not [path for path in (tmp_path / "weights").iterdir() if "tmp" not in path.name]


def test_a_checkpoint_that_does_not_fit_is_named_and_not_found_again(tmp_path, small_files):
    checkpoints = checkpoint.make_checkpointer(tmp_path)
    with pytest.raises(OSError, match=rf"Cannot write {tmp_path}: File too large\.$"):
        checkpoint.save(checkpoints, 1, WEIGHTS, {})
    with pytest.raises(OSError, match=rf"Cannot write {tmp_path}: "):
        checkpoint.close(checkpoints)
    assert checkpoint.make_checkpointer(tmp_path).latest is None


def test_a_checkpoint_of_an_older_version_is_refused(tmp_path):
    checkpoints = checkpoint.make_checkpointer(tmp_path)
    checkpoint.save(checkpoints, 1, WEIGHTS, {"m3w": 800})
    with pytest.raises(ValueError, match=r"step 1 in .* is of an older version.* delete that folder"):
        checkpoint.restore(checkpoints, WEIGHTS)
    checkpoint.close(checkpoints)


def test_weights_stored_twice_are_stored_once(tmp_path):
    first, second = (checkpoint.store_weights(tmp_path, "x", WEIGHTS) for _ in range(2))
    assert first == second and len(list((tmp_path / "weights").iterdir())) == 1
    np.testing.assert_array_equal(checkpoint.load_weights(tmp_path, first)["a"], WEIGHTS["a"])
