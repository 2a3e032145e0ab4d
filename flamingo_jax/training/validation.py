"""Losses on batches that nothing is learnt from: the same ones every time, at steps of which there are checkpoints."""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from flamingo_jax.config import StageConfig
from flamingo_jax.training import metrics, sharding
from flamingo_jax.training.objective import Objective


class Validation:
    """Measures a stage's ``validation`` datasets."""

    def __init__(
        self,
        config: StageConfig,
        objective: Objective,
        streams: Mapping[str, Callable[[], object]],
        mesh: Mesh,
        round_length: int,
    ):
        """Args:

        streams: open the datasets' streams, from their beginnings.
        round_length: updates; only at its multiples and in the end is anything due.
        """
        self._config, self._streams, self._mesh = config, streams, mesh
        self.every = math.lcm(config.validate_every_steps, round_length)  # 0 for never

        def measure(params, frozen, batch):
            weight = jnp.ones(()) if objective.weight is None else objective.weight(batch)
            return jnp.stack([weight * objective.loss(params, frozen, batch), weight])

        self._measure = jax.jit(measure, out_shardings=sharding.replicated(mesh))

    def due(self, step: int) -> bool:
        """Whether step ``step`` is one to measure after."""
        return bool(self.every) and (step % self.every == 0 or step == self._config.steps)

    def run(self, params: dict, frozen: dict, go_on: Callable[[], bool] = lambda: True) -> dict[str, float]:
        """{"loss/NAME": the mean over all tokens that count (or of batches, where losses are no means over tokens),
        "loss": the mean of these, weighted as the datasets are}; {} when ``go_on``, asked after every batch, says no.
        """
        config, found = self._config, {}
        for name in config.validation:
            total = jnp.zeros(2)
            with contextlib.closing(self._streams[name]()) as stream:
                for _ in range(config.validate_batches):
                    batch = sharding.put_batch(self._mesh, next(stream))
                    total += jax.device_get(self._measure(params, frozen, batch))
                    if not go_on():
                        return {}
            found[f"loss/{name}"] = float(total[0] / jnp.maximum(total[1], 1e-9))
        weights = {name: mix.weight for name, mix in config.validation.items()}
        mean = sum(weight * found[f"loss/{name}"] for name, weight in weights.items()) / sum(weights.values())
        return {**found, "loss": mean}


def best(directory: pathlib.Path, count: int) -> set[int]:
    """The ``count`` steps with the lowest loss in a stage's ``validation.jsonl``, of equals the later ones."""
    if not count or not (directory / metrics.VALIDATION).exists():
        return set()
    lines = [line for line in metrics.read(directory, metrics.VALIDATION) if math.isfinite(line["loss"])]
    return {line["step"] for line in sorted(lines, key=lambda line: (line["loss"], -line["step"]))[:count]}
