"""What one device computes, every mesh of eight computes too: whole updates, by one process and by two."""

import functools
import pathlib

import numpy as np
import pytest
import updates
from processes import run
from updates import MESHES, ONE, assert_same

one = functools.cache(functools.partial(updates.run, ONE))
# Objective, mixing, and the meshes that take seconds; the whole step on four kinds of datasets takes long to compile.
QUICK = {
    ("flamingo", "accumulation"): [(2, 2, 2)],
    ("language", "accumulation"): [(8, 1, 1)],
    ("language", "merged"): [],
    ("language", "round_robin"): [(1, 2, 4)],
    ("contrastive", "accumulation"): [(2, 2, 2)],
    ("contrastive", "merged"): [],
    ("contrastive", "round_robin"): [],
}
CASES = [
    pytest.param(*case, mesh, marks=() if mesh in quick else pytest.mark.slow, id=f"{' '.join(case)} {mesh}")
    for case, quick in QUICK.items()
    for mesh in MESHES
] + [
    pytest.param("flamingo", way, (2, 2, 2), marks=pytest.mark.slow, id=f"flamingo {way}")
    for way in ("merged", "round_robin")
]


@pytest.mark.parametrize("objective, way, mesh", CASES)
def test_every_mesh_makes_the_same_update(objective, way, mesh):
    assert_same(updates.run(mesh, objective, way), one(objective, way))


def test_updates_are_large_beside_what_meshes_may_differ_by():
    """All weights move, by 1e-2 in the second update, and clipping shortens what they move along."""
    found = one("flamingo", "accumulation")
    before = {name.removeprefix("weights/"): value for name, value in found.items() if name.startswith("weights/")}
    for path, value in updates.filled(before).items():
        assert np.abs(found[f"weights/{path}"] - value).max() > 5e-3, path
    assert found["update 0/grad_norm"] > 10 * updates.OPTIMIZER.clip
    assert np.ptp([found[f"update 0/loss/{name}"] for name in updates.MIXTURE]) > 0.01


def two_processes(folder, objective, meshes):
    """Each holds four of a mesh's devices: of 1x8x1 half of every weight, of 1x1x8 half of the heads, of the hidden
    units and of the vocabulary."""
    script = pathlib.Path(updates.__file__)
    run(2, 4, lambda number, address: [script, folder, number, 2, address, objective, *meshes], timeout=2000)
    for mesh in meshes:
        assert_same(dict(np.load(folder / f"{mesh}.npz")), one(objective, "accumulation"))


def test_two_processes_make_the_same_update(tmp_path):
    two_processes(tmp_path, "language", ["1x8x1", "1x1x8"])


@pytest.mark.slow
def test_two_processes_make_the_same_update_on_every_mesh(tmp_path):
    two_processes(tmp_path, "flamingo", ["x".join(map(str, mesh)) for mesh in MESHES])
