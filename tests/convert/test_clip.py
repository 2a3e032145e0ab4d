"""Whole CLIPs compute what the library computes that wrote them, as they are and converted."""

import io
import json
import pathlib
import shutil

import chex
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import flamingo_jax
from flamingo_jax import clip
from flamingo_jax.convert import run
from flamingo_jax.inference.clip import embed_texts
from flamingo_jax.models.decoder import Decoder

CLIP = pathlib.Path(__file__).parents[1] / "golden" / "clip" / "clip_whole"
IO = load_file(CLIP / "io.safetensors")
TEXTS = json.loads((CLIP / "meta.json").read_text())["texts"]
ATOL = 2e-4


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PICTURES = np.rint((np.moveaxis(IO["in.pixel_values"], 1, -1) * STD + MEAN) * 255).astype(np.uint8)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=ATOL)


def embed(model):
    return model.images(PICTURES), model.texts(TEXTS)


@pytest.fixture(scope="module")
def model():
    return clip.load(CLIP, batch=8)


@pytest.fixture
def copy(tmp_path):
    return pathlib.Path(shutil.copytree(CLIP, tmp_path / "copy"))


def test_pictures_are_those_of_the_image_processor(model):
    """But for a rounding here and there: the library resizes to whole pixels before it cuts, in steps of its own."""
    seen = np.stack([model.picture(png(IO[f"in.picture_{i}"])) for i in range(4)])
    difference = np.abs(seen.astype(int) - PICTURES)
    assert difference.max() <= 1 and difference.mean() < 0.01
    assert (model.vision.mean, model.vision.std) == (MEAN, STD)


def test_a_long_picture_is_not_resized_as_a_whole():
    """It would have 320 million pixels."""
    assert clip.crop(np.full((1, 20_000, 3), 7, np.uint8), 16, 16).tolist() == [[[7] * 3] * 16] * 16


def test_tokens_are_those_of_the_tokenizer(model):
    for text, ids, mask in zip(TEXTS, IO["in.input_ids"], IO["in.attention_mask"], strict=True):
        assert model.tokens(text) == ids[mask == 1].tolist()
    assert len(model.tokens(TEXTS[3])) == model.text.tower.max_positions
    assert model.tokens(TEXTS[3])[-1] == model.text.end_token == model.tokens("")[-1]
    assert model.text.end_token not in model.tokens("<|endoftext|> lone \ud800")[:-1]


def test_vectors_and_similarities(model):
    images, texts = embed(model)
    close(images, IO["out.image_embeds"])
    close(texts, IO["out.text_embeds"])
    close(images @ texts.T, IO["out.image_embeds"] @ IO["out.text_embeds"].T)


def test_any_number_of_any_length_in_any_order(model):
    """More than a batch, whose texts are sorted by length; and none."""
    texts = [" ".join(["the"] * n) for n in np.random.default_rng(0).permutation(25)]
    together = model.texts(texts)
    for number in (0, 7, 24):
        close(together[number], model.texts([texts[number]])[0])
    pictures = [np.full((16, 16, 3), 9 * i, np.uint8) for i in range(11)]
    close(model.images(pictures)[10], model.images(pictures[10:])[0])
    assert model.images([]).shape == model.texts([]).shape == (0, 10)


def test_what_follows_the_end_of_a_text_changes_nothing(model):
    tower, weights = Decoder(model.text.tower, model.dtype), model.weights["text"]
    ids, end = IO["in.input_ids"].astype(np.int32), model.text.end_token
    noise = np.random.default_rng(1).integers(0, 500, ids.shape, np.int32)
    for padded in (np.where(IO["in.attention_mask"] == 1, ids, noise), np.where(ids == end, end, ids)[:, :20]):
        close(embed_texts(tower, weights, end, padded), IO["out.text_embeds"])
    close(embed_texts(tower, weights, end, ids[:1, :10]), IO["out.text_embeds"][:1])


def test_configs_of_before_the_end_token_was_named(copy):
    shutil.move(copy / "config_legacy.json", copy / "config.json")
    close(clip.load(copy, batch=8).texts(TEXTS), IO["out.text_embeds"])


def test_a_converted_clip_is_the_clip_and_its_encoder_the_encoder(model, tmp_path):
    assert "without" not in run.convert(run.open_source(str(CLIP)), str(tmp_path / "out"))
    run.convert(run.open_source(str(tmp_path / "out")), str(tmp_path / "again"), "safetensors")
    for folder in ("out", "again"):
        converted = clip.load(tmp_path / folder, batch=8)
        assert (converted.vision, converted.text) == (model.vision, model.text)
        chex.assert_trees_all_equal(embed(converted), embed(model))
        assert (tmp_path / folder / "text" / "weights").exists() == (folder == "out")
    encoder, original = flamingo_jax.load(tmp_path / "out"), flamingo_jax.load(CLIP)
    assert encoder.config == original.config
    chex.assert_trees_all_equal(encoder.variables, original.variables)
    assert encoder.pooled(PICTURES).shape == (4, 12)  # as of every encoder: before the projection
    assert "`text/` holds the text tower of its CLIP" in (tmp_path / "out" / "README.md").read_text()
    assert "already" in run.convert(run.open_source(str(CLIP)), str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"text is the text tower of a CLIP, .* give the folder above it"):
        flamingo_jax.load(tmp_path / "out" / "text")


@pytest.mark.slow
def test_eight_bits(model, tmp_path):
    run.convert(run.open_source(str(CLIP)), str(tmp_path / "out"), "orbax", "int8")
    for actual, expected in zip(embed(clip.load(tmp_path / "out", batch=8)), embed(model), strict=True):
        assert 0.99 < (actual * expected).sum(-1).min() < 0.99999


def test_the_plan_of_a_conversion_lists_both_towers():
    lines = run.render(run.open_source(str(CLIP))).splitlines()
    assert any(line.startswith("text/tower/embedding/table ") and "525x8" in line for line in lines)
    assert any(line.startswith("text/image_projection/kernel ") and "visual_projection" in line for line in lines)
    assert any(line.startswith("layers/mlp/up/kernel ") for line in lines)


def open_clip(source, folder):
    """The same CLIP as OpenCLIP writes it."""
    stored, weights = load_file(source / "model.safetensors"), {}
    names = {"embeddings.class_embedding": "class_embedding", "embeddings.patch_embedding": "conv1"}
    names |= {"embeddings.position_embedding.weight": "positional_embedding", "pre_layrnorm": "ln_pre"}
    names |= {"post_layernorm": "ln_post", "final_layer_norm": "ln_final", "encoder.layers": "transformer.resblocks"}
    names |= {"embeddings.token_embedding": "token_embedding", "layer_norm": "ln_", "mlp.fc1": "mlp.c_fc"}
    names |= {"self_attn.out_proj": "attn.out_proj", "mlp.fc2": "mlp.c_proj"}
    for name, tensor in stored.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            tensor = np.concatenate([stored[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"])
            name = name.replace("self_attn.q_proj.", "attn.in_proj_")
        for old, new in names.items():
            name = name.replace(old, new)
        weights[name.replace("vision_model.", "visual.").replace("text_model.", "")] = tensor
    weights["visual.proj"] = np.ascontiguousarray(weights.pop("visual_projection.weight").T)
    weights["text_projection"] = np.ascontiguousarray(weights.pop("text_projection.weight").T)
    text = {"context_length": 20, "vocab_size": 525, "width": 8, "heads": 2, "layers": 2, "mlp_ratio": 2.5}
    vision = {"image_size": 16, "layers": 2, "width": 12, "head_width": 4, "mlp_ratio": 20 / 12, "patch_size": 4}
    config = {"embed_dim": 10, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    folder.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / file, folder)
    save_file(weights, folder / "open_clip_model.safetensors")
    return config


def test_open_clip(tmp_path):
    config = open_clip(CLIP, tmp_path / "clip")
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    images, texts = embed(clip.load(tmp_path / "clip", batch=8))
    close(images, IO["out.image_embeds"])
    close(texts, IO["out.text_embeds"])
    run.convert(run.open_source(str(tmp_path / "clip")), str(tmp_path / "out"))
    close(embed(clip.load(tmp_path / "out", batch=8))[0], images)
    config["text_cfg"]["pool_type"] = "last"
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with pytest.raises(ValueError, match="open_clip's text tower: pool_type='last' is not implemented, only 'argmax'"):
        clip.load(tmp_path / "clip")


def test_a_clip_that_cannot_be_used_is_refused_and_its_encoder_converted_alone(copy, tmp_path):
    (copy / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match=r"copy has no tokenizer\.json, which the text tower needs"):
        clip.load(copy)
    said = run.convert(run.open_source(str(copy)), str(tmp_path / "out"))
    assert "bytes, without its text tower (" in said and "has no tokenizer.json" in said
    assert not (tmp_path / "out" / "text").exists()
    with pytest.raises(ValueError, match="out is no whole CLIP, it has no text tower; give a CLIP's folder"):
        clip.load(tmp_path / "out")
    with pytest.raises(ValueError, match="no whole CLIP"):
        clip.load(CLIP.parents[1] / "vision" / "clip_vision_gelu")
    (tmp_path / "tokenizer.json").rename(copy / "tokenizer.json")
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 7
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="ends texts with the id 524, but the text tower reads the state at 7"):
        clip.load(copy)
    config["text_config"]["num_hidden_layers"] = 3
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"text_model\.encoder\.layers\.2\.mlp\.fc1\.weight is missing, for our tower"):
        clip.load(copy)
    config["text_config"]["vocab_size"] = "many"
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="the text tower of a CLIP: a value of the config is of a wrong type"):
        clip.load(copy)
