"""AdamW as in the paper (B.1.2): clip by global norm, linear warm-up, constant rate, no decay on the resampler."""

from __future__ import annotations

import jax
import optax

from flamingo_jax.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear from 0 over ``warmup`` steps, constant, then linear to 0 over the last ``decay_fraction`` of ``steps``."""
    decay = int(steps * config.decay_fraction)
    warm = optax.linear_schedule(0.0, config.learning_rate, max(config.warmup, 1))
    if not decay:
        return warm
    cool = optax.linear_schedule(config.learning_rate, 0.0, decay)
    return optax.join_schedules([warm, cool], [steps - decay])


def decayed(params: dict) -> dict:
    """Which weights decay: matrices and convolutions (``kernel``), but none of the resampler's (paper B.1.2)."""

    def decays(path, _):
        names = [entry.key for entry in path]
        return names[-1] == "kernel" and "resampler" not in names

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(learning_rate(config, steps), config.b1, config.b2, weight_decay=config.weight_decay, mask=decayed),
    )
