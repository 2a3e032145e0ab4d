"""One update: accumulation, frozen weights, the optimizer. ``test_meshes.py`` has that of several devices."""

import chex
import jax
import numpy as np
import optax
import pytest

from flamingo_jax.config import MeshConfig, OptimizerConfig
from flamingo_jax.training import objective, sharding
from flamingo_jax.training import state as shapes
from flamingo_jax.training.optimizer import decayed, learning_rate, make_optimizer
from flamingo_jax.training.step import make_step

WEIGHTS = {"pages": 1.0, "pairs": 0.2}


@pytest.fixture(scope="module")
def task(model_config, flamingo):
    """(objective, variables, batches of eight) with everything random."""
    rng = np.random.default_rng(1)

    def batch(media):
        return {
            "tokens": rng.integers(4, 64, (8, 12)).astype(np.int32),
            "weights": rng.integers(0, 2, (8, 12)).astype(np.float32),
            "media": rng.integers(0, 256, (8, media, 1, 16, 16, 3)).astype(np.uint8),
            "media_index": np.sort(rng.integers(0, media + 1, (8, 12))).astype(np.int32),
            "media_mask": np.ones((8, media), bool),
            "unreadable": np.zeros((8, 2), np.int32),
        }

    return objective.flamingo(model_config, new_tokens=(3,), pad=0), flamingo[1], {"pages": batch(3), "pairs": batch(1)}


def update(task, optimizer, mesh_config, weights=WEIGHTS):
    """One step on a mesh over as many devices as its sizes ask for: (state, metrics) on the host."""
    goal, variables, batches = task
    count = mesh_config.data * mesh_config.fsdp * mesh_config.tensor
    mesh = sharding.make_mesh(mesh_config, jax.devices()[:count])
    with sharding.use(mesh):
        batches = {name: sharding.put_batch(mesh, batches[name]) for name in weights}
        boxed = jax.eval_shape(lambda key: goal.init(key, next(iter(batches.values()))), jax.random.key(0))
        place = {name: sharding.shard_tree(mesh, boxed[name]) for name in ("params", "frozen")}
        params, frozen = (jax.device_put(variables[name], place[name]) for name in ("params", "frozen"))
        state = shapes.initial(optimizer, params)
        return jax.device_get(jax.jit(make_step(goal, weights, optimizer))(state, frozen, batches))


@pytest.fixture(scope="module")
def single(task):
    return update(task, optax.sgd(1.0), MeshConfig(1, 1, 1))


def test_accumulation_is_the_lambda_weighted_sum_of_gradients(task, single):
    """With plain gradient descent the step of both datasets is the weighted sum of the steps of each."""
    before = task[1]["params"]
    steps = [update(task, optax.sgd(1.0), MeshConfig(1, 1, 1), {name: 1.0})[0]["params"] for name in WEIGHTS]
    moves = [jax.tree.map(lambda after, old: after - old, step, before) for step in steps]
    expected = jax.tree.map(lambda old, a, b: old + 1.0 * a + 0.2 * b, before, *moves)
    chex.assert_trees_all_close(single[0]["params"], expected, rtol=1e-4, atol=1e-5)


def test_state_holds_trainable_weights_alone(task, single):
    state, _ = single
    assert set(state["params"]) == {"resampler", "decoder"}
    adam = make_optimizer(OptimizerConfig(), 10).init(state["params"])
    assert sum(leaf.size for leaf in jax.tree.leaves(adam)) < 2.1 * sum(
        x.size for x in jax.tree.leaves(state["params"])
    )


def test_decay_spares_the_resampler_and_all_vectors(task):
    chosen = decayed(task[1]["params"])
    assert not any(jax.tree.leaves(chosen["resampler"]))
    gated = chosen["decoder"]["groups"]["gated"]
    assert gated["attention"]["query"]["kernel"] and gated["mlp"]["up"]["kernel"]
    assert not gated["attention_gate"] and not gated["text_norm"]["scale"] and not chosen["decoder"]["new_rows"]


def test_learning_rate_rises_stays_and_falls():
    rate = learning_rate(OptimizerConfig(learning_rate=1.0, warmup=10, decay_fraction=0.2), 100)
    np.testing.assert_allclose([rate(step) for step in (0, 5, 10, 79, 90, 100)], [0, 0.5, 1, 1, 0.5, 0], atol=1e-6)
    short = learning_rate(OptimizerConfig(learning_rate=1.0, warmup=50, decay_fraction=0.8), 80)
    assert max(abs(short(step + 1) - short(step)) for step in range(80)) < 0.03  # no jump where the two meet
    paper = learning_rate(OptimizerConfig(), 500_000)
    np.testing.assert_allclose([paper(2500), paper(5000), paper(499_999)], [5e-5, 1e-4, 1e-4], rtol=1e-5)
