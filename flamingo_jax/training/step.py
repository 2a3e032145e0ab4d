"""One update: a gradient per dataset, weighted by lambda, accumulated, applied once (paper B.1.2)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from flamingo_jax.models.parts import part_of
from flamingo_jax.training import microbatch, sharding, spikes
from flamingo_jax.training.objective import Objective
from flamingo_jax.training.seen import count


def make_step(
    objective: Objective,
    lambdas: Mapping[str, float],
    optimizer: optax.GradientTransformation,
    mixing: str = "accumulation",
    microbatches: Mapping[str, int] | None = None,
    skip_spikes: float = 0.0,
) -> Callable:
    """step(state, frozen, batches) -> (state, metrics), to be jitted with ``state`` donated.

    state: ``state.state``. batches: {dataset: batch} of the datasets that take part in this update
    (``mixing.turn``), each with a weight in ``lambdas``; every set of them is a program of its own. Gradients exist for
    ``params`` alone: ``frozen`` is an argument that nothing differentiates. Metrics are those of the parameters before
    the update, ``loss/<dataset>`` among them (of pairs that are merged, ``loss/merged``), ``seen/<dataset>``
    (``seen.count``), ``grad_norm`` and that of each part of the model, ``grad_norm/<part>``, and ``skipped``: 1 where a
    loss or the norm was not finite, and nothing but the number of steps has changed; or where the weighted loss or the
    norm was ``skip_spikes`` standard deviations above what it was (``spikes``; 0: never).

    microbatches: into how many pieces a dataset's batch is cut, which are worked on one after the other; 1 for those
    that it does not name. They change nothing but memory and time.
    """
    pieces = microbatches or {}

    def step(state: dict, frozen: dict, batches: dict):
        params, total, weights = state["params"], None, lambdas
        metrics = {f"seen/{name}": count(batch) for name, batch in batches.items()}
        if mixing == "merged":
            batches, weights = objective.merge(batches, lambdas)
        key = jax.random.fold_in(jax.random.key(0), state["step"])  # of the step alone: a resumed run draws the same
        for name, batch in batches.items():
            if total is not None:  # one after the other: side by side they would hold their activations side by side
                batch, total = sharding.after(batch, total)
            random = jax.random.fold_in(key, zlib.crc32(name.encode()))  # whatever other datasets there are
            loss, grads = microbatch.gradient(objective, pieces.get(name, 1))(params, frozen, batch, random)
            metrics[f"loss/{name}"] = loss
            grads = jax.tree.map(lambda g, w=weights[name]: w * g, grads)
            total = grads if total is None else jax.tree.map(jnp.add, total, grads)
        updates, opt_state = optimizer.update(total, state["opt_state"], params)
        norms = _norms(total)
        norm = jnp.sqrt(sum(jnp.square(value) for value in norms.values()))
        losses = {name: metrics[f"loss/{name}"] for name in batches}
        made = jnp.isfinite(jnp.stack([norm, *losses.values()])).all()
        now = jnp.stack([sum(weights[name] * loss for name, loss in losses.items()), norm])
        if skip_spikes:
            turns = len(lambdas) if mixing == "round_robin" else 1
            made &= ~spikes.is_spike(state["recent"], now, skip_spikes, turns)
        after = {"params": optax.apply_updates(params, updates), "opt_state": opt_state}
        after = jax.tree.map(lambda new, old: jnp.where(made, new, old), after, {key: state[key] for key in after})
        metrics |= {"grad_norm": norm, **{f"grad_norm/{part}": value for part, value in norms.items()}}
        metrics |= {"skipped": 1 - made.astype(jnp.int32), **objective.monitor(params)}
        recent = spikes.record(state["recent"], now, made)
        return {**after, "recent": recent, "step": state["step"] + 1}, metrics

    return step


def _norms(gradients: dict) -> dict[str, jax.Array]:
    """{part of the model (``models/parts.py``): the norm of its gradients}."""
    parts: dict[str, list] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(gradients)[0]:
        parts.setdefault(part_of([entry.key for entry in path]), []).append(leaf)
    return {part: optax.tree.norm(leaves) for part, leaves in sorted(parts.items())}
