"""Checksums of arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harm import flip

from flamingo_jax.config import MeshConfig
from flamingo_jax.training import fingerprint, sharding

RNG = np.random.default_rng(0)
TREE = {
    "a": {"kernel": RNG.standard_normal((8, 6, 4)).astype(np.float32), "scale": np.ones(8, np.float32)},
    "b": np.asarray(jnp.asarray(RNG.standard_normal((4, 8)), jnp.bfloat16)),
    "step": np.int32(7),
}
SPECS = {"a": {"kernel": jax.P("fsdp", None, "tensor"), "scale": jax.P()}, "b": jax.P("tensor"), "step": jax.P()}


def put(tree, sizes=(1, 1, 1)):
    mesh = sharding.make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    return jax.tree.map(lambda leaf, spec: jax.device_put(leaf, jax.NamedSharding(mesh, spec)), tree, SPECS)


def read(tree):
    places = jax.tree.map(lambda leaf: leaf.sharding, tree)
    return fingerprint.read(jax.device_get(jax.jit(fingerprint.make(places))(tree)), places)


def sums(tree, sizes=(1, 1, 1)):
    found, wrong = read(put(tree, sizes))
    assert not wrong
    return found


def test_it_is_the_sum_that_it_says():
    kernel = TREE["a"]["kernel"]
    places = 2 * np.arange(kernel.size, dtype=np.uint64) + 1
    expected = int((kernel.ravel().view(np.uint32).astype(np.uint64) * places % 2**32).sum() % 2**32)
    assert sums(TREE)["a/kernel"] == expected and sums(TREE)["step"] == 7


def test_on_the_host_it_is_the_same():
    found = sums(TREE, (2, 2, 2))
    leaves = jax.tree_util.tree_flatten_with_path(TREE)[0]
    host = {jax.tree_util.keystr(path, simple=True, separator="/"): fingerprint.of(leaf) for path, leaf in leaves}
    assert host == found


@pytest.mark.parametrize("bit", [0, 15, 31])
def test_every_flipped_bit_shows(bit):
    flipped = TREE["a"]["kernel"].copy()
    flipped.view(np.uint32)[5, 3, 2] ^= np.uint32(1 << bit)
    before, after = sums(TREE), sums({**TREE, "a": {**TREE["a"], "kernel": flipped}})
    assert [name for name in before if before[name] != after[name]] == ["a/kernel"]


def test_what_stands_in_anothers_place_shows():
    moved = TREE["a"]["kernel"].copy()
    moved[0, 0, [0, 1]] = moved[0, 0, [1, 0]]
    assert sums({**TREE, "a": {**TREE["a"], "kernel": moved}}) != sums(TREE)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 2, 4), (8, 1, 1)], ids=str)
def test_it_is_the_same_on_every_mesh(sizes):
    assert sums(TREE, sizes) == sums(TREE)


def test_copies_that_differ_are_told_by_device():
    """Of eight copies one is wrong; of two copies, of a part, nobody knows which."""
    tree = put(TREE, (2, 2, 2))
    tree["a"]["scale"] = flip(tree["a"]["scale"], 5, bit=3)
    number = next(n for n, s in enumerate(tree["a"]["kernel"].addressable_shards) if s.device.id == 6)
    tree["a"]["kernel"] = flip(tree["a"]["kernel"], number)
    found, wrong = read(tree)
    assert found.keys() == sums(TREE).keys() and len(wrong) == 2
    kernel, scale = sorted(wrong)
    assert kernel.startswith("a/kernel: device 2 (process 0) has ") and ", device 6 (process 0) has " in kernel
    named = tree["a"]["scale"].addressable_shards[5].device.id
    assert scale.startswith(f"a/scale: device {named} (process 0) has ") and "7 others " in scale


def test_wider_elements_are_refused():
    place = jax.NamedSharding(sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]), jax.P())
    with pytest.raises(TypeError, match="at most 32 bits, not of complex64"):
        jax.jit(fingerprint.make({"x": place}))({"x": jax.device_put(jnp.zeros(2, jnp.complex64), place)})
