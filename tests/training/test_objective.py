"""Losses against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flamingo_jax.config import ExampleConfig
from flamingo_jax.data.example import empty_batch
from flamingo_jax.training.objective import contrastive, contrastive_loss, gates, token_loss


def test_token_loss_is_the_weighted_mean_over_next_tokens():
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(size=(2, 5, 7)).astype(np.float32), rng.integers(0, 7, (2, 5))
    weights = np.array([[1, 1, 0, 1, 1], [1, 0, 0, 1, 0]], np.float32)
    total = count = 0.0
    for b in range(2):
        for at in range(1, 5):
            log_p = logits[b, at - 1] - np.log(np.exp(logits[b, at - 1]).sum())
            total -= weights[b, at] * log_p[tokens[b, at]]
            count += weights[b, at]
    np.testing.assert_allclose(token_loss(logits, jnp.asarray(tokens), jnp.asarray(weights)), total / count, rtol=1e-5)


def test_token_loss_of_nothing_is_zero_and_so_is_its_gradient():
    logits, tokens = jnp.ones((1, 3, 4)), jnp.zeros((1, 3), jnp.int32)
    value, grad = jax.value_and_grad(token_loss)(logits, tokens, jnp.zeros((1, 3)))
    assert value == 0 and not np.any(grad)


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
    objective = contrastive(model_config, eoc=3, pad=0)
    params = objective.init(jax.random.key(0), batch)["params"]
    grads = jax.jit(jax.grad(objective.loss))(params, {}, batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_gates_are_listed_bottom_to_top(flamingo):
    _, variables = flamingo
    values = gates(variables["params"])
    assert list(values) == ["gate/attention/0", "gate/attention/1", "gate/mlp/0", "gate/mlp/1"]
    np.testing.assert_allclose(list(values.values()), np.tanh(0.7), rtol=1e-6)
