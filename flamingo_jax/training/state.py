"""What a stage's step works on: the shape of every array, and where on the mesh it lives. Nothing is allocated here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flamingo_jax.config import ExampleConfig, MixConfig
from flamingo_jax.data.example import empty_batch
from flamingo_jax.models.int8 import inputs_of, like
from flamingo_jax.training import sharding, spikes
from flamingo_jax.training.objective import Objective


def batch(mesh: Mesh, example: ExampleConfig, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A global batch of ``rows`` rows, split over the mesh as ``sharding.put_batch`` splits it."""
    place = NamedSharding(mesh, PartitionSpec(sharding.BATCH))
    return {
        key: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype, sharding=place)
        for key, leaf in empty_batch(example, 1).items()
    }


def weights(
    mesh: Mesh,
    objective: Objective,
    example: ExampleConfig,
    dtype: str = "float32",
    frozen: str = "sharded",
    int8: bool = False,
) -> dict[str, dict]:
    """{"params", "frozen"}, each a tree of ``jax.ShapeDtypeStruct`` with its sharding; frozen ones of ``dtype``.

    example: any that the model takes. frozen: ``MeshConfig.frozen``. int8: frozen matrices are ``Int8`` of such.

    Raises ValueError when the model cannot take it, or its weights cannot be split over the mesh.
    """
    smallest = jax.tree.map(  # of dummies, that divides over the mesh
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
        batch(mesh, example, sharding.batch_ways(mesh)),
    )
    with sharding.use(mesh):
        boxed = jax.eval_shape(lambda batch: objective.init(jax.random.key(0), batch), smallest)
        boxed = {name: boxed.get(name, {}) for name in ("params", "frozen")}
        policy = {"params": "", "frozen": frozen}
        places = {name: sharding.shard_tree(mesh, tree, policy[name]) for name, tree in boxed.items()}
        shapes = jax.eval_shape(nn.meta.unbox, boxed)
    params = jax.tree.map(_placed, shapes["params"], places["params"])

    def stored(path, leaf, place):
        placed = jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=place)
        inputs = inputs_of([entry.key for entry in path], len(leaf.shape)) if int8 else None
        return like(placed, inputs) if inputs else placed

    return {"params": params, "frozen": jax.tree_util.tree_map_with_path(stored, shapes["frozen"], places["frozen"])}


def state(mesh: Mesh, optimizer: optax.GradientTransformation, params: dict) -> dict[str, Any]:
    """{"params", "opt_state", "recent", "step"} around ``params`` (``weights``), moments where their weights are.

    recent: what ``spikes`` looks at.
    """
    everywhere = sharding.replicated(mesh)
    shapes = jax.eval_shape(optimizer.init, params)
    places = optax.tree_map_params(
        optimizer,
        lambda _, leaf: leaf.sharding,
        shapes,
        params,
        transform_non_params=lambda _: everywhere,
    )
    return {
        "params": params,
        "opt_state": jax.tree.map(_placed, shapes, places),
        "recent": jax.ShapeDtypeStruct(spikes.SHAPE, jnp.float32, sharding=everywhere),
        "step": jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere),
    }


def initial(optimizer: optax.GradientTransformation, params: dict) -> dict[str, Any]:
    """The state before the first step, of trainable weights."""
    return {
        "params": params,
        "opt_state": optimizer.init(params),
        "recent": jnp.full(spikes.SHAPE, jnp.nan, jnp.float32),
        "step": jnp.zeros((), jnp.int32),
    }


def work(examples: Mapping[str, ExampleConfig], mixture: Mapping[str, MixConfig]) -> dict[str, int]:
    """{"tokens", "images"}: text positions and frames in a global batch of each dataset, together.

    examples: the shape of each dataset's rows.
    """
    pairs = [(examples[name], mix.rows) for name, mix in mixture.items()]
    return {
        "tokens": sum(example.length * rows for example, rows in pairs),
        "images": sum(example.media * example.frames * rows for example, rows in pairs),
    }


def _placed(leaf: jax.ShapeDtypeStruct, place: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
