"""The table of logical axes: what goes where, and what is refused."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flamingo_jax.config import MeshConfig, MixConfig
from flamingo_jax.models import axes
from flamingo_jax.training import sharding


def test_mesh_takes_what_is_left():
    assert dict(sharding.make_mesh(MeshConfig(data=-1, fsdp=2, tensor=2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 1, 1)])
def test_a_mesh_that_does_not_fit_is_refused(sizes):
    with pytest.raises(ValueError, match="does not fit 8 devices"):
        sharding.make_mesh(MeshConfig(*sizes))


def test_processes_whose_devices_hold_the_same_rows_feed_the_same_part():
    def parts(processes, sizes, count):
        devices = [SimpleNamespace(process_index=process) for process in processes]
        mesh = SimpleNamespace(
            devices=np.reshape(devices, sizes), shape=dict(zip(sharding.MESH_AXES, sizes, strict=True))
        )
        return [sharding.host_part(mesh, process) for process in range(count)]

    two, four = [0] * 4 + [1] * 4, [0, 0, 1, 1, 2, 2, 3, 3]
    assert parts(two, (4, 2, 1), 2) == parts(two, (1, 2, 4), 2) == [(0, 2), (1, 2)]
    assert parts(two, (1, 1, 8), 2) == [(0, 1), (0, 1)]
    assert parts(four, (2, 1, 4), 4) == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert parts([1, 1, 0, 0], (4, 1, 1), 2) == [(1, 2), (0, 2)]  # the mesh's order, not that of the processes
    with pytest.raises(ValueError, match=r"tensor': 3.* 2 processes hold the parts \[\(0, 1\), \(1, 2\)\]"):
        parts([0, 0, 0, 0, 1, 1, 1, 1, 1], (3, 1, 3), 2)


def test_unknown_axis_names_raise():
    with pytest.raises(ValueError, match="'embde' is no weight axis"):
        axes.named(nn.initializers.zeros, "embde")
    with pytest.raises(ValueError, match="'lenght' is no activation axis"):
        axes.constrain(jnp.zeros((1, 1)), "batch", "lenght")


def test_all_offending_weights_are_named_at_once():
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    tree = {
        "odd": nn.LogicallyPartitioned(jax.ShapeDtypeStruct((6, 8), jnp.float32), ("embed", "mlp")),
        "large": nn.LogicallyPartitioned(jax.ShapeDtypeStruct((2048, 1024), jnp.float32), (None, "joint")),
        "fine": nn.LogicallyPartitioned(jax.ShapeDtypeStruct((8, 8), jnp.float32), ("embed", "mlp")),
        "twice": nn.LogicallyPartitioned(jax.ShapeDtypeStruct((8, 8), jnp.float32), ("mlp", "heads")),
    }
    with pytest.raises(
        ValueError, match=r"(?s)large.*replicated.*odd.*embed=6 is not divisible by fsdp=4.*twice.*same"
    ):
        sharding.shard_tree(mesh, tree)
    assert sharding.shard_tree(mesh, {"fine": tree["fine"]})["fine"].spec == P("fsdp", "tensor")


def test_small_convolutions_may_stay_whole_and_large_ones_may_not():
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=8, tensor=1))

    def spec(*shape):
        kernel = jax.ShapeDtypeStruct(shape, jnp.float32)
        axes = (None, None, "channels_in", "channels_out")
        return sharding.shard_tree(mesh, {"kernel": nn.LogicallyPartitioned(kernel, axes)})["kernel"].spec

    assert spec(3, 3, 3, 16) == P(None, None, None, "fsdp") and spec(3, 3, 3, 12) == P(None, None, None, None)
    with pytest.raises(ValueError, match="channels_out=1020 is not divisible by fsdp=8"):
        spec(3, 3, 512, 1020)


def test_frozen_weights_are_gathered_in_loops_or_not_at_all():
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    shape = jax.ShapeDtypeStruct((8, 8, 8), jnp.float32)
    tree = {"block": nn.LogicallyPartitioned(shape, ("layers", "embed", "mlp"))}
    tree |= {"table": nn.LogicallyPartitioned(jax.ShapeDtypeStruct((2048, 1024), jnp.float32), ("vocab", "embed"))}

    def specs(frozen):
        return {name: place.spec for name, place in sharding.shard_tree(mesh, tree, frozen).items()}

    assert specs("") == {"block": P(None, "fsdp", "tensor"), "table": P("tensor", "fsdp")}
    assert specs("sharded") == {"block": P(None, "fsdp", "tensor"), "table": P("tensor", None)}
    assert specs("replicated") == {"block": P(None, None, "tensor"), "table": P("tensor", None)}


@pytest.mark.parametrize("count, spec", [(16, "data fsdp tensor"), (12, "data fsdp"), (2, "data"), (3, "")])
def test_images_are_divided_among_as_many_axes_as_divide_them(count, spec):
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with sharding.use(mesh):
        images = jnp.zeros((count, 4))
        place = jax.jit(lambda x: axes.constrain(x, "images", None) + 1)(images).sharding
    expected = NamedSharding(mesh, P(tuple(spec.split()) or None))
    assert place.is_equivalent_to(expected, 2)


def test_constraints_reach_the_compiler():
    mesh = sharding.make_mesh(MeshConfig(data=4, fsdp=1, tensor=2))
    with sharding.use(mesh):
        text = jax.jit(lambda x: axes.constrain(x, "batch", "length", "act_vocab")).lower(jnp.ones((8, 4, 6))).as_text()
    assert "sharding_constraint" in text and "tensor" in text


def test_a_batch_that_does_not_divide_is_refused():
    mesh = sharding.make_mesh(MeshConfig())
    with pytest.raises(ValueError, match="m3w.batch_size=12 is not divisible by data x fsdp = 8"):
        sharding.check_batch(mesh, "m3w", MixConfig(12))
    sharding.check_batch(mesh, "align", MixConfig(64, pack=8, row_length=160))
    with pytest.raises(ValueError, match="align.batch_size=32 is 4 rows and not divisible .* use a multiple of 64"):
        sharding.check_batch(mesh, "align", MixConfig(32, pack=8, row_length=160))
