"""Which mesh, rematerialisation and microbatches: all that divide, roughly; then the best of them compiled."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from flamingo_jax.config import MeshConfig, RunConfig
from flamingo_jax.data import packing
from flamingo_jax.data.example import empty_batch
from flamingo_jax.planning.links import Links
from flamingo_jax.training import sharding
from flamingo_jax.training.objective import OBJECTIVES

_PIECES = (1, 2, 4, 8)  # of the batch with the most tokens
_REMAT = ("dots", "layers", "full")  # those that a large model has memory for, and whose time can be estimated
_SURE = 0.75  # of a chip's memory, what may seem to be taken of it by what is named as fitting
_LIKE = {"none": "dots", "offload": "full"}  # the others

# How often a layer's products are computed, gradients by its input included, and what is kept of it for every token:
# values of the residual width, and values that are divided over the tensor axis, in widths of the layer's products.
_PASSES = {"dots": 2, "layers": 3, "full": 4}
_MATRIX_SHARE = 0.8  # of the peak that large products reach
_OTHER = 0.3  # what else a step does, in times of its products


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a search varies. microbatches: of the dataset with the most tokens; of others as many as give their pieces
    no more. seconds, bytes: of a step, on a device; roughly, to rank by and no more. text: the mesh, and what else
    is changed of the config, as options of the command line."""

    mesh: MeshConfig
    remat: str
    microbatches: int
    seconds: float = 0.0
    bytes: float = 0.0
    text: str = ""


def apply(config: RunConfig, name: str, choice: Choice) -> RunConfig:
    """``config`` with a choice made for stage ``name``. Raises ValueError when the batches do not divide."""
    stage = config.stages[name]
    tokens = {
        key: packing.row_shape(config.datasets[key].example, mix).length * mix.rows
        for key, mix in stage.mixture.items()
    }
    piece, ways = max(tokens.values()) / choice.microbatches, choice.mesh.data * choice.mesh.fsdp
    mixture = {}
    for key, mix in stage.mixture.items():
        fitting = [n for n in range(1, choice.microbatches + 1) if mix.rows % (ways * n) == 0]
        if not fitting:
            raise ValueError(f"{key}: {mix.rows} rows are not divisible by {ways}.")
        pieces = next((n for n in fitting if tokens[key] / n <= piece), fitting[-1])
        mixture[key] = dataclasses.replace(mix, microbatches=pieces)
    stage = dataclasses.replace(stage, mixture=mixture)
    return dataclasses.replace(
        config,
        mesh=choice.mesh,
        model=dataclasses.replace(config.model, remat=choice.remat),
        stages={**config.stages, name: stage},
    )


def _text(before: RunConfig, config: RunConfig, name: str) -> str:
    """Options that make a config what ``apply`` has made of it."""

    def options(config: RunConfig) -> dict:
        mixture = config.stages[name].mixture
        pieces = {f"stages.{name}.mixture.{key}.microbatches": mix.microbatches for key, mix in mixture.items()}
        return {"mesh.frozen": config.mesh.frozen, "model.remat": config.model.remat, **pieces}

    mesh, old = config.mesh, options(before)
    changed = [f"--config.{key}={value}" for key, value in options(config).items() if value != old[key]]
    return " ".join([f"--mesh={mesh.data}x{mesh.fsdp}x{mesh.tensor}", *changed])


def choices(
    config: RunConfig, name: str, devices: list[jax.Device], links_of: Callable[[Mesh], Links], flops: int
) -> list[Choice]:
    """All that divide, the fastest first, of equally fast ones those in the fewest pieces and with the least memory.

    links_of: what joins a mesh's devices. flops: that losses and gradients need, of all devices together.
    """
    stage = config.stages[name]
    objective = OBJECTIVES[stage.objective](config.model, (config.model.language.vocab_size,), 0)
    key = next(iter(stage.mixture))
    batch = empty_batch(packing.row_shape(config.datasets[key].example, stage.mixture[key]), 1)
    boxed = jax.eval_shape(lambda batch: objective.init(jax.random.key(0), batch), batch)
    boxed = {part: boxed.get(part, {}) for part in ("params", "frozen")}
    found = []
    for mesh_config in _meshes(len(devices), config):
        try:
            mesh = sharding.make_mesh(mesh_config, devices)
            policy = {"params": "", "frozen": mesh_config.frozen}
            held = {part: _held(mesh, boxed[part], policy[part]) for part in boxed}
        except ValueError:
            continue
        links = links_of(mesh)
        for remat, pieces in itertools.product(_REMAT, _PIECES):
            choice = Choice(mesh_config, remat, pieces)
            try:
                changed = apply(config, name, choice)
            except ValueError:
                continue
            if max(mix.microbatches for mix in changed.stages[name].mixture.values()) == pieces:
                text = _text(config, changed, name)
                found.append(_rough(changed, name, choice, mesh, links, held, flops, text))
    return sorted(found, key=lambda choice: (choice.seconds, choice.microbatches, choice.bytes))


def best(ranked: list[Choice], memory: float, tried: Mapping[Choice, float]) -> Choice | None:
    """The first that seems to fit into ``memory`` bytes, other than those that were tried; None if there is none.

    tried: choices -> the bytes that they really need. Rough sums are corrected by what they were most wrong by. What
    differs in microbatches alone from one that fits is left out.
    """
    wrong = max([size / choice.bytes for choice, size in tried.items()], default=1.0)
    done = {(choice.mesh, choice.remat) for choice, size in tried.items() if size <= memory}
    left = (choice for choice in ranked if choice not in tried and (choice.mesh, choice.remat) not in done)
    return next((choice for choice in left if choice.bytes * max(1.0, wrong) < memory), None)


def nearest(ranked: list[Choice], plan: Mapping[str, Any]) -> Choice | None:
    """Of those that should fit, the one with the fewest changes from ``plan``'s; None if there is none.

    Rough sums are corrected by what the plan's own were wrong by, or those of the one that is most like it.
    """
    sizes, pieces = tuple(plan["mesh"].values()), max(plan["microbatches"].values())
    remat = _LIKE.get(plan["remat"], plan["remat"])

    def changes(choice: Choice) -> float:
        mesh = (choice.mesh.data, choice.mesh.fsdp, choice.mesh.tensor)
        moved = sum(abs(math.log2(a / b)) for a, b in zip(mesh, sizes, strict=True))
        others = (choice.mesh.frozen != plan["frozen"], choice.remat != remat, choice.microbatches != pieces)
        return moved + sum(others)

    if not ranked:
        return None
    own = min(ranked, key=changes)
    wrong = max(1.0, plan["memory_bytes"]["peak"] / own.bytes)
    room = _SURE * plan["memory_bytes"]["chip"]
    fitting = [choice for choice in ranked if choice.bytes * wrong < room]
    return min(fitting, key=lambda choice: (changes(choice), choice.seconds), default=None)


def _meshes(count: int, config: RunConfig) -> Iterator[MeshConfig]:
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    for tensor in (n for n in divisors if config.model.language.heads % n == 0):
        for fsdp in (n for n in divisors if count % (tensor * n) == 0):
            sizes = (count // (tensor * fsdp), fsdp, tensor)
            yield MeshConfig(*sizes)
            if fsdp > 1:
                yield MeshConfig(*sizes, frozen="replicated")


def _held(mesh, boxed: dict, frozen: str) -> dict[str, float]:
    """{"device": elements that a device holds, "layers": elements of what the decoder reads}. Raises ValueError."""
    places = sharding.shard_tree(mesh, boxed, frozen)
    shapes = nn.meta.unbox(boxed)
    sizes = jax.tree.map(lambda leaf, place: math.prod(place.shard_shape(leaf.shape)), shapes, places)
    decoder = shapes.get("decoder", shapes)
    return {
        "device": sum(jax.tree.leaves(sizes)),
        "layers": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(decoder)),
    }


def _rough(config: RunConfig, name: str, choice: Choice, mesh, links: Links, held: dict, flops: int, text: str):
    language, chip, mesh_config = config.model.language, links.chip, choice.mesh
    tensor, ways = mesh_config.tensor, mesh_config.data * mesh_config.fsdp
    numbers = np.arange(mesh.devices.size).reshape(mesh.devices.shape)
    passes, width, each = _PASSES[choice.remat], language.width, 1 if config.model.int8 else 2
    gather = reduce = 0.0
    largest = 0.0
    for key, mix in config.stages[name].mixture.items():
        tokens = packing.row_shape(config.datasets[key].example, mix).length * mix.rows / ways
        largest = max(largest, tokens / mix.microbatches)
        weights = 2 * held["params"]["layers"] + each * held["frozen"]["layers"] * (mesh_config.frozen == "sharded")
        if mesh_config.fsdp > 1:
            gather += mix.microbatches * passes * links.ring("all-gather", weights / tensor, numbers[0, :, 0])
        if tensor > 1:
            reduced = 2 * passes * language.depth * 2 * tokens * width
            reduce += links.ring("all-reduce", reduced, numbers[0, 0, :])
    work = passes / 2 * flops / mesh.devices.size / chip.flops
    work = work / _MATRIX_SHARE + _OTHER * work
    seconds = max(gather, work) + reduce
    inner = (3 * language.heads * language.head_size + language.mlp_width) / tensor
    depth, every = language.depth, config.model.gated.every
    kept = {"dots": depth * (2 * width + inner), "layers": depth * width, "full": (depth / every + every) * width}
    held_bytes = 20 * held["params"]["device"] + each * held["frozen"]["device"]  # weights, moments and two gradients
    activations = (
        2 * largest * (kept[choice.remat] + 4 * (2 * width + inner)) + 12 * largest * language.vocab_size / tensor
    )
    return dataclasses.replace(choice, seconds=seconds, bytes=held_bytes + activations, text=text)
