"""OpenFlamingo as it was released: what was trained in one file, the public language model and the tower beside it."""

import json
import pathlib

import chex
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flamingo_jax
from flamingo_jax.convert import run
from flamingo_jax.convert.export import to_open_flamingo
from flamingo_jax.convert.load import find

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
TRAINED = ("perceiver.", ".gated_cross_attn_layer.", ".wte.", ".embed_in.", ".embed_out.")


@pytest.fixture(scope="module")
def released(open_flamingo_folder, tmp_path_factory):
    """(tensors that were trained, folder of the language model, folder of the tower, config)."""
    root = tmp_path_factory.mktemp("released")
    config = json.loads((open_flamingo_folder / "config.json").read_text())
    tensors = load_file(open_flamingo_folder / "params.safetensors")
    language = {
        name.removeprefix("lang_encoder.").replace(".decoder_layer.", "."): tensor
        for name, tensor in tensors.items()
        if name.startswith("lang_encoder.") and ".gated_cross_attn_layer." not in name
    }
    for name in language:  # the public table has other rows than the one that was resized
        if name.endswith(("wte.weight", "embed_in.weight", "embed_out.weight", "lm_head.weight")):
            language[name] = language[name][:-8] + 1
    tower = config["vision"]
    clip = {
        "model_type": "clip_vision_model",
        "hidden_size": tower["width"],
        "num_hidden_layers": tower["layers"],
        "num_attention_heads": tower["heads"],
        "patch_size": tower["patch"],
        "image_size": tower["image"],
        "intermediate_size": tower["width"] * tower["mlp_ratio"],
        "hidden_act": "quick_gelu",
    }
    parts = {
        "language": (config["lm"] | {"vocab_size": config["lm"]["vocab_size"] - 8}, language),
        "vision": (clip, load_file(open_flamingo_folder / "hf_vision.safetensors")),
    }
    for name, (description, weights) in parts.items():
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps(description))
        save_file(weights, root / name / "model.safetensors")
    trained = {name: tensor for name, tensor in tensors.items() if any(part in name for part in TRAINED)}
    return trained, root / "language", root / "vision", config


def same(folder, open_flamingo_folder):
    model, whole = flamingo_jax.load(folder), flamingo_jax.load(open_flamingo_folder)
    assert model.config.language == whole.config.language and model.config.gated == whole.config.gated
    assert model.module.new_tokens == whole.module.new_tokens and model.image_token == whole.image_token
    chex.assert_trees_all_equal(model.variables, whole.variables)


def describe(folder, released, **changes):
    _, language, vision, config = released
    parts = {"lm": str(language), "vision": str(vision)}
    kept = ("cross_attn_every_n_layers", "eoc_token_id", "media_token_id")
    (folder / "config.json").write_text(json.dumps(parts | {key: config[key] for key in kept} | changes))


def block_of(name):
    """(what stands before a gated layer's name, its number, its own name)."""
    before, own = name.split(".gated_cross_attn_layer.")
    return before.split(".")[-1], own


SPELLINGS = {
    "plain": lambda name: [name],
    "wrapped": lambda name: ["module." + name.replace("layers.0.", "layers.0._checkpoint_wrapped_module.")],
    "repeated": lambda name: (
        [name, "lang_encoder.gated_cross_attn_layers.{}.{}".format(*block_of(name))]
        if "gated_cross_attn_layer" in name
        else [name, name.replace("lang_encoder.", "lang_encoder.old_decoder_blocks.")]
    ),
    "alone": lambda name: (
        ["lang_encoder.gated_cross_attn_layers.{}.{}".format(*block_of(name))]
        if "gated_cross_attn_layer" in name
        else [name]
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_was_trained_goes_into_the_public_parts(released, open_flamingo_folder, tmp_path, spelling):
    tensors = {new: tensor for name, tensor in released[0].items() for new in SPELLINGS[spelling](name)}
    save_file(tensors, tmp_path / "params.safetensors")
    describe(tmp_path, released, cross_attn_every_n_layers=None)
    same(tmp_path, open_flamingo_folder)


@pytest.mark.parametrize("training", [False, True])
def test_the_released_file(released, open_flamingo_folder, tmp_path, training):
    """``checkpoint.pt``, of a release or of training."""
    torch = pytest.importorskip("torch")
    trained, language, vision, config = released
    tensors = {name: torch.from_numpy(tensor) for name, tensor in trained.items()}
    file = tmp_path / "checkpoint_3.pt"
    torch.save({"epoch": 3, "model_state_dict": tensors} if training else tensors, file)
    parts = {"language": str(language), "vision": str(vision), "eoc": config["eoc_token_id"]}
    print(run.convert(run.open_source(str(file), parts=parts), str(tmp_path / "out")))
    same(tmp_path / "out", open_flamingo_folder)
    with pytest.raises(ValueError, match="where the rest is: --vision too"):
        run.open_source(str(file), parts={**parts, "vision": None})


def test_what_is_missing_or_wrong_is_said(released, tmp_path):
    trained, language, _, config = released
    save_file(trained, tmp_path / "params.safetensors")

    def refused(words, tensors=None, **changes):
        save_file(trained if tensors is None else tensors, tmp_path / "params.safetensors")
        describe(tmp_path, released, **changes)
        with pytest.raises(ValueError, match=words):
            flamingo_jax.load(tmp_path)

    every = config["cross_attn_every_n_layers"]
    refused(f"cross_attn_every_n_layers={every + 1} does not give", cross_attn_every_n_layers=every + 1)
    refused("cross_attn_every_n_layers=0 does not give", cross_attn_every_n_layers=0)
    refused(r"must have the id after <\|endofchunk\|>'s, but they are \(125, 127\)", media_token_id=127)
    refused("nothing says which ids", eoc_token_id=None)
    refused('"lm" must be a config or a folder, but is 3', lm=3)
    refused("There is no folder .*nowhere", lm="nowhere")
    without = {name: tensor for name, tensor in trained.items() if ".gated" not in name}
    refused("holds no gated cross-attention", without)
    table = next(name for name in trained if name.endswith(("wte.weight", "embed_in.weight")))
    rows = {name: tensor for name, tensor in trained.items() if name != table}
    refused("so that the rows of its new tokens are lost", rows)
    (tmp_path / "params.safetensors").unlink()
    describe(tmp_path, released)
    with pytest.raises(ValueError, match="has no checkpoint; looked for params.safetensors, checkpoint.pt"):
        flamingo_jax.load(tmp_path)
    assert pathlib.Path(language).exists()


# The public families that releases are built on: golden case, what stands before the number of a block, the tables.
FAMILIES = {
    "mosaic_gpt": ("transformer.blocks", ["transformer.wte"]),  # 3B
    "gpt_neox_odd": ("gpt_neox.layers", ["gpt_neox.embed_in", "embed_out"]),  # 4B, Pythia
    "mpt_clip": ("transformer.blocks", ["transformer.wte"]),  # 9B
    "llama_yarn": ("model.layers", ["model.embed_tokens"]),  # 9B of the first version: its head was not trained
    "opt_plain": ("model.decoder.layers", ["model.decoder.embed_tokens"]),
    "gptj": ("transformer.h", ["transformer.wte"]),
}


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_key_sets_of_the_releases(tmp_path, family, every):
    """Names and shapes as the project saves them (its own save rule)."""
    language, vision = GOLDEN / "language" / family, GOLDEN / "vision" / "clip_vision_gelu"
    blocks, tables = FAMILIES[family]
    base = find(language).config
    width, seen, depth = base.width, find(vision).config.width, base.depth - base.depth % every
    rng = np.random.default_rng(0)
    rows = base.vocab_size + 3
    shapes = {"perceiver.latents": (64, seen), "perceiver.norm.weight": (seen,), "perceiver.norm.bias": (seen,)}
    for j in range(6):
        at = f"perceiver.layers.{j}."
        shapes |= {f"{at}0.{n}.{k}": (seen,) for n in ("norm_media", "norm_latents") for k in ("weight", "bias")}
        shapes |= {f"{at}0.to_q.weight": (512, seen), f"{at}0.to_kv.weight": (1024, seen)}
        shapes |= {f"{at}0.to_out.weight": (seen, 512), f"{at}1.0.weight": (seen,), f"{at}1.0.bias": (seen,)}
        shapes |= {f"{at}1.1.weight": (4 * seen, seen), f"{at}1.3.weight": (seen, 4 * seen)}
    for i in range(every - 1, depth, every):
        at = f"lang_encoder.{blocks}.{i}.gated_cross_attn_layer."
        shapes |= {f"{at}attn_gate": (1,), f"{at}ff_gate": (1,)}
        shapes |= {f"{at}{n}.{k}": (width,) for n in ("attn.norm", "ff.0") for k in ("weight", "bias")}
        shapes |= {f"{at}attn.to_q.weight": (512, width), f"{at}attn.to_kv.weight": (1024, seen)}
        shapes |= {f"{at}attn.to_out.weight": (width, 512)}
        shapes |= {f"{at}ff.1.weight": (4 * width, width), f"{at}ff.3.weight": (width, 4 * width)}
    shapes |= {f"lang_encoder.{name}.weight": (rows, base.embedding_width) for name in tables}
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    heads = [] if base.tied or len(tables) == 2 else ["lm_head.weight", *(["lm_head.bias"] if base.head_bias else [])]
    for name in heads:  # an untied head is resized too, and stands in the file where embeddings were frozen
        shape = (rows, width) if name.endswith("weight") else (rows,)
        tensors[f"lang_encoder.{name}"] = rng.standard_normal(shape).astype(np.float32)
    save_file(tensors, tmp_path / "params.safetensors")
    config = {"lm": str(language), "vision": str(vision), "cross_attn_every_n_layers": every}
    config |= {"eoc_token_id": rows - 3, "media_token_id": rows - 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = find(tmp_path)
    assert model.config.gated.groups(base.depth)[1:] != (0, 0) and model.config.gated.every == every
    table = tensors[f"lang_encoder.{tables[0]}.weight"]
    new = np.asarray(model.weights["params"]["decoder"]["new_rows"])
    np.testing.assert_array_equal(new, table[rows - 3 : rows - 1])
    # Written again they have the same names: all that was trained, beside the public parts.
    written = dict(to_open_flamingo(model)[1])
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(written[name], tensor, err_msg=name)
    public = load_file(language / "model.safetensors")
    wrapped = {name for name in written if ".decoder_layer." in name}
    assert {name.replace(".decoder_layer.", ".").removeprefix("lang_encoder.") for name in wrapped} == {
        name for name in public if f"{blocks}." in name and "inv_freq" not in name and ".attn.bias" not in name
    }
