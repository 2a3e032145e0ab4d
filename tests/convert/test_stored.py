"""Weights in files: read whole, in blocks and onto meshes alike; written back as they were."""

import pathlib
import re

import chex
import flax.traverse_util as traverse
import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from flamingo_jax.convert import place, vision
from flamingo_jax.convert.language import language_rules
from flamingo_jax.convert.load import find
from flamingo_jax.convert.public import read_config
from flamingo_jax.convert.reader import Checkpoint
from flamingo_jax.convert.rules import write

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def flat(tree):
    return traverse.flatten_dict(tree, sep="/")


def tables(folder, found):
    """(rules of a folder's family, renaming from its names to theirs)."""
    config = read_config(folder)
    if "language" in found.public:
        return language_rules(config, found.config)
    rules, strip, _ = vision.SPELLINGS[vision.spelling(config)]
    return rules(found.config), lambda name: re.sub(f"^({strip})", "", name)


def check_written(folder):
    """What is written from what was read is the file, bit for bit."""
    found, checkpoint = find(folder), Checkpoint(folder)
    rules, rename = tables(folder, found)
    written = dict(write(rules, flat(found.weights)))
    names = {rename(name): name for name in checkpoint.shapes}
    for name, tensor in written.items():
        original = checkpoint.get(names[name])
        assert (tensor.shape, tensor.dtype) == (original.shape, original.dtype), name
        if any(rule.falling for rule in rules) and "c_attn" in name:  # divided and multiplied
            np.testing.assert_allclose(tensor, original, rtol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(tensor, original, err_msg=name)
    left = {name for name in names if name not in written}
    assert not [name for name in left if not re.search(r"mask_token|^head\.|^(?!visual)|inv_freq", name)]
    return written, left


def test_language_models_are_written_as_they_were(language_folder):
    _, left = check_written(language_folder)
    assert not left


def test_vision_encoders_are_written_as_they_were(vision_folder):
    check_written(vision_folder)


def test_weights_without_a_public_name_are_listed(language_folder):
    found = find(language_folder)
    rules, _ = tables(language_folder, found)
    with pytest.raises(ValueError, match="These weights have no public name: a/b, c"):
        list(write(rules, flat(found.weights) | {"a/b": np.zeros(2), "c": np.zeros(2)}))


@pytest.mark.parametrize("ways, device", [(2, "cpu"), (4, "cpu"), (2, "tpu")])
def test_a_mesh_holds_the_same_weights(language_folder, ways, device, monkeypatch):
    """Split along every axis that divides, one after another; layers are never split. As a host's own memory is filled,
    and as accelerators are."""
    found = find(language_folder)
    if device == "tpu":

        def stream(weight, sharding):
            one = PartitionSpec(*sharding.spec[weight.tensors.ndim :])
            return place._stream(weight, sharding, NamedSharding(sharding.mesh, one))

        monkeypatch.setattr(place, "_fill", stream)
    mesh = jax.make_mesh((ways,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:ways])
    expected = flat(jax.tree.map(np.asarray, found.weights))
    for turn in range(3):
        places = {}
        for name, leaf in flat(found.weights).items():
            axes = [i for i in range(leaf.tensors.ndim, leaf.ndim) if leaf.shape[i] % ways == 0]
            split = axes[turn % len(axes)] if axes else None
            places[name] = NamedSharding(mesh, PartitionSpec(*("x" if i == split else None for i in range(leaf.ndim))))
        placed = flat(found.place(traverse.unflatten_dict(places, sep="/")))
        assert all(leaf.sharding.is_equivalent_to(places[name], leaf.ndim) for name, leaf in placed.items())
        chex.assert_trees_all_equal(jax.device_get(placed), expected)


def test_layers_cannot_be_split(language_folder):
    found = find(language_folder)
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    with pytest.raises(ValueError, match="The layers of .* cannot be split over devices"):
        found.place(NamedSharding(mesh, PartitionSpec("x")))


@pytest.mark.parametrize("path", ["attention/query/kernel", "attention/out/kernel", "mlp/down/kernel", "mlp/up/kernel"])
@pytest.mark.parametrize("case", ["llama3", "phi3", "gpt2_inverse", "gptj"])
def test_of_a_matrix_only_the_block_is_read(monkeypatch, case, path):
    """Along the inputs, and along the outputs or their heads: a process reads what its devices need."""
    read, get = [], Checkpoint.get
    leaf = flat(find(GOLDEN / "language" / case).weights)[f"language/blocks/{path}"]
    whole = np.asarray(leaf)[1]
    monkeypatch.setattr(Checkpoint, "get", lambda *a: read.append(out := get(*a)) or out)
    inputs = len(leaf.one) - 1 if path == "attention/out/kernel" else 1
    for axis in (0, inputs):
        size = leaf.one[axis]
        block = tuple(slice(size // 4, size // 2) if i == axis else slice(None) for i in range(len(leaf.one)))
        np.testing.assert_array_equal(leaf.layer((1,), block), whole[block])
        assert read[-1].size == whole[block].size < whole.size
