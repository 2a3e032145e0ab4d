"""A batch in pieces: the update of the whole, one piece's activations, every row on its device."""

import collections
import dataclasses
import functools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import updates
from updates import MIXTURE

from flamingo_jax.config import MeshConfig, MixConfig
from flamingo_jax.training import microbatch, sharding
from flamingo_jax.training.objective import Objective


def in_pieces(pieces, **options):
    """Packed captions, of which the later rows have far more tokens that count."""
    return {"packed": dataclasses.replace(MIXTURE["packed"], microbatches=pieces, **options)}


@functools.cache
def whole(objective):
    return updates.run(updates.ONE, objective, mixture=in_pieces(1))


@pytest.mark.parametrize(
    "objective, pieces",
    [("language", 4), ("language", 16), pytest.param("language", 2, marks=pytest.mark.slow), ("flamingo", 4)],
    ids=str,
)
def test_pieces_make_the_update_of_the_whole(objective, pieces):
    """Within 2e-6; of sixteen pieces each is a row, the first of which counts for nothing."""
    updates.assert_same(updates.run(updates.ONE, objective, mixture=in_pieces(pieces)), whole(objective), 2e-6)


def test_a_mean_of_means_would_be_another_loss_and_nothing_has_no_gradient():
    goal, mix = updates.goal("language"), in_pieces(4)["packed"]
    batch, key = updates.batch("packed", mix, 0), jax.random.key(0)
    params = nn.meta.unbox(jax.jit(goal.init)(key, batch))["params"]
    gradient = jax.jit(microbatch.gradient(goal, 4))
    loss, _ = gradient(params, {}, batch, key)
    parts = jax.tree.map(lambda leaf: leaf.reshape(4, -1, *leaf.shape[1:]), batch)
    means = jax.jit(jax.vmap(goal.loss, (None, None, 0)))(params, {}, parts)
    counts = parts["weights"][:, :, 1:].sum((1, 2))
    assert counts.max() > 3 * counts.min() and abs(means.mean() - loss) > 1e-3
    np.testing.assert_allclose(loss, (means * counts).sum() / counts.sum(), rtol=1e-6)
    loss, grads = gradient(params, {}, {**batch, "weights": 0 * batch["weights"]}, key)
    assert loss == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


def lot(params, frozen, batch, key=None, weight=None):
    """A loss that is random and has weights [B]."""
    weight = total(batch) if weight is None else weight
    return (params["w"] * jax.random.uniform(key) * batch["weights"]).sum().astype(jnp.float32) / weight


def total(batch):
    return batch["weights"].sum()


def test_every_piece_draws_anew_and_sums_are_float32():
    goal = Objective(None, lot, None, weight=total)
    key, batch = jax.random.key(1), {"weights": jnp.array([1.0, 2.0, 0.0, 5.0])}
    loss, grads = microbatch.gradient(goal, 2)({"w": jnp.bfloat16(1)}, {}, batch, key)
    drawn = [jax.random.uniform(jax.random.fold_in(key, i)) for i in range(2)]
    np.testing.assert_allclose(loss, (3 * drawn[0] + 5 * drawn[1]) / 8, rtol=1e-2)
    assert grads["w"].dtype == loss.dtype == jnp.float32 and drawn[0] != drawn[1]


def compiled(sizes, mixture, objective="language"):
    mesh, step, state, frozen = updates.prepare(sizes, objective, mixture=mixture)
    with sharding.use(mesh):
        return step.lower(state, frozen, updates.feed(mesh, mixture, 0)).compile()


def test_one_piece_needs_memory_at_a_time():
    used = [
        compiled(updates.ONE, in_pieces(pieces, batch_size=192)).memory_analysis().temp_size_in_bytes
        for pieces in (1, 8)
    ]
    assert used[1] < used[0] / 4


def test_rows_stay_on_their_devices():
    """All arrays of a batch, an empty one among them; neither cutting them nor going through them sends anything."""
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    batch = {
        "media": np.arange(16 * 6, dtype=np.uint8).reshape(16, 2, 3),
        "weights": np.arange(16, dtype=np.float32),
        "none": np.zeros((16, 0, 3), np.uint8),
    }

    def pieces(batch):
        parts = jax.tree.map(lambda leaf: microbatch.split(leaf, 2), batch)
        return parts, jax.lax.scan(lambda carry, part: (carry, jax.tree.map(lambda x: x + 1, part)), 0, parts)[1]

    with sharding.use(mesh):
        put = sharding.put_batch(mesh, batch)
        program = jax.jit(pieces).lower(put).compile()
        parts, later = program(put)
    assert not exchanges(program.as_text(), re.compile(".*"))
    chex.assert_trees_all_equal(later, jax.tree.map(lambda leaf: leaf + 1, parts))
    assert parts["none"].shape == (2, 8, 0, 3)
    assert sorted(np.ravel(parts["weights"])) == list(range(16))
    for name in ("media", "weights"):
        for shard in put[name].addressable_shards:
            (here,) = (part for part in parts[name].addressable_shards if part.device == shard.device)
            chex.assert_trees_all_equal(np.asarray(here.data).reshape(shard.data.shape), np.asarray(shard.data))


def exchanges(text, kinds):
    """{(kind, type of the result): how many} of a compiled program's collectives."""
    found = re.findall(r" = (.*?) (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(", text)
    return collections.Counter((kind, result) for result, kind in found if kinds.fullmatch(kind))


@pytest.mark.parametrize("mesh", [(2, 2, 2), pytest.param((1, 8, 1), marks=pytest.mark.slow)], ids=str)
def test_a_step_in_pieces_sends_what_a_step_of_one_piece_sends(mesh):
    """But for sums: a piece of 24 documents is gathered for as a batch of 24 is, and nothing for its being a piece."""
    moves = re.compile("all-gather|all-to-all|collective-.*")
    twice, once = (
        exchanges(compiled(mesh, mixture).as_text(), moves) for mixture in (in_pieces(2), in_pieces(1, batch_size=24))
    )
    assert once and not twice - once


def test_sums_of_gradients_are_split_as_weights_are():
    text = compiled((1, 4, 2), in_pieces(2)).as_text()
    loop = max(re.findall(r"%while\S* = (\(.*?\)) while\(", text), key=len)
    assert (
        loop.count("f32[3,8,4,4]") >= 6
    )  # queries, keys and values, 32 x 8 x 4 in each of three layers; and their sums
    assert "[3,32,8,4]" not in text and "[3,32,4,4]" not in text and "[3,8,8,4]" not in text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 24, "microbatches": 2}, "x.batch_size=24 is not divisible by data x fsdp = 8 devices x "
         "microbatches = 2; use a multiple of 16, or microbatches of 1, 3"),
        ({"batch_size": 12, "microbatches": 3}, "= 8 devices x microbatches = 3; use a multiple of 24.$"),
        ({"batch_size": 64, "pack": 2, "row_length": 9, "microbatches": 3}, "is 32 rows and not .* a multiple of 48, "
         "or microbatches of 1, 2, 4"),
    ],
)  # fmt: skip
def test_pieces_that_do_not_divide_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sharding.check_batch(sharding.make_mesh(MeshConfig()), "x", MixConfig(**options))
    sharding.check_batch(sharding.make_mesh(MeshConfig()), "x", MixConfig(48, microbatches=6))
