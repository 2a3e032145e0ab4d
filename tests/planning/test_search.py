"""The search: what divides, ranked; choices that fit."""

import dataclasses
import pathlib
import runpy

import jax
import numpy as np
import pytest

from flamingo_jax import config as configs
from flamingo_jax.planning import links, search
from flamingo_jax.training import sharding
from flamingo_jax.training.chips import CHIPS

BASE = pathlib.Path(__file__).parents[2] / "configs" / "base.py"
CHIP = CHIPS["v5e"]


def ring(mesh):
    return links.Links(CHIP, np.array([(0, i) for i in range(mesh.devices.size)]), (mesh.devices.size,))


@pytest.fixture(scope="module")
def config():
    raw = runpy.run_path(str(BASE))["get_config"]()
    for mix in raw.stages.flamingo.mixture.values():
        mix.update(batch_size=16 * mix.get("pack", 1))
    return configs.build(raw)


@pytest.fixture(scope="module")
def ranked(config):
    return search.choices(config, "flamingo", jax.devices(), ring, 10**12)


def test_all_that_divides_is_there_once(config, ranked):
    assert len(ranked) == len({dataclasses.replace(choice, seconds=0.0, bytes=0.0, text="") for choice in ranked})
    assert [choice.seconds for choice in ranked] == sorted(choice.seconds for choice in ranked)
    heads = config.model.language.heads
    sizes = {(choice.mesh.data, choice.mesh.fsdp, choice.mesh.tensor) for choice in ranked}
    assert sizes and all(np.prod(size) == 8 and heads % size[2] == 0 for size in sizes)
    for choice in ranked:
        changed, mesh = search.apply(config, "flamingo", choice), sharding.make_mesh(choice.mesh)
        for name, mix in changed.stages["flamingo"].mixture.items():
            sharding.check_batch(mesh, name, mix)
        assert changed.model.remat == choice.remat and changed.mesh == choice.mesh


def test_what_is_kept_and_what_is_replicated_needs_memory(ranked):
    held = {(c.mesh, c.remat, c.microbatches): c.bytes for c in ranked}
    for (mesh, remat, pieces), size in held.items():
        if remat == "dots":
            assert size > held[mesh, "layers", pieces] > 0
        if mesh.frozen == "replicated":
            assert size > held[dataclasses.replace(mesh, frozen="sharded"), remat, pieces]
        if pieces > 1:
            assert size < held[mesh, remat, 1]


def test_the_best_fit(ranked):
    middle = sorted(choice.bytes for choice in ranked)[len(ranked) // 2]
    found = search.best(ranked, middle, 3)
    assert len(found) == 3 and all(choice.bytes < middle for choice in found)
    assert len({(choice.mesh, choice.remat) for choice in found}) == 3
    with pytest.raises(ValueError, match="Nothing seems to fit into 0 GiB: --mesh=.* needs least"):
        search.best(ranked, 1.0, 3)
    with pytest.raises(ValueError, match="No mesh of these devices divides"):
        search.best([], 1.0, 3)


def test_the_nearest_that_fits_changes_least(ranked):
    own = max(ranked, key=lambda choice: choice.bytes)
    mesh = {axis: getattr(own.mesh, axis) for axis in sharding.MESH_AXES}
    plan = {"mesh": mesh, "frozen": own.mesh.frozen, "remat": own.remat, "microbatches": {"m3w": own.microbatches}}
    plan["memory_bytes"] = {"peak": 2 * own.bytes, "chip": 1.9 * own.bytes}  # the rough sum was half of what it is
    near = search.nearest(ranked, plan)
    assert 2 * near.bytes < 1.9 * own.bytes and near != own
    plan["memory_bytes"]["chip"] = 1.0
    assert search.nearest(ranked, plan) is None


def test_a_choice_is_told_as_the_options_that_make_it(config, ranked):
    choice = next(choice for choice in ranked if choice.microbatches > 1 and choice.mesh.tensor > 1)
    options = dict(part.removeprefix("--").split("=") for part in choice.text.split())
    mesh = choice.mesh
    assert options.pop("mesh") == f"{mesh.data}x{mesh.fsdp}x{mesh.tensor}"
    assert options.pop("config.mesh.frozen") == mesh.frozen and options.pop("config.model.remat") == choice.remat
    mixture = search.apply(config, "flamingo", choice).stages["flamingo"].mixture
    prefix = "config.stages.flamingo.mixture"
    assert options == {f"{prefix}.{name}.microbatches": str(mix.microbatches) for name, mix in mixture.items()}
