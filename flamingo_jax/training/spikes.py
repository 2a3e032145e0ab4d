"""Updates whose loss or gradients' norm is far above those of the updates before them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_WINDOW = 128  # updates
SHAPE = (2, _WINDOW)  # of the state's record: losses and norms, oldest first, NaN where none is


def is_spike(recent: jax.Array, now: jax.Array, sigmas: float, turns: int = 1) -> jax.Array:
    """Whether one of ``now`` [2], loss and norm, is more than ``sigmas`` standard deviations above its mean in
    ``recent`` [2, 128]; never so while half of that is not there. To be traced.

    turns: so many kinds of updates take turns (``mixing.turn``); each is compared with its own.
    """
    same = (_WINDOW - jnp.arange(_WINDOW)) % turns == 0
    known = jnp.isfinite(recent) & same
    count = known.sum(-1)
    mean = jnp.where(known, recent, 0.0).sum(-1) / jnp.maximum(count, 1)
    spread = jnp.sqrt(jnp.where(known, jnp.square(recent - mean[:, None]), 0.0).sum(-1) / jnp.maximum(count, 1))
    return ((count >= _WINDOW // turns // 2) & (now > mean + sigmas * spread)).any()


def record(recent: jax.Array, now: jax.Array, made: jax.Array) -> jax.Array:
    """``recent`` with ``now`` behind it, but nothing of an update that was not made: no spike measures the next."""
    return jnp.concatenate([recent[:, 1:], jnp.where(made, now, jnp.nan)[:, None]], axis=1)
