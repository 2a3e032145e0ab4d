"""One update: a gradient per dataset, weighted by lambda, accumulated, applied once (paper B.1.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from flamingo_jax.training.objective import Objective
from flamingo_jax.training.seen import count


def make_step(objective: Objective, lambdas: Mapping[str, float], optimizer: optax.GradientTransformation) -> Callable:
    """step(state, frozen, batches) -> (state, metrics), to be jitted with ``state`` donated.

    state: {"params", "opt_state", "step"}. batches: {dataset: batch} for every key of ``lambdas``, the datasets'
    weights. Gradients exist for ``params`` alone: ``frozen`` is an argument that nothing differentiates. Metrics are
    those of the parameters before the update.
    """

    def step(state: dict, frozen: dict, batches: dict):
        params, metrics, total = state["params"], {}, None
        key = jax.random.fold_in(jax.random.key(0), state["step"])  # of the step alone: a resumed run draws the same
        for number, (name, weight) in enumerate(lambdas.items()):
            random = jax.random.fold_in(key, number)
            loss, grads = jax.value_and_grad(objective.loss)(params, frozen, batches[name], random)
            metrics |= {f"loss/{name}": loss, f"seen/{name}": count(batches[name])}
            grads = jax.tree.map(lambda g, w=weight: w * g, grads)
            total = grads if total is None else jax.tree.map(jnp.add, total, grads)
        updates, opt_state = optimizer.update(total, state["opt_state"], params)
        metrics |= {"grad_norm": optax.global_norm(total), **objective.monitor(params)}
        state = {"params": optax.apply_updates(params, updates), "opt_state": opt_state, "step": state["step"] + 1}
        return state, metrics

    return step
