"""What finished stages leave on the disk."""

import resource

import numpy as np
import pytest
from harm import damage

from flamingo_jax.training import outcome

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
        outcome.store_weights(tmp_path, "x", WEIGHTS)
    assert not [path for path in (tmp_path / "weights").iterdir() if "tmp" not in path.name]


def test_weights_stored_twice_are_stored_once(tmp_path):
    first, second = (outcome.store_weights(tmp_path, "x", WEIGHTS) for _ in range(2))
    assert first == second and len(list((tmp_path / "weights").iterdir())) == 1
    np.testing.assert_array_equal(outcome.load_weights(tmp_path, first)["a"], WEIGHTS["a"])


def test_weights_that_changed_on_the_disk_are_refused(tmp_path):
    """The library reads them without a word."""
    name = outcome.store_weights(tmp_path, "x", WEIGHTS)
    damage(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        outcome.load_weights(tmp_path, name)
