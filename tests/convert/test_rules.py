"""Which tensors of which files are read; whatever is missing, left over, broken or of a wrong shape is named."""

import json
import pathlib
import shutil
import sys

import chex
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flamingo_jax

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
LLAMA = GOLDEN / "language" / "llama3"  # tied


@pytest.fixture
def folder(tmp_path):
    """A copy of LLaMA's config, without weights."""
    shutil.copy(LLAMA / "config.json", tmp_path)
    return tmp_path


@pytest.fixture
def tensors():
    return load_file(LLAMA / "model.safetensors")


def refused(folder):
    with pytest.raises(ValueError) as error:
        flamingo_jax.load(folder)
    return str(error.value)


def test_all_that_does_not_fit_is_said_at_once(folder, tensors):
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.0.mlp.extra.weight"] = np.zeros((3, 4), np.float32)
    tensors["model.norm.weight"] = np.zeros(5, np.float32)
    save_file(tensors, folder / "model.safetensors")
    first, *lines = sorted(refused(folder).splitlines(), key=lambda line: line.startswith(" "))
    assert str(folder) in first
    assert sorted(line.strip() for line in lines) == [
        "layers.0.mlp.extra.weight (3, 4) is used by nothing",
        "layers.1.mlp.up_proj.weight is missing, for our language/blocks/mlp/up/kernel",
        "norm.weight (5,) does not fit our norm/scale (32,) (5 and 32 numbers)",
    ]


def test_buffers_and_repeated_tables_are_no_weights(folder, tensors):
    expected = flamingo_jax.load(LLAMA).variables
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "model.safetensors")
    chex.assert_trees_all_equal(flamingo_jax.load(folder).variables, expected)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_quantised_weights_are_refused(folder, tensors, kind):
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = np.zeros(tensors[name].shape, kind)
    save_file(tensors, folder / "model.safetensors")
    assert f"layers.1.mlp.up_proj.weight holds {kind}; quantised weights are not implemented" in refused(folder)


@pytest.mark.parametrize(
    "case, whole, prefix, others",
    [
        ("language/gemma3_text", "gemma3", "language_model.model.", ("vision_tower.", "multi_modal_projector.")),
        (
            "language/gemma3_text",
            "gemma3",
            "model.language_model.",
            ("model.vision_tower.", "model.multi_modal_projector."),
        ),
        ("vision/clip_vision_gelu", "clip", "vision_model.", ("text_model.", "visual_projection.", "text_projection.")),
        ("vision/siglip2_naflex", "siglip2", "vision_model.", ("text_model.",)),
    ],
)
def test_one_part_of_a_larger_checkpoint(tmp_path, case, whole, prefix, others):
    original, part = flamingo_jax.load(GOLDEN / case), "text_config" if whole == "gemma3" else "vision_config"
    config = json.loads((GOLDEN / case / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": whole, part: config}))
    tensors = load_file(GOLDEN / case / "model.safetensors")
    tensors = {prefix + name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    tensors |= {f"{other}weight": np.zeros(3, np.float32) for other in others}
    save_file(tensors, tmp_path / "model.safetensors")
    model = flamingo_jax.load(tmp_path)
    assert model.config == original.config
    chex.assert_trees_all_equal(model.variables, original.variables)


def test_shards(folder, tensors):
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    place = {key: names[i % 2] for i, key in enumerate(tensors)}
    for name in names:
        save_file({key: value for key, value in tensors.items() if place[key] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))
    chex.assert_trees_all_equal(flamingo_jax.load(folder).variables, flamingo_jax.load(LLAMA).variables)
    (folder / names[1]).unlink()
    assert "index.json names files that are not there: model-00002-of-00002.safetensors" in refused(folder)


def test_files_that_are_missing_or_broken(folder, monkeypatch):
    assert "has no weights" in refused(folder)
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    assert "model.safetensors is no whole .safetensors file" in refused(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "install torch" in refused(folder)
    (folder / "config.json").write_text('{"model_type": "llama"')
    assert "config.json is no JSON" in refused(folder)
    (folder / "config.json").unlink()
    assert "has no config.json" in refused(folder)


def test_an_empty_tensor_is_no_weight_that_is_left_over(folder, tensors):
    """Files of models without registers hold an empty table of them."""
    save_file(tensors | {"model.nothing": np.zeros((1, 0, 4), np.float32)}, folder / "model.safetensors")
    assert flamingo_jax.load(folder).config.vocab_size == 48


def test_the_head_of_gpt_neox_has_two_names(tmp_path):
    source = GOLDEN / "language" / "gpt_neox_odd"
    shutil.copy(source / "config.json", tmp_path)
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("embed_out.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    chex.assert_trees_all_equal(flamingo_jax.load(tmp_path).variables, flamingo_jax.load(source).variables)


def test_an_index_that_is_none(folder):
    for text in ("{", "{}"):
        (folder / "model.safetensors.index.json").write_text(text)
        assert "model.safetensors.index.json is no index of weights" in refused(folder)
