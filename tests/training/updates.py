"""Whole updates of a tiny model on any mesh, by one process or several; what several test files share, and a script.

    python updates.py FOLDER NUMBER COUNT ADDRESS flamingo 1x2x4 ...

is process NUMBER of COUNT, and writes what the objective's updates on every mesh give to FOLDER/1x2x4.npz.
"""

import dataclasses
import pathlib
import sys

import flax.traverse_util as traverse
import jax
import numpy as np
from jax.experimental import multihost_utils

from flamingo_jax.config import (
    ExampleConfig,
    GatedConfig,
    LanguageConfig,
    MeshConfig,
    MixConfig,
    ModelConfig,
    NFNetConfig,
    OptimizerConfig,
    ResamplerConfig,
    TextTowerConfig,
)
from flamingo_jax.convert.pretrained import put_like
from flamingo_jax.data import packing
from flamingo_jax.data.example import empty_batch
from flamingo_jax.models.int8 import is_int8
from flamingo_jax.training import mixing, sharding
from flamingo_jax.training import state as shapes
from flamingo_jax.training.objective import OBJECTIVES
from flamingo_jax.training.optimizer import make_optimizer
from flamingo_jax.training.step import make_step

# Every axis that a mesh splits divides by eight. A block below the first gated layer, two groups.
MODEL = ModelConfig(
    language=LanguageConfig(vocab_size=64, width=32, depth=3, heads=8, smear=True),
    vision=NFNetConfig(widths=(16,), depths=(1,), strides=(2,), stem=(8,)),
    resampler=ResamplerConfig(width=32, depth=1, heads=8, head_size=4, latents=4, frames=4),
    gated=GatedConfig(first=1, every=1, heads=8, head_size=4),
    text_tower=TextTowerConfig(width=32, depth=1, heads=8, embedding=16),
    dtype="float32",
    remat="full",
)
# The four kinds of datasets: pages, packed and unpacked pairs, clips.
EXAMPLES = {
    "pages": ExampleConfig(length=24, media=5, size=16),
    "packed": ExampleConfig(length=8, size=16),
    "pairs": ExampleConfig(length=8, size=16),
    "clips": ExampleConfig(length=10, frames=3, size=16),
}
MIXTURE = {
    "pages": MixConfig(8),
    "packed": MixConfig(48, weight=0.2, pack=3, row_length=20, microbatches=2),
    "pairs": MixConfig(8, weight=0.2),
    "clips": MixConfig(8, weight=0.03),
}
# Of every objective; weights are equal where merged pairs need it.
MIXTURES = {
    "flamingo": MIXTURE,
    "language": {name: MIXTURE[name] for name in ("packed", "pages")},
    "contrastive": {name: dataclasses.replace(MIXTURE[name], weight=1.0) for name in ("pairs", "clips")},
}
# The rate is 0 in the first update and whole in the second; clipping leaves a small part of the gradients.
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, warmup=1, clip=0.1)
MESHES = [(8, 1, 1), (4, 2, 1), (4, 1, 2), (2, 4, 1), (2, 2, 2), (2, 1, 4), (1, 8, 1), (1, 4, 2), (1, 2, 4), (1, 1, 8)]
ONE = (1, 1, 1)


def goal(name="flamingo", model=MODEL):
    return OBJECTIVES[name](model, new_tokens=(3,), pad=0)


def batch(name, mix, seed):
    """A random batch of a dataset. The later a row is the more of its tokens count; the first is an unreadable one."""
    rng, shape, rows = np.random.default_rng(seed), packing.row_shape(EXAMPLES[name], mix), mix.rows
    out = empty_batch(shape, rows)
    out["tokens"] = rng.integers(4, MODEL.language.vocab_size, out["tokens"].shape, np.int32)
    out["media"] = rng.integers(0, 256, out["media"].shape, np.uint8)
    out["media_mask"][:] = True
    place = np.arange(shape.length) * mix.pack // shape.length  # which of its row's documents a token is of
    each = shape.media // mix.pack
    out["segments"][:] = 1 + place
    within = np.sort(rng.integers(0, each + 1, (rows, mix.pack, shape.length)), axis=2)
    out["media_index"] = within[:, place, np.arange(shape.length)].astype(np.int32)
    out["media_index"] += (each * place * (out["media_index"] > 0)).astype(np.int32)
    share = np.linspace(0.1, 1.0, rows)[:, None]
    out["weights"] = (rng.random((rows, shape.length)) < share).astype(np.float32)
    for key in ("tokens", "weights", "segments", "media_index"):
        out[key][0] = 0
    out["media_mask"][0], out["unreadable"][0] = False, (1, 0)
    return out


def make_mesh(sizes):
    return sharding.make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])


def filled(shapes):
    """Random weights as {path: array}, the same for any mesh; nothing vanishes that starts at zero."""
    out = {}
    for number, (path, leaf) in enumerate(sorted(traverse.flatten_dict(shapes, sep="/").items())):
        noise = np.random.default_rng(number).normal(size=leaf.shape)
        is_gain = path.endswith(("scale", "gate", "gain"))
        scale = 0.1 if len(leaf.shape) < 2 else np.prod(leaf.shape[-3:-1]) ** -0.5
        out[path] = (is_gain * 0.7 + scale * noise).astype(np.float32)
    return out


def place(described):
    """``filled`` values in the tree and the places of ``described``, on whichever processes' devices."""
    flat = traverse.flatten_dict(described, sep="/")
    values = filled(described)
    return traverse.unflatten_dict({path: put(values[path], leaf) for path, leaf in flat.items()}, sep="/")


def put(value, leaf):
    if is_int8(leaf):
        return put_like(value, leaf)
    return jax.make_array_from_callback(value.shape, leaf.sharding, lambda index: value[index])


def prepare(sizes, objective="flamingo", way="accumulation", mixture=None, model=MODEL):
    """(mesh, step, state, frozen), ready to run or to lower; the state's shapes and places are those of the loop."""
    mesh, which, mixture = make_mesh(sizes), goal(objective, model), mixture or MIXTURES[objective]
    tx, (name, mix) = make_optimizer(OPTIMIZER, 100), next(iter(mixture.items()))
    weights = shapes.weights(mesh, which, packing.row_shape(EXAMPLES[name], mix), int8=model.int8)
    whole = shapes.state(mesh, tx, weights["params"])
    places = jax.tree.map(lambda leaf: leaf.sharding, whole)
    params, frozen = (place(weights[key]) for key in ("params", "frozen"))
    lambdas = {name: mix.weight for name, mix in mixture.items()}
    pieces = {name: mix.microbatches for name, mix in mixture.items()}
    step = jax.jit(make_step(which, lambdas, tx, way, pieces), donate_argnums=0, out_shardings=(places, None))
    start = jax.jit(lambda p: shapes.initial(tx, p), out_shardings=places)
    with sharding.use(mesh):
        return mesh, step, start(params), frozen


def feed(mesh, mixture, seed):
    """Global batches of a mixture, of which this process makes its part."""
    part, parts = sharding.host_part(mesh, jax.process_index())

    def put(name, mix, seed):
        rows = mix.rows // parts
        made = {key: value[part * rows : (part + 1) * rows] for key, value in batch(name, mix, seed).items()}
        return sharding.put_batch(mesh, made)

    return {name: put(name, mix, seed + i) for i, (name, mix) in enumerate(mixture.items())}


def run(sizes, objective="flamingo", way="accumulation", mixture=None, model=MODEL, change=None):
    """{path: array on the host} after two updates, or three in turn: weights, first moments, every update's metrics.

    change: what is done to the frozen weights before.
    """
    mixture = mixture or MIXTURES[objective]
    mesh, step, state, frozen = prepare(sizes, objective, way, mixture, model)
    frozen = frozen if change is None else change(frozen)
    out = {}
    with sharding.use(mesh):
        for number in range(3 if way == "round_robin" else 2):
            names = mixing.turn(way, tuple(mixture), number)
            given = feed(mesh, {name: mixture[name] for name in names}, 10 * number)
            state, metrics = step(state, frozen, given)
            out |= {f"update {number}/{name}": value for name, value in metrics.items()}
    out |= traverse.flatten_dict({"weights": state["params"], "moments": moments(state)}, sep="/")
    return {name: np.asarray(multihost_utils.process_allgather(leaf, tiled=True)) for name, leaf in out.items()}


def moments(state):
    """AdamW's average of gradients, as they are after clipping."""
    found = [s.mu for s in jax.tree.leaves(state["opt_state"], is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")]
    return found[0]


def assert_same(found, expected, tolerance=1e-5):
    """Losses, moments and weights within 1e-5, and counts alike."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if "seen/" in name:
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


if __name__ == "__main__":
    folder, number, count, address, objective, *meshes = sys.argv[1:]
    jax.distributed.initialize(address, int(count), int(number))
    for mesh in meshes:
        result = run(tuple(map(int, mesh.split("x"))), objective)
        if jax.process_index() == 0:
            np.savez(pathlib.Path(folder) / f"{mesh}.npz", **result)
