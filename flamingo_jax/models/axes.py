"""Logical axis names: the one glossary of dimensions, and how modules attach names to weights and activations.

Modules name dimensions; ``training/sharding.py`` maps names to mesh axes. Letters used in docstrings and einsums:
B batch, L text, N media, T frames, S cells, R latents, D width, H heads, K head size, V vocabulary, M keys.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

WEIGHT_AXES = {
    "embed": "a residual width D, read or written",
    "mlp": "a feed-forward's hidden width",
    "heads": "attention heads H",
    "kv_heads": "heads of keys and values G, of which each serves H / G heads",
    "head": "size K of one head",
    "vocab": "vocabulary V",
    "joint": "the contrastive embedding",
    "features": "channels that the vision encoder hands on",
    "channels_in": "input channels of a convolution",
    "channels_out": "output channels of a convolution",
    "latents": "learnt latents R",
    "frames": "temporal embeddings T",
    "positions": "rows of a position table",
    "layers": "layers stacked by a scan",
    "groups": "groups of layers stacked by a scan around it",
    "vector": "gains, offsets, gates: small vectors",
}
ACTIVATION_AXES = {
    "batch": "examples B",
    "images": "B x N x T frames in the vision encoder, B x N media in the resampler",
    "length": "text positions L",
    "act_embed": "width D of activations",
    "act_heads": "heads of activations",
    "act_vocab": "vocabulary of logits",
    "lookup_batch": "examples B for which a device looks up its part of the token table",
    "lookup_embed": "width D of that part",
}


def named(init, *axes: str | None):
    """``init`` whose result carries logical axis names, one per dimension. Unknown names raise ValueError.

    None: a dimension that is never split.
    """
    for axis in axes:
        if axis is not None and axis not in WEIGHT_AXES:
            raise ValueError(f"{axis!r} is no weight axis; known: {', '.join(WEIGHT_AXES)}.")
    return nn.with_logical_partitioning(init, axes)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """States the sharding of an activation by logical names, one per dimension. Unknown names raise ValueError.

    None: a dimension that is never split. "images" are split over as many of their mesh axes, from the first on, as
    divide their number, which differs from dataset to dataset.

    Takes effect inside ``jax.jit`` under ``jax.set_mesh`` and ``flax.linen.logical_axis_rules``; elsewhere it does
    nothing.
    """
    for axis in axes:
        if axis is not None and axis not in ACTIVATION_AXES:
            raise ValueError(f"{axis!r} is no activation axis; known: {', '.join(ACTIVATION_AXES)}.")
    mesh, rules = jax.sharding.get_abstract_mesh(), dict(nn.get_logical_axis_rules())
    if mesh.empty or not rules:
        return x
    spec = [rules.get(axis) for axis in axes]
    for i, axis in enumerate(axes):
        while axis == "images" and spec[i] and x.shape[i] % math.prod(mesh.shape[name] for name in spec[i]):
            spec[i] = spec[i][:-1]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def split_of(axis: str) -> str | tuple[str, ...] | None:
    """The mesh axes over which an activation's axis is divided; None where it is not, or where nothing says so."""
    return dict(nn.get_logical_axis_rules()).get(axis)


def gather(w: jax.Array, axes: Sequence[str | None], rows: str = "batch") -> jax.Array:
    """A weight as a layer uses it: whole along the mesh axes over which its ``rows`` ("batch" or "images") are divided.

    Said rather than left to the compiler, which now and then leaves weights as they are and sends activations, many
    times their size. The gradient goes the other way: added up, and divided as the weight is; whole numbers have none.
    axes: logical names, one per dimension. Takes effect where ``constrain`` does.
    """
    mesh, rules = jax.sharding.get_abstract_mesh(), dict(nn.get_logical_axis_rules())
    if mesh.empty or not rules:
        return w
    own = [rules.get(axis) for axis in axes]
    own = [place if place and size % mesh.shape[place] == 0 else None for place, size in zip(own, w.shape, strict=True)]
    whole = [None if place in rules[rows] else place for place in own]
    if not jnp.issubdtype(w.dtype, jnp.floating):
        return jax.lax.with_sharding_constraint(w, PartitionSpec(*whole))
    return _gather(w, PartitionSpec(*whole), PartitionSpec(*own))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(w: jax.Array, whole: PartitionSpec, own: PartitionSpec) -> jax.Array:
    return jax.lax.with_sharding_constraint(w, whole)


def _gather_forward(w, whole, own):
    return _gather(w, whole, own), None


def _gather_backward(whole, own, _, gradient):
    return (jax.lax.with_sharding_constraint(gradient, own),)


_gather.defvjp(_gather_forward, _gather_backward)
