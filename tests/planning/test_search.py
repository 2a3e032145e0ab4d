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
    """One after another, as they turn out to fit or not."""
    middle = sorted(choice.bytes for choice in ranked)[len(ranked) // 2]
    first = search.best(ranked, middle, {})
    assert first == next(choice for choice in ranked if choice.bytes < middle)
    second = search.best(ranked, middle, {first: middle})  # it fits: another mesh, or another rematerialisation
    assert (second.mesh, second.remat) != (first.mesh, first.remat) and second.bytes < middle
    wrong = 1.01 * middle / first.bytes
    third = search.best(ranked, middle, {first: wrong * first.bytes})  # it does not: all are taken to be as wrong
    assert third.bytes * wrong < middle
    assert search.best(ranked, 1.0, {}) is None and search.best([], 1.0, {}) is None


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
    """Those alone that differ from the config's."""
    for choice in ranked[:: len(ranked) // 10]:
        options = dict(part.removeprefix("--").split("=") for part in choice.text.split())
        mesh, before = choice.mesh, config.stages["flamingo"].mixture
        assert options.pop("mesh") == f"{mesh.data}x{mesh.fsdp}x{mesh.tensor}"
        assert options.pop("config.mesh.frozen", config.mesh.frozen) == mesh.frozen
        assert options.pop("config.model.remat", config.model.remat) == choice.remat
        mixture = search.apply(config, "flamingo", choice).stages["flamingo"].mixture
        changed = {name: mix.microbatches for name, mix in mixture.items() if mix != before[name]}
        prefix = "config.stages.flamingo.mixture"
        assert options == {f"{prefix}.{name}.microbatches": str(count) for name, count in changed.items()}
    assert any("microbatches" in choice.text for choice in ranked)
