"""AdamW as in the paper (B.1.2): clip by global norm, linear warm-up, constant rate, no decay on the resampler."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from flamingo_jax.config import OptimizerConfig
from flamingo_jax.models.parts import part_of


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear from 0 over ``warmup`` steps, constant, then linear to 0 over the last ``decay_fraction`` of ``steps``."""
    warmup, decay = max(config.warmup, 1), steps * config.decay_fraction

    def rate(step):
        share = jnp.minimum(step / warmup, 1.0)
        return config.learning_rate * (jnp.minimum(share, (steps - step) / decay) if decay else share)

    return rate


def decayed(params: dict) -> dict:
    """Which weights decay: matrices and convolutions (``kernel``), but none of the resampler's (paper B.1.2)."""

    def decays(path, _):
        names = [entry.key for entry in path]
        return names[-1] == "kernel" and "resampler" not in names

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping, AdamW, and the multipliers of single parts' rates."""

    def multiply(updates, params=None):
        def scale(path, update):
            return update * config.rates.get(part_of([entry.key for entry in path]), 1.0)

        return jax.tree_util.tree_map_with_path(scale, updates)

    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(learning_rate(config, steps), config.b1, config.b2, weight_decay=config.weight_decay, mask=decayed),
        *([optax.stateless(multiply)] if config.rates else []),
    )
