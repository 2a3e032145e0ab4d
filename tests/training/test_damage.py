"""Copies of the same weights that differ: nothing of them is kept, and the run goes on from before."""

import chex
import jax
import pytest
from harm import flip
from small_stage import Numbers, stage

from flamingo_jax.config import MeshConfig
from flamingo_jax.training import compiler, ending, loop, sharding
from flamingo_jax.training.checkpoint import find


def flipping(monkeypatch, step, number):
    """After update ``step`` a bit of one device's copy of a weight is another one."""
    jit = compiler.jit

    def jit_and_flip(*arguments):
        run = jit(*arguments)

        def update(state, frozen, batches):
            state, metrics = run(state, frozen, batches)
            if int(state["step"]) == step:
                table = state["params"]["embedding"]
                table["table"] = flip(table["table"], number, bit=3)
            return state, metrics

        return update

    monkeypatch.setattr(compiler, "jit", jit_and_flip)


@pytest.mark.parametrize("last", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["middle", "last update"])
def test_a_flipped_bit_ends_the_run_before_it_is_kept(model_config, tmp_path, monkeypatch, last):
    mesh = sharding.make_mesh(MeshConfig(8, 1, 1))
    whole, _ = loop.train(stage(model_config, tmp_path / "whole", Numbers(), mesh), lambda _: None)
    with monkeypatch.context() as patch:
        flipping(patch, 6 if last else 3, number=5)
        with pytest.raises(ending.Ended) as end:
            loop.train(stage(model_config, tmp_path / "cut", Numbers(), mesh, saved=True), lambda _: None)
    assert end.value.code == ending.DAMAGED
    device = mesh.devices.flat[5].id
    where = f"at step {6 if last else 3}: params/embedding/table: device {device} (process 0) has "
    assert where in end.value.sentence and "7 others" in end.value.sentence
    steps = [found.step for found in find(tmp_path / "cut" / "checkpoints")]
    assert max(steps) == (5 if last else 2)
    said = []
    again, _ = loop.train(stage(model_config, tmp_path / "cut", Numbers(), mesh), said.append)
    assert said[0] == f"language: continuing at step {max(steps)} of 6"
    chex.assert_trees_all_equal(jax.device_get(again), jax.device_get(whole))
