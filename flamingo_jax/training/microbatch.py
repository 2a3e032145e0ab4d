"""A batch worked on in pieces, one after the other: the gradient of the whole, the activations of one piece."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from flamingo_jax.training import sharding
from flamingo_jax.training.objective import Objective


def gradient(objective: Objective, pieces: int) -> Callable:
    """gradient(params, frozen, batch, key) -> (loss, gradients by ``params``) of the whole batch, worked on in pieces.

    Every piece adds the sum over its own tokens, divided by the weight of all tokens of the batch, so that the result
    is that of the whole batch however the tokens that count are spread. Sums are float32. What is random draws anew in
    every piece.
    """
    if pieces == 1:
        return jax.value_and_grad(objective.loss)
    assert objective.weight is not None, "StageConfig refuses microbatches of a loss that is no sum over rows"

    def whole(params, frozen, batch, key):
        weight = objective.weight(batch)

        def add(sums, inputs):
            number, part = inputs
            found = jax.value_and_grad(objective.loss)(params, frozen, part, jax.random.fold_in(key, number), weight)
            return jax.tree.map(lambda total, new: total + new.astype(jnp.float32), sums, found), None

        # Where sums of gradients lie follows from the optimizer's moments, which they meet: beside their weights.
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
        parts = jax.tree.map(lambda leaf: split(leaf, pieces), batch)
        return jax.lax.scan(add, (jnp.zeros((), jnp.float32), zeros), (jnp.arange(pieces), parts))[0]

    return whole


def split(rows: jax.Array, pieces: int) -> jax.Array:
    """[B, ..] as [pieces, B / pieces, ..], in an order that leaves every row on its device."""
    mesh = jax.sharding.get_abstract_mesh()
    ways = 1 if mesh.empty else sharding.batch_ways(mesh)
    count, rest = rows.shape[0] // (ways * pieces), rows.shape[1:]
    x = rows.reshape(ways, pieces, count, *rest).swapaxes(0, 1).reshape(pieces, ways * count, *rest)
    return x if mesh.empty else jax.lax.with_sharding_constraint(x, PartitionSpec(None, sharding.BATCH))
