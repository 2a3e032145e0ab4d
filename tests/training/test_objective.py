"""Losses against their definitions."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flamingo_jax.config import ExampleConfig
from flamingo_jax.data.example import empty_batch
from flamingo_jax.models.flamingo import Flamingo
from flamingo_jax.training.objective import contrastive, contrastive_loss, flamingo, gates, language


def test_contrastive_loss_is_symmetric_and_knows_the_diagonal():
    a, b = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in jax.random.normal(jax.random.key(0), (2, 6, 4)))
    valid = jnp.ones(6, bool)
    one, other = (contrastive_loss(x, y, 3.0, 0.1, valid) for x, y in ((a, b), (b, a)))
    np.testing.assert_allclose(one, other, rtol=1e-6)
    assert contrastive_loss(a, a, 30.0, 0.0, valid) < contrastive_loss(a, jnp.roll(a, 1, 0), 30.0, 0.0, valid)
    labels = jnp.arange(6)
    plain = optax.softmax_cross_entropy_with_integer_labels(5.0 * a @ b.T, labels).mean()
    plain += optax.softmax_cross_entropy_with_integer_labels(5.0 * b @ a.T, labels).mean()
    np.testing.assert_allclose(contrastive_loss(a, b, 5.0, 0.0, valid), plain, rtol=1e-5)


def test_an_unreadable_pair_changes_neither_loss_nor_gradient():
    a, b = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in jax.random.normal(jax.random.key(0), (2, 6, 4)))
    valid = jnp.arange(6) != 2
    masked, grad = jax.value_and_grad(contrastive_loss)(a, b, 3.0, 0.1, valid)
    keep = np.flatnonzero(valid)
    left, expected = jax.value_and_grad(contrastive_loss)(a[keep], b[keep], 3.0, 0.1, jnp.ones(5, bool))
    np.testing.assert_allclose(masked, left, rtol=1e-5)
    np.testing.assert_allclose(grad[keep], expected, rtol=1e-4, atol=1e-6)
    assert not np.any(grad[2])


def test_a_dummy_among_the_pairs_leaves_the_gradients_finite(model_config):
    """What stands for an unreadable record is padding alone, and its text has no direction."""
    rng = np.random.default_rng(0)
    batch = empty_batch(ExampleConfig(length=6, size=16), 3)
    batch["tokens"][:2] = rng.integers(4, 64, (2, 6))
    batch["media"][:2] = rng.integers(0, 256, batch["media"][:2].shape)
    batch["media_mask"][:2], batch["weights"][:2] = True, 1.0
    objective = contrastive(model_config, new_tokens=(3,), pad=0)
    params = objective.init(jax.random.key(0), batch)["params"]
    grads = jax.jit(jax.grad(objective.loss))(params, {}, batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_gates_are_listed_bottom_to_top(flamingo):
    _, variables = flamingo
    values = gates(variables["params"])
    assert list(values) == ["gate/attention/0", "gate/attention/1", "gate/mlp/0", "gate/mlp/1"]
    np.testing.assert_allclose(list(values.values()), np.tanh(0.7), rtol=1e-6)


@pytest.mark.parametrize(
    "options, names",
    [
        ({}, ("attention", "mlp")),
        ({"gate": "vector"}, ("attention", "mlp")),
        ({"mlp": "none"}, ("attention",)),
        ({"gate": "none"}, ()),
        ({"graft": 2}, ("attention", "mlp")),
    ],
    ids=str,
)
def test_gates_are_watched_where_there_are_some(model_config, example, options, names):
    """Depth 3 and a gated layer before every second block: two of them, one in the shorter last group."""
    gated = dataclasses.replace(model_config.gated, gate_init=0.5, **options)
    model = Flamingo(dataclasses.replace(model_config, gated=gated), (3,))
    shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), *example.values()))["params"]
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5), shapes)
    found = gates(params)
    assert set(found) == {f"gate/{name}/{i}" for name in names for i in range(2)}
    for value in found.values():
        assert value == pytest.approx(np.tanh(0.5))


def test_depth_is_stochastic_in_training_and_nowhere_else(model_config):
    """A key makes the loss random where the encoder trains; without one, and where it is frozen, nothing is drawn."""
    vision = dataclasses.replace(model_config.vision, depths=(1, 2), stochastic_depth=0.9)
    goal = contrastive(dataclasses.replace(model_config, vision=vision), new_tokens=(3,), pad=0)
    rng = np.random.default_rng(0)
    batch = {
        "media": rng.integers(0, 256, (4, 1, 1, 16, 16, 3)).astype(np.uint8),
        "tokens": rng.integers(4, 64, (4, 6)).astype(np.int32),
        "weights": np.ones((4, 6), np.float32),
        "media_mask": np.ones((4, 1), bool),
    }
    params = nn.meta.unbox(jax.jit(goal.init)(jax.random.key(0), batch))["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.5 if leaf.ndim == 0 else leaf, params)  # skip gains start at zero
    loss = jax.jit(goal.loss)
    plain, *drawn = (float(loss(params, {}, batch, key)) for key in (None, jax.random.key(1), jax.random.key(2)))
    assert len({plain, *drawn}) == 3 and plain == float(loss(params, {}, batch))


@pytest.mark.parametrize("goal", [language, flamingo])
def test_packed_documents_weigh_in_as_in_rows_of_their_own(model_config, example, goal):
    """Two rows of twelve tokens and three media, and both in one row; a document's first token weighs nothing."""
    goal = goal(model_config, new_tokens=(3,), pad=0)
    apart = {**example, "weights": jnp.ones((2, 12)).at[:, 0].set(0.0)}
    packed = {key: value.reshape(1, -1, *value.shape[2:]) for key, value in apart.items()}
    packed["media_index"] += 3 * (jnp.arange(24) >= 12) * (packed["media_index"] > 0)
    segments = {"segments": 1 + (jnp.arange(24) >= 12).astype(jnp.int32)[None]}
    variables = nn.meta.unbox(jax.jit(goal.init)(jax.random.key(0), packed | segments))
    loss = jax.jit(lambda batch: goal.loss(variables["params"], variables.get("frozen", {}), batch))
    np.testing.assert_allclose(loss(packed | segments), loss(apart), rtol=1e-5)
    assert abs(loss(packed) - loss(apart)) > 1e-3
