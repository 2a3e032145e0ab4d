"""How a stage's datasets share its updates (paper B.1.2 and table 3 ii; B.1.3 and table 11).

accumulation: a gradient per dataset, times its lambda, summed for one update. round_robin: one dataset per update, in
turn, its gradient times its lambda. merged: one update for one loss over the examples of all datasets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from flamingo_jax.training import sharding


def turn(mixing: str, names: Sequence[str], step: int) -> tuple[str, ...]:
    """The datasets that update number ``step``, from 0, takes a batch of: all, or the one whose turn it is."""
    return (names[step % len(names)],) if mixing == "round_robin" else tuple(names)


def merge_tokens(batches: dict, lambdas: Mapping[str, float]) -> tuple[dict, dict]:
    """What makes means over weighted tokens one mean over all: (batches as they are, {dataset: weight of its mean}).

    Dataset m with W_m weighted tokens weighs lambda_m W_m / sum of lambda W, so the weighted sum of the datasets'
    losses is the lambda-weighted mean over everybody's tokens. Shapes may differ.
    """
    counts = {name: lambdas[name] * batch["weights"][:, 1:].sum() for name, batch in batches.items()}
    total = sum(counts.values())
    return batches, {name: count / jnp.where(total > 0, total, 1.0) for name, count in counts.items()}


def merge_pairs(batches: dict, pad: int) -> tuple[dict, dict]:
    """({"merged": one batch with every dataset's images and texts}, {"merged": 1.0}), for a loss that compares pairs.

    Texts are padded on the right to the longest; of the media the first frames remain, whose sizes must be equal.
    """
    length = max(batch["tokens"].shape[1] for batch in batches.values())

    def fit(batch: dict) -> dict:
        missing = ((0, 0), (0, length - batch["tokens"].shape[1]))
        return {
            "tokens": jnp.pad(batch["tokens"], missing, constant_values=pad),
            "weights": jnp.pad(batch["weights"], missing),
            "media": batch["media"][:, :1, :1],
            "media_mask": batch["media_mask"][:, :1],
        }

    parts = [fit(batch) for batch in batches.values()]
    return {"merged": jax.tree.map(lambda *leaves: sharding.concatenate(leaves), *parts)}, {"merged": 1.0}
