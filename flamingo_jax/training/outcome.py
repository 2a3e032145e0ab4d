"""What a run keeps of its stages: finished weights, stored once by content (Orbax), and results."""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
from collections.abc import Mapping

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from flamingo_jax.data.file import write_whole
from flamingo_jax.training import barrier, hosts
from flamingo_jax.training.checkpoint import writing


def store_weights(workdir: pathlib.Path, name: str, weights: dict) -> str:
    """Writes a tree of weights once, under its content's hash. Returns its path relative to ``workdir``."""
    weights = jax.tree.map(hosts.gather, weights)  # stored without the mesh that they were trained on
    relative = f"weights/{name}-{content_hash(weights)[:16]}"
    target = (workdir / relative).absolute()
    if not hosts.agree(target.exists()):
        with writing(target), barrier.breakable(f"store {relative}"):
            ocp.save(target, weights)
    return relative


def load_weights(workdir: pathlib.Path, relative: str, abstract: dict | None = None) -> dict:
    """Reads what ``store_weights`` wrote, onto the shardings of ``abstract`` or, without it, as it was.

    Raises ValueError when the folder is absent, or, where they are read as they were, not what its name says.
    """
    source = (workdir / relative).absolute()
    if not source.exists():
        raise ValueError(
            f"{source} is missing, though a finished stage names it; delete that stage's folder to redo it."
        )
    weights = ocp.load(source, abstract)
    if abstract is None and content_hash(weights)[:16] != relative.rpartition("-")[2]:
        raise ValueError(
            f"{source} is damaged: what is read is not what was written. Bring it back from a copy; or delete it and "
            "the folder of the stage that made it, which is then trained anew."
        )
    return weights


def content_hash(weights: dict) -> str:
    """SHA-256 over every leaf's path, type, shape and bytes, in sorted order."""
    digest = hashlib.sha256()
    leaves, _ = jax.tree_util.tree_flatten_with_path(weights)
    for path, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0])):
        value = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def write_result(directory: pathlib.Path, result: dict) -> None:
    """Marks a stage as complete: ``result.json`` appears whole or not at all."""
    write_whole(directory / "result.json", json.dumps(result, indent=2, sort_keys=True))


def read_result(directory: pathlib.Path) -> dict | None:
    """A complete stage's result, or None when the stage has not completed."""
    path = directory / "result.json"
    return json.loads(path.read_text()) if path.exists() else None


def claim(directory: pathlib.Path, inputs: Mapping[str, str]) -> bool:
    """Prepares a stage's folder, and empties it when it was made from other ``inputs`` (names of weights).

    Returns whether it had to be emptied.
    """
    path, text = directory / "inputs.json", json.dumps(inputs, indent=2, sort_keys=True)
    other = path.exists() and path.read_text() != text
    if other:
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_whole(path, text)
    return other


def result_weights(workdir: pathlib.Path, stage: str) -> str:
    """The name of the weights that stage ``stage`` of this run ended with. Raises ValueError when it has not."""
    result = read_result(workdir / stage)
    if result is None:
        raise ValueError(f"Stage {stage!r} has no result in {workdir}; it must come earlier in config.order.")
    return result["weights"]


def load_result_weights(workdir: pathlib.Path, stage: str) -> dict:
    """The weights that stage ``stage`` of this run ended with. Raises ValueError when it has not completed."""
    return load_weights(workdir, result_weights(workdir, stage))
