"""Whatever is wrong with a source is said, with the file and the tensor; nothing of it is run, and nothing written."""

import json
import pathlib
import shutil
import struct

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flamingo_jax
from flamingo_jax.convert import run

LLAMA = pathlib.Path(__file__).parents[1] / "golden" / "language" / "llama3"


def convert(source, target):
    return run.convert(run.open_source(str(source)), str(target))


@pytest.fixture
def source(tmp_path):
    """A copy of LLaMA in two shards with an index."""
    root = tmp_path / "source"
    root.mkdir()
    shutil.copy(LLAMA / "config.json", root)
    tensors = load_file(LLAMA / "model.safetensors")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    places = {key: names[i % 2] for i, key in enumerate(sorted(tensors))}
    for name in names:
        save_file({key: value for key, value in tensors.items() if places[key] == name}, root / name)
    (root / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return root


def header(file, change):
    """Rewrites a .safetensors file's header, at the same length of its data."""
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    entries = json.loads(data[8 : 8 + length])
    change(entries)
    text = json.dumps(entries).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def entry(entries):
    return next(name for name in sorted(entries) if name != "__metadata__")


def index(root, change):
    file = root / "model.safetensors.index.json"
    content = json.loads(file.read_text())
    change(content["weight_map"])
    file.write_text(json.dumps(content))


FIRST = "model.embed_tokens.weight"
SHARD = "model-00001-of-00002.safetensors"
HOSTILE = {
    "missing shard": (lambda root: (root / SHARD).unlink(), f"index.json names files that are not there: {SHARD}"),
    "truncated": (
        lambda root: (root / SHARD).write_bytes((root / SHARD).read_bytes()[:-100]),
        f"{SHARD} is no whole .safetensors file: it ends before model",
    ),
    "empty file": (lambda root: (root / SHARD).write_bytes(b""), f"{SHARD} is no whole .safetensors file"),
    "header longer than the file": (
        lambda root: (root / SHARD).write_bytes(struct.pack("<Q", 2**40) + b"{}"),
        f"{SHARD} is no whole .safetensors file: no header fits",
    ),
    "header of no JSON": (
        lambda root: (root / SHARD).write_bytes(struct.pack("<Q", 4) + b"abcd"),
        f"{SHARD} is no whole .safetensors file: its header is no JSON",
    ),
    "named twice": (
        lambda root: (root / "model.safetensors.index.json").write_text(
            f'{{"weight_map": {{"{FIRST}": "{SHARD}", "{FIRST}": "model-00002-of-00002.safetensors"}}}}'
        ),
        f"index.json names tensors twice: {FIRST}",
    ),
    "in two files": (
        lambda root: save_file(load_file(root / SHARD) | load_file(root / SHARD.replace("1-of", "2-of")), root / SHARD),
        "both hold the tensor",
    ),
    "outside by ..": (
        lambda root: index(root, lambda places: places.update({FIRST: "../model.safetensors"})),
        f"names the file '../model.safetensors' for {FIRST}, which is not in its own folder",
    ),
    "outside by /": (
        lambda root: index(root, lambda places: places.update({FIRST: "/etc/passwd"})),
        f"names the file '/etc/passwd' for {FIRST}",
    ),
    "a file of another kind": (
        lambda root: index(root, lambda places: places.update({FIRST: "config.json"})),
        "config.json is no file of weights; known here: .bin, .pt, .safetensors",
    ),
    "lies about its shape": (
        lambda root: header(root / SHARD, lambda h: h[entry(h)].update(shape=[1000, 1000])),
        rf"{SHARD}: model.* is said to be F32 \[1000, 1000\], but its bytes go from",
    ),
    "negative shape": (
        lambda root: header(root / SHARD, lambda h: h[entry(h)].update(shape=[-1, -1])),
        f"{SHARD}: model.* is said to be",
    ),
    "lies about its offsets": (
        lambda root: header(root / SHARD, lambda h: h[entry(h)].update(data_offsets=[10**9, 10**9 + 6144])),
        f"{SHARD}.*model",
    ),
    "overlaps": (
        lambda root: header(
            root / SHARD,
            lambda h: [e.update(data_offsets=[0, e["data_offsets"][1] - e["data_offsets"][0]]) for k, e in h.items()],
        ),
        f"{SHARD} is no whole .safetensors file",
    ),
    "an unknown type": (
        lambda root: header(root / SHARD, lambda h: h[entry(h)].update(dtype="F99")),
        f"{SHARD}: the header's entry of model.* is damaged",
    ),
    "no offsets": (
        lambda root: header(root / SHARD, lambda h: h[entry(h)].pop("data_offsets")),
        f"{SHARD}: the header's entry of model.* is damaged",
    ),
    "nested JSON": (
        lambda root: (root / "config.json").write_text("[" * 200000),
        "config.json is no JSON",
    ),
    "nested header": (
        lambda root: (root / SHARD).write_bytes(struct.pack("<Q", 200000) + b"[" * 200000),
        f"{SHARD} is no whole .safetensors file: its header is no JSON",
    ),
    "more layers than tensors": (
        lambda root: (root / "config.json").write_text(
            json.dumps(json.loads((LLAMA / "config.json").read_text()) | {"num_hidden_layers": 10**7})
        ),
        "the config has 10000000 layers, more than there are tensors",
    ),
    "sizes of wrong types": (
        lambda root: (root / "config.json").write_text(
            json.dumps(json.loads((LLAMA / "config.json").read_text()) | {"hidden_size": "x"})
        ),
        "wrong type",
    ),
    "negative sizes": (
        lambda root: (root / "config.json").write_text(
            json.dumps(json.loads((LLAMA / "config.json").read_text()) | {"hidden_size": -32})
        ),
        "a value of config.json is of a wrong type or size",
    ),
    "an unknown architecture": (
        lambda root: (root / "config.json").write_text('{"model_type": "mamba"}'),
        "model_type='mamba' is not implemented",
    ),
    "an unknown rope": (
        lambda root: (root / "config.json").write_text(
            json.dumps(json.loads((LLAMA / "config.json").read_text()) | {"rope_parameters": {"rope_type": "spiral"}})
        ),
        "the rope scaling 'spiral' is not implemented",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_sources(source, case):
    damage, words = HOSTILE[case]
    damage(source)
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(ValueError, match=words) as error:
        convert(source, source.parent / "target")
    assert str(source) in str(error.value)
    assert sorted(source.parent.rglob("*")) == before  # no target, nothing half written


def test_types_may_differ_within_a_file(source):
    """Norms of float32 beside matrices of bfloat16, buffers of whole numbers."""
    for file in source.glob("*.safetensors"):
        tensors = {
            name: tensor if "norm" in name else tensor.astype(jnp.bfloat16) for name, tensor in load_file(file).items()
        }
        save_file(tensors | {f"model.layers.0.{file.stem}.position_ids": np.arange(4)}, file)
    convert(source, source.parent / "target")
    params = flamingo_jax.load(source.parent / "target").variables["params"]
    assert params["norm"]["scale"].dtype == jnp.float32 and params["embedding"]["table"].dtype == jnp.bfloat16
    chex.assert_trees_all_equal(params, flamingo_jax.load(source).variables["params"])


class Command:
    def __reduce__(self):
        import os

        return os.system, ("touch /tmp/flamingo_jax_bomb",)


class Bomb:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("/tmp/flamingo_jax_bomb"),)


def test_a_pickle_with_code_in_it_is_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    shutil.copy(LLAMA / "config.json", tmp_path)
    bomb = pathlib.Path("/tmp/flamingo_jax_bomb")
    bomb.unlink(missing_ok=True)
    for hostile in (Bomb(), Command()):
        torch.save({"model.norm.weight": torch.ones(3), "x": hostile}, tmp_path / "pytorch_model.bin")
        with pytest.raises(ValueError, match="pytorch_model.bin holds more than tensors, which might run code"):
            flamingo_jax.load(tmp_path)
    torch.save({"model.norm.weight": "no tensor"}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pytorch_model.bin: model.norm.weight is no tensor but a str"):
        flamingo_jax.load(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="pytorch_model.bin is no whole PyTorch file"):
        flamingo_jax.load(tmp_path)
    torch.save({3: torch.ones(3)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pytorch_model.bin: 3 is no tensor but a Tensor"):
        flamingo_jax.load(tmp_path)
    torch.save([1, 2], tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="is no tensor but a list"):
        flamingo_jax.load(tmp_path)
    assert not bomb.exists()
