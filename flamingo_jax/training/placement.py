"""Pretrained weights, put where a stage's model has them."""

from __future__ import annotations

from collections.abc import Callable

import flax.traverse_util as traverse
import jax
import numpy as np
from jax.sharding import Mesh

from flamingo_jax.config import ExampleConfig
from flamingo_jax.models.int8 import is_int8
from flamingo_jax.training import state as shapes
from flamingo_jax.training.objective import Objective


def _put(leaf, described: jax.ShapeDtypeStruct) -> jax.Array:
    return jax.device_put(np.asarray(leaf).astype(described.dtype), described.sharding)


def _whole(leaf) -> np.ndarray:
    """A weight on the host, as floats."""
    return np.asarray(leaf.astype(np.float32) if is_int8(leaf) else leaf)


def place_parts(
    mesh: Mesh,
    objective: Objective,
    example: ExampleConfig,
    weights: dict,
    dtype: str,
    frozen: str = "sharded",
    put: Callable = _put,
    int8: bool = False,
) -> tuple[dict, dict]:
    """Pretrained weights -> (those of trainable parts, on the host; the frozen collection, placed).

    frozen, int8: as ``state.weights``'. put: (a leaf of ``weights``, its description there) -> on devices; the usual
    one is for arrays.

    Raises ValueError when ``weights`` and the model differ in names or shapes.
    """
    abstract = shapes.weights(mesh, objective, example, dtype, frozen, int8)
    params, frozen = (traverse.flatten_dict(abstract[name]) for name in ("params", "frozen"))
    given = traverse.flatten_dict(weights)
    _check_same({**frozen, **{path: leaf for path, leaf in params.items() if path in given}}, given)
    placed = {path: put(given[path], leaf) for path, leaf in frozen.items()}
    initial = {path: _whole(leaf) for path, leaf in given.items() if path in params}
    return traverse.unflatten_dict(initial), traverse.unflatten_dict(placed)


def _check_same(expected: dict, given: dict) -> None:
    """Raises ValueError listing every path that is in one alone, or has another shape. Both are {path: leaf}."""
    shapes = [{"/".join(path): np.shape(leaf) for path, leaf in leaves.items()} for leaves in (expected, given)]
    wrong = [
        f"{name}: the model has {shapes[0].get(name, 'nothing')}, the stored weights {shapes[1].get(name, 'nothing')}"
        for name in sorted(shapes[0].keys() | shapes[1].keys())
        if shapes[0].get(name) != shapes[1].get(name)
    ]
    if wrong:
        raise ValueError("The pretrained weights do not fit the model:\n  " + "\n  ".join(wrong))
