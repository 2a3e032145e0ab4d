"""A checkpoint that is kept, as a model: the trained weights that stand in it, and no more of it."""

from __future__ import annotations

import pathlib

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from flamingo_jax.training import fingerprint
from flamingo_jax.training.attempts import FOLDER


def is_one(path: pathlib.Path) -> bool:
    """Whether a folder's name is that of a checkpoint: ``STAGE/checkpoints/ATTEMPT/STEP``."""
    names = path.absolute().parts[-3:]
    return len(names) == 3 and names[0] == FOLDER and names[1].isdecimal() and names[2].isdecimal()


def inside(path: pathlib.Path) -> list[pathlib.Path]:
    """The checkpoints in the folder of a stage, of its checkpoints or of an attempt, relative to it."""
    if path.parent.name == FOLDER:
        found = path.glob("*")
    else:
        found = path.glob("*/*" if path.name == FOLDER else f"{FOLDER}/*/*")
    return sorted(one.relative_to(path) for one in found if is_one(one))


def load(path: pathlib.Path) -> dict:
    """The tree of trained weights at ``path``, in the host's memory, whatever mesh they were saved from.

    Raises ValueError when it is damaged.
    """
    host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    try:
        metadata = ocp.metadata(path)
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host), metadata.metadata["params"]
        )
        partly = ocp.Context()
        partly.pytree.loading.partial_load = True
        with partly:
            weights = jax.tree.map(np.asarray, ocp.load(path, {"params": shapes})["params"])
        sums = metadata.custom_metadata["sums"]
    except Exception as error:  # the library raises many kinds, with the whole tree in the message
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"
        raise ValueError(f"The checkpoint {path} cannot be read ({reason}).") from error
    for place, leaf in jax.tree_util.tree_flatten_with_path({"params": weights})[0]:
        if fingerprint.of(leaf) != sums.get(name := jax.tree_util.keystr(place, simple=True, separator="/")):
            raise ValueError(f"The checkpoint {path} is damaged: the checksum of {name} differs. Take another one.")
    return weights
