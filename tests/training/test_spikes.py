"""Updates far above those before them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_stage import Numbers, stage

from flamingo_jax.config import MeshConfig
from flamingo_jax.training import loop, sharding, spikes
from flamingo_jax.training.checkpoint import find


def after(values, sigmas=6.0, turns=1):
    """Whether each of ``values``, as loss, is a spike after those before it."""

    @jax.jit
    def step(recent, now):
        spike = spikes.is_spike(recent, now, sigmas, turns)
        return spikes.record(recent, now, ~spike), spike

    recent, found = jnp.full(spikes.SHAPE, jnp.nan), []
    for value in values:
        recent, spike = step(recent, jnp.asarray([value, 1.0]))
        found.append(bool(spike))
    return found


def noise(count, seed=0):
    return 2.0 + 0.1 * np.random.default_rng(seed).standard_normal(count)


def test_a_spike_is_found_as_soon_as_half_the_window_is_known():
    for before, found in ((63, False), (64, True), (200, True)):
        assert after([*noise(before), 2.8]) == [False] * before + [found]


def test_six_sigmas_are_the_border():
    values = noise(300)
    recent = values[-128:]
    border = recent.mean() + 6 * recent.std()
    assert after([*values, border - 0.001])[-1] is False
    assert after([*values, border + 0.001])[-1] is True
    assert not any(after([*values, 0.1]))  # what is low is no spike


def test_a_spike_does_not_hide_the_next():
    assert after([*noise(128), 50.0, 2.9, 50.0, 2.0])[-4:] == [True, True, True, False]


def test_each_of_several_turns_is_compared_with_its_own():
    """Every second loss is 5; a 5 out of turn is a spike, and only there."""
    values = np.where(np.arange(200) % 2, 5.0, 2.0) + 0.01 * np.random.default_rng(0).standard_normal(200)
    assert not any(after(values, turns=2))
    assert after([*values, 5.0], turns=2)[-1] and not after([*values, 5.0])[-1]


@pytest.mark.slow
def test_a_run_skips_a_spike_and_keeps_its_memory(model_config, tmp_path):
    """A batch of other tokens, after a restart: what was before it is known from the checkpoint."""

    class Odd(Numbers):
        def __next__(self):
            odd, batch = self.next == 99, super().__next__()
            rng = np.random.default_rng(0 if odd else self.next)
            batch["tokens"] = np.where(odd, rng.integers(40, 64, (8, 12)), rng.integers(4, 8, (8, 12))).astype(np.int32)
            return batch

    mesh = sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])

    def run(steps):
        plain = stage(model_config, tmp_path, Odd(), mesh, steps, skip_spikes=3.0)
        config = dataclasses.replace(plain.config, keep_every_steps=98)
        return loop.train(dataclasses.replace(plain, config=config), said.append)

    said = []
    run(99)
    assert [found.step for found in find(tmp_path / "checkpoints")] == [98]
    _, metrics = run(104)
    assert "language: continuing at step 98 of 104" in said
    found = [line for line in said if "was not made" in line]
    assert len(found) == 1 and found[0].startswith("language: update 100 was not made: a spike, grad_norm ")
    assert metrics["skipped"] == 1
