"""What is exported is what was imported, bit for bit; others compute the same with it; what does not fit is refused."""

import dataclasses
import json
import pathlib
import shutil

import chex
import numpy as np
import pytest
from safetensors.numpy import load_file

import flamingo_jax
from flamingo_jax.convert import run
from flamingo_jax.convert.export import to_idefics, to_open_flamingo
from flamingo_jax.convert.load import find

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
IDEFICS = GOLDEN / "idefics" / "resampler" / "hf"


def export(source, target, layout):
    run.convert(run.open_source(str(source)), str(target), layout)
    return target


def check(source, target, files):
    """The folder holds the same model, under the same names."""
    model, original = flamingo_jax.load(target), flamingo_jax.load(source)
    assert (model.config, model.module) == (original.config, original.module)
    assert (model.image_token, model.end_token) == (original.image_token, original.end_token)
    chex.assert_trees_all_equal(model.variables, original.variables)
    before, after = (load_file(file) for file in files)
    for name in after.keys() - {name for name in after if "post_layernorm" in name}:
        assert after[name].dtype == before[name].dtype
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    return {name for name in before.keys() - after.keys() if "inv_freq" not in name}


def test_idefics_and_back(idefics_folder, tmp_path):
    target = export(idefics_folder / "hf", tmp_path / "out", "idefics")
    files = [folder / "model.safetensors" for folder in (idefics_folder / "hf", target)]
    assert not check(idefics_folder / "hf", target, files)


def test_open_flamingo_and_back(open_flamingo_folder, tmp_path):
    target = export(open_flamingo_folder, tmp_path / "out", "open_flamingo")
    left = check(
        open_flamingo_folder, target, [folder / "params.safetensors" for folder in (open_flamingo_folder, target)]
    )
    unused = ("vision_encoder.ln_post.", "vision_encoder.proj", "lang_encoder.lm_head.")  # the last is a tied table
    assert all(name.startswith(unused) for name in left)


def test_pixels_are_exported_too(tmp_path):
    source = shutil.copytree(IDEFICS, tmp_path / "source")
    (source / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.25, 0], "image_std": [1, 1, 0.5]}')
    target = export(source, tmp_path / "out", "idefics")
    assert find(target).config == find(source).config and find(target).config.vision.mean == (0.5, 0.25, 0)


def test_by_way_of_our_own_folder(tmp_path):
    for layout in ("orbax", "safetensors"):
        between = export(IDEFICS, tmp_path / layout, layout)
        target = export(between, tmp_path / f"{layout}_idefics", "idefics")
        check(IDEFICS, target, [folder / "model.safetensors" for folder in (IDEFICS, target)])


def test_the_peer_computes_the_same(tmp_path):
    """transformers' IDEFICS on what was exported gives its logits of the golden data."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    export(IDEFICS, tmp_path / "out", "idefics")
    model, info = transformers.IdeficsForVisionText2Text.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    io = load_file(IDEFICS.parent / "io.safetensors")
    names = ("input_ids", "attention_mask", "pixel_values", "image_attention_mask")
    with torch.no_grad():
        logits = model(**{name: torch.from_numpy(io[f"in.{name}"]) for name in names}).logits.numpy()
    seen = io["in.attention_mask"] == 1
    np.testing.assert_allclose(logits[seen], io["out.logits"][seen], rtol=0, atol=2e-4)


def change(model, **parts):
    """The model with other options in some of its parts."""
    changed = {name: dataclasses.replace(getattr(model.config, name), **options) for name, options in parts.items()}
    return dataclasses.replace(model, config=dataclasses.replace(model.config, **changed))


@pytest.mark.parametrize(
    "parts, words",
    [
        ({"language": {"qk_norm": "head"}}, "no IDEFICS: language.qk_norm: head here, none there"),
        ({"gated": {"first": 1}}, r"no IDEFICS: gated\.first: 1 here, 0 there"),
        ({"gated": {"mlp": "none", "visible": "previous"}}, "gated.visible: previous here, own there; gated.mlp: none"),
        ({"resampler": {"frames": 8}}, "resampler.frames: 8 here, 0 there"),
        ({"gated": {"graft": 2}}, r"no IDEFICS: gated\.graft=2"),
    ],
)
def test_what_is_no_idefics_is_refused(parts, words):
    with pytest.raises(ValueError, match=words):
        to_idefics(change(find(IDEFICS), **parts))


def test_what_is_no_open_flamingo_is_refused():
    model = find(IDEFICS)
    with pytest.raises(ValueError, match="no OpenFlamingo: .*gated.heads: 4 here, 8 there"):
        to_open_flamingo(model)
    with pytest.raises(ValueError, match="no OpenFlamingo: it has no trained rows for both"):
        to_open_flamingo(dataclasses.replace(model, new_tokens=(96,)))
    with pytest.raises(ValueError, match="Only whole models can be exported as OpenFlamingo, not a LanguageConfig"):
        to_open_flamingo(find(GOLDEN / "language" / "llama3"))
    with pytest.raises(ValueError, match="its new tokens begin at 3, not after the 96 rows"):
        to_idefics(dataclasses.replace(model, new_tokens=(3, 4)))


def test_a_refusal_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="no OpenFlamingo"):
        export(IDEFICS, tmp_path / "out", "open_flamingo")
    assert not list(tmp_path.iterdir())


def test_new_tokens_beyond_the_table(open_flamingo_folder, tmp_path):
    """A bridge trained on a public language model has rows of its own: they become rows of the table."""
    model = find(open_flamingo_folder)
    first = model.new_tokens[0]
    language = dataclasses.replace(model.config.language, vocab_size=first, vocab_rows=first)
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, language=language))
    for collection, name in (("frozen", "table"), ("frozen", "head")):
        embedding = dict(model.weights[collection]["decoder"]["embedding"])
        if name in embedding:
            embedding[name] = np.asarray(embedding[name])[:first]
            model.weights[collection]["decoder"]["embedding"] = embedding
    files, tensors = to_open_flamingo(model)
    description = files["config.json"]
    written, original = dict(tensors), load_file(open_flamingo_folder / "params.safetensors")
    assert description["lm"]["vocab_size"] == first + 2
    assert json.dumps(description)
    tables = ("wte.weight", "embed_in.weight", "embed_out.weight")
    for name in written:
        expected = original[name][: first + 2] if name.endswith(tables) else original[name]
        np.testing.assert_array_equal(written[name], expected, err_msg=name)
