"""Checksums of arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.config import MeshConfig
from flamingo_jax.training import fingerprint, sharding

RNG = np.random.default_rng(0)
TREE = {
    "a": {"kernel": RNG.standard_normal((8, 6, 4)).astype(np.float32), "scale": np.ones(8, np.float32)},
    "b": jnp.asarray(RNG.standard_normal((4, 8)), jnp.bfloat16),
    "step": np.int32(7),
}


def sums(tree):
    return {name: int(value) for name, value in jax.device_get(jax.jit(fingerprint.of)(tree)).items()}


def test_it_is_the_sum_that_it_says():
    kernel = TREE["a"]["kernel"]
    places = 2 * np.arange(kernel.size, dtype=np.uint64) + 1
    expected = int((kernel.ravel().view(np.uint32).astype(np.uint64) * places % 2**32).sum() % 2**32)
    assert sums(TREE)["a/kernel"] == expected and sums(TREE)["step"] == 7


@pytest.mark.parametrize("bit", [0, 15, 31])
def test_every_flipped_bit_shows(bit):
    flipped = TREE["a"]["kernel"].copy()
    flipped.view(np.uint32)[5, 3, 2] ^= np.uint32(1 << bit)
    before, after = sums(TREE), sums({**TREE, "a": {**TREE["a"], "kernel": flipped}})
    assert [name for name in before if before[name] != after[name]] == ["a/kernel"]


def test_what_stands_in_anothers_place_shows():
    moved = TREE["a"]["kernel"].copy()
    moved[0, 0, [0, 1]] = moved[0, 0, [1, 0]]
    assert sums({"kernel": moved}) != sums({"kernel": TREE["a"]["kernel"]})


def test_it_is_the_same_on_every_mesh():
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    spread = jax.device_put(TREE["a"]["kernel"], jax.NamedSharding(mesh, jax.P("fsdp", None, "tensor")))
    assert sums({"x": spread}) == sums({"x": TREE["a"]["kernel"]})


def test_wider_elements_are_refused():
    with pytest.raises(TypeError, match="at most 32 bits, not of complex64"):
        fingerprint.of({"x": jnp.zeros(2, jnp.complex64)})
