"""Three ways of mixing datasets: whose turn it is, and that merged datasets are one batch."""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flamingo_jax.config import MeshConfig, MixConfig, OptimizerConfig, StageConfig
from flamingo_jax.training import mixing, sharding
from flamingo_jax.training import state as shapes
from flamingo_jax.training.objective import OBJECTIVES
from flamingo_jax.training.step import make_step

NAMES = ("pages", "pairs", "clips")


def test_all_take_part_but_in_round_robin_one_after_the_other():
    assert mixing.turn("accumulation", NAMES, 4) == mixing.turn("merged", NAMES, 4) == NAMES
    turns = [mixing.turn("round_robin", NAMES, step) for step in range(7)]
    assert turns == [(name,) for name in (*NAMES, *NAMES, "pages")]


def batch(seed, size=8, length=12, media=2):
    """Random examples, the first of them a dummy."""
    rng = np.random.default_rng(seed)
    out = {
        "tokens": rng.integers(4, 64, (size, length)).astype(np.int32),
        "weights": rng.integers(0, 2, (size, length)).astype(np.float32),
        "media": rng.integers(0, 256, (size, media, 1, 16, 16, 3)).astype(np.uint8),
        "media_index": np.sort(rng.integers(0, media + 1, (size, length))).astype(np.int32),
        "media_mask": np.ones((size, media), bool),
        "unreadable": np.zeros((size, 2), np.int32),
    }
    out["tokens"][0], out["weights"][0], out["media_mask"][0] = 0, 0.0, False
    return out


def concatenate(batches, weights):
    """One batch by hand: texts padded to the longest, first media, each dataset's token weights times its own."""
    length = max(batch["tokens"].shape[1] for batch in batches.values())
    media = min(batch["media"].shape[1] for batch in batches.values())
    out = []
    for name, batch in batches.items():
        pad = ((0, 0), (0, length - batch["tokens"].shape[1]))
        texts = {key: np.pad(batch[key], pad) for key in ("tokens", "weights", "media_index")}
        texts["weights"] = texts["weights"] * np.float32(weights[name])
        out.append(
            texts
            | {key: batch[key][:, :media] for key in ("media", "media_mask")}
            | {"unreadable": batch["unreadable"]}
        )
    return {key: np.concatenate([part[key] for part in out]) for key in out[0]}


def update(goal, variables, batches, weights, way, mesh_config):
    """(gradients, metrics) of one step on a mesh over as many devices as its sizes ask for, on the host."""
    mesh = sharding.make_mesh(mesh_config, jax.devices()[: mesh_config.data * mesh_config.fsdp * mesh_config.tensor])
    optimizer, params = optax.sgd(1.0), variables["params"]
    with sharding.use(mesh):
        batches = {name: sharding.put_batch(mesh, batch) for name, batch in batches.items()}
        state = shapes.initial(optimizer, params)
        step = jax.jit(make_step(goal, weights, optimizer, way))
        state, metrics = jax.device_get(step(state, variables.get("frozen", {}), batches))
    return jax.tree.map(lambda before, after: before - after, jax.device_get(params), state["params"]), metrics


def initialise(goal, batch):
    """Random weights; gates are open and skip gains not zero, or most gradients would be."""
    variables = nn.meta.unbox(jax.jit(goal.init)(jax.random.key(0), batch))
    params = jax.tree.map(lambda leaf: leaf + 0.5 if leaf.ndim < 2 else leaf, variables["params"])
    return {**variables, "params": params}


@pytest.mark.parametrize(
    "name, shapes, weights",
    [
        ("language", {"a": {"length": 12}, "b": {"length": 9, "size": 16}}, {"a": 1.0, "b": 0.3}),
        pytest.param("flamingo", {"a": {}, "b": {"size": 16}}, {"a": 0.5, "b": 2.0}, marks=pytest.mark.slow),
        ("contrastive", {"a": {"length": 7, "media": 1}, "b": {"length": 12, "size": 16}}, {"a": 1.0, "b": 1.0}),
    ],
)
def test_merged_on_eight_devices_is_one_batch_of_all_examples_on_one(model_config, name, shapes, weights):
    """Texts of several lengths, batches of several sizes, tokens weighted by lambda; with dummies."""
    goal = OBJECTIVES[name](model_config, new_tokens=(3,), pad=0)
    batches = {key: batch(seed, **shape) for seed, (key, shape) in enumerate(shapes.items())}
    one = concatenate(batches, weights)
    variables = initialise(goal, one)
    expected, metrics = update(goal, variables, {"all": one}, {"all": 1.0}, "accumulation", MeshConfig(1, 1, 1))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 0.01
    grads, merged = update(goal, variables, batches, weights, "merged", MeshConfig(4, 2, 1))
    chex.assert_trees_all_close(grads, expected, rtol=1e-5, atol=1e-5)
    if name == "contrastive":
        loss = merged["loss/merged"]
    else:  # the datasets' own losses are there, and their mean over weighted tokens is the merged one
        count = {key: weights[key] * batches[key]["weights"][:, 1:].sum() for key in batches}
        loss = sum(count[key] * merged[f"loss/{key}"] for key in batches) / sum(count.values())
    np.testing.assert_allclose(loss, metrics["loss/all"], rtol=1e-5)


def test_datasets_without_a_weighted_token_merge_into_nothing():
    batches = {name: {"weights": jnp.zeros((2, 4))} for name in NAMES}
    assert all(weight == 0 for weight in mixing.merge_tokens(batches, dict.fromkeys(NAMES, 1.0))[1].values())


def test_examples_stay_on_their_devices_when_batches_become_one():
    mesh = sharding.make_mesh(MeshConfig(4, 2, 1))
    with sharding.use(mesh):
        parts = [np.arange(size * 3).reshape(size, 3).astype(np.uint8) for size in (8, 16)]
        places = [sharding.put_batch(mesh, {"x": part})["x"] for part in parts]
        compiled = jax.jit(lambda *x: sharding.concatenate(x) + 1).lower(*places).compile()
        assert "all-" not in compiled.as_text() and "collective" not in compiled.as_text()
        rows = np.asarray(compiled(*places)) - 1
    assert sorted(map(tuple, rows)) == sorted(map(tuple, np.concatenate(parts)))


def test_a_dataset_draws_the_same_whatever_others_there_are(model_config):
    """Each dataset's random key is its own: one that is added changes nothing for the others."""
    vision = dataclasses.replace(model_config.vision, depths=(1, 2), stochastic_depth=0.9)
    goal = OBJECTIVES["contrastive"](dataclasses.replace(model_config, vision=vision), new_tokens=(3,), pad=0)
    batches = {name: batch(0, media=1) for name in ("a", "b")}
    variables = initialise(goal, batches["a"])
    sets = (batches, {"b": batches["b"]})
    both, alone = (update(goal, variables, s, dict.fromkeys(s, 1.0), "accumulation", MeshConfig(1, 1, 1)) for s in sets)
    assert both[1]["loss/b"] == alone[1]["loss/b"] != both[1]["loss/a"]


def stage(**options):
    return StageConfig(**{"objective": "contrastive", "steps": 1, "optimizer": OptimizerConfig(), **options})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mixing": "round-robin"}, "mixing='round-robin' is unknown; did you mean 'round_robin'"),
        ({"mixing": "round_robin", "mixture": {"m3w": MixConfig(8)}}, r"several datasets, but mixture has 1 \(m3w\)"),
        ({"mixing": "merged", "mixture": {}}, r"mixing='merged' needs .* mixture has 0 \(none\)"),
        (
            {"mixing": "merged", "mixture": {"align": MixConfig(8), "ltip": MixConfig(8, 0.2)}},
            r"the weights \{'align': 1.0, 'ltip': 0.2\}; make them equal",
        ),
    ],
    ids=str,
)
def test_a_mixture_that_contradicts_its_mixing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        stage(**{"mixture": {"align": MixConfig(8), "ltip": MixConfig(8)}, **options})
    weights = {"align": MixConfig(8), "ltip": MixConfig(8, 0.2)}
    assert stage(objective="flamingo", mixing="merged", mixture=weights).mixing == "merged"
