"""Weights for tests in which nothing may vanish."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def filled(seed, model, *inputs):
    """Weights of ``model`` that are random everywhere, offsets and gates too, by collection."""
    shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), *inputs))
    rng = np.random.default_rng(seed)
    draw = functools.partial(jax.tree.map, lambda leaf: jnp.asarray(rng.normal(0.0, 0.5, leaf.shape), jnp.float32))
    return {name: draw(tree) for name, tree in shapes.items() if name != "cache"}
