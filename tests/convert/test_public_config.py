"""Public configs: families and options that are not implemented are refused by name; epsilons are the file's."""

import dataclasses
import json
import pathlib

import chex
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flamingo_jax
from flamingo_jax.convert.language_config import FAMILIES, language_config
from flamingo_jax.convert.load import find
from flamingo_jax.convert.vision import vision_config

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CLIP = json.loads((GOLDEN / "vision" / "open_clip_vit" / "open_clip_config.json").read_text())["model_cfg"]


def read_config(case, **changes):
    tower = "language" if (GOLDEN / "language" / case).exists() else "vision"
    name = "open_clip_config" if case == "open_clip_vit" else "config"
    return json.loads((GOLDEN / tower / case / f"{name}.json").read_text()) | changes


def test_unknown_families_and_their_neighbours(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "lama"}')
    with pytest.raises(ValueError, match="model_type='lama'.*did you mean 'llama'") as error:
        flamingo_jax.load(tmp_path)
    for known in (*FAMILIES, "siglip_vision_model", "clip", "idefics"):
        assert known in str(error.value).split("known here")[1]
    with pytest.raises(ValueError, match="'qwen9'.*did you mean .*'qwen3'.*known here: .*gpt2"):
        language_config({"model_type": "qwen9"})
    with pytest.raises(ValueError, match="'dinov4_vit'.*did you mean .*'dinov3_vit'.*known here: .*siglip2"):
        vision_config({"model_type": "dinov4_vit"})
    with pytest.raises(ValueError, match="'dm_nfnet_f7'.*did you mean .*known here: dm_nfnet_f0"):
        vision_config({"architecture": "dm_nfnet_f7.dm_in1k"})
    with pytest.raises(ValueError, match="llama: the config has no 'hidden_size'"):
        language_config({"model_type": "llama", "num_attention_heads": 4})


@pytest.mark.parametrize(
    "case, changes, words",
    [
        ("llama3", {"rope_parameters": {"rope_type": "proportional"}}, "'proportional' is not implemented"),
        ("llama3", {"rope_parameters": {"rope_type": "linear"}}, "rope scaling 'linear' needs its factor"),
        ("llama3", {"rope_parameters": {"rope_type": "dynamic"}, "max_position_embeddings": 0}, "'dynamic' needs max_"),
        (
            "phi3_longrope",
            {"rope_parameters": {"rope_type": "su", "short_factor": [1.0], "long_factor": [1.0]}},
            "a divisor for each of 4 pairs, but have 1 and 1",
        ),
        ("qwen3", {"layer_types": ["linear_attention"] * 3}, "'linear_attention' is not implemented"),
        ("gemma3_text", {"layer_types": ["full_attention"]}, "layer_types has 1 entries for 6 layers"),
        ("gemma3_text", {"layer_types": ["chunked_attention"] * 6}, "'chunked_attention' is not implemented"),
        ("llama3", {"hidden_act": "mish"}, "'mish' is not implemented"),
        ("gpt2_inverse", {"add_cross_attention": True}, "add_cross_attention=True"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ("mpt_clip", {"attn_config": {"alibi": True, "prefix_lm": True}}, "prefix_lm=True"),
        ("mosaic_gpt", {"attn_uses_sequence_id": True}, "attn_uses_sequence_id=True"),
        ("mosaic_gpt", {"embedding_fraction": 0.1}, "embedding_fraction=0.1"),
        ("clip_vision_gelu", {"hidden_act": "mish"}, "'mish' is not implemented"),
        ("clip_vision_gelu", {"num_channels": 1}, "num_channels=1"),
        ("dinov2_swiglu", {"patch_size": [4, 2]}, "only square patches"),
        (
            "open_clip_vit",
            {"model_cfg": CLIP | {"vision_cfg": CLIP["vision_cfg"] | {"pool_type": "avg"}}},
            "pool_type=",
        ),
        (
            "open_clip_vit",
            {"model_cfg": CLIP | {"vision_cfg": CLIP["vision_cfg"] | {"ls_init_value": 0.1}}},
            "ls_init_v",
        ),
        ("open_clip_vit", {"model_cfg": {"vision_cfg": {"layers": [3, 4, 6, 3]}}}, "no ResNet"),
    ],
)
def test_options_that_are_not_implemented(case, changes, words):
    convert = language_config if (GOLDEN / "language" / case).exists() else vision_config
    convert(read_config(case))
    with pytest.raises(ValueError) as error:
        convert(read_config(case, **changes))
    assert words in str(error.value)


EPSILON = {  # family -> (a config of it, the key); None where the library has no such option
    "gemma": ("gemma", "rms_norm_eps"),
    "gemma2": ("gemma", "rms_norm_eps"),
    "gemma3_text": ("gemma3_text", "rms_norm_eps"),
    "gpt2": ("gptj", "layer_norm_epsilon"),
    "gpt_neox": ("gpt_neox_sequential", "layer_norm_eps"),
    "gptj": ("gptj", "layer_norm_epsilon"),
    "granite": ("granite", "rms_norm_eps"),
    "llama": ("llama3", "rms_norm_eps"),
    "mistral": ("mistral", "rms_norm_eps"),
    "mosaic_gpt": ("mosaic_gpt", None),
    "mpt": ("mpt_clip", "layer_norm_epsilon"),
    "olmo2": ("olmo2", "rms_norm_eps"),
    "olmo3": ("olmo3", "rms_norm_eps"),
    "opt": ("opt_350m", None),
    "phi": ("phi", "layer_norm_eps"),
    "phi3": ("phi3", "rms_norm_eps"),
    "qwen2": ("qwen2", "rms_norm_eps"),
    "qwen3": ("qwen3", "rms_norm_eps"),
    "smollm3": ("smollm3", "rms_norm_eps"),
    "stablelm": ("stablelm", "layer_norm_eps"),
}


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"gemma3"}))  # which wraps gemma3_text
def test_epsilon_is_the_configs(family):
    case, key = EPSILON[family]
    config = read_config(case, model_type=family)
    if key is None:
        assert language_config(config).epsilon == 1e-5
    else:
        assert language_config(config | {key: 0.003}).epsilon == 0.003


@pytest.mark.parametrize("case", ["clip_vision_gelu", "dinov2_registers", "dinov3_vit", "siglip2_naflex"])
def test_epsilon_is_the_configs_in_vision_too(case):
    assert vision_config(read_config(case, layer_norm_eps=0.003)).epsilon == 0.003


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_text_of_a_multimodal_gemma_is_the_text_model(tmp_path, prefix):
    """Its config stands under "text_config", its weights beside the encoder's."""
    folder = GOLDEN / "language" / "gemma3_text"
    text = read_config("gemma3_text")
    tensors = load_file(folder / "model.safetensors")
    renamed = {prefix + name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    extra = {f"{part}.weight": np.zeros(2, np.float32) for part in ("vision_tower.x", "multi_modal_projector.y")}
    save_file({**renamed, **extra}, tmp_path / "model.safetensors")
    found, expected = find(tmp_path, {"model_type": "gemma3", "text_config": text}), find(folder, text)
    assert found.config == expected.config
    chex.assert_trees_all_equal(found.place(), expected.place())


def test_what_transformers_ignores_of_an_mpt_config_is_ignored_for_its_files_only():
    """Its own MPT always has ALiBi to 2^-8 and four times the width; the makers' code reads the options."""
    options = {"no_bias": False, "expansion_ratio": 2, "logit_scale": 0.5, "learned_pos_emb": False}
    attention = {"alibi": False, "alibi_bias_max": 4, "qk_ln": True, "clip_qkv": 0.8, "softmax_scale": 0.3}
    config = read_config("mpt_clip", attn_config=attention, **options)
    plain = language_config(read_config("mpt_clip"))
    assert config["architectures"] == ["MptForCausalLM"]
    assert language_config(config) == plain
    makers = language_config(config | {"architectures": ["MPTForCausalLM"]})
    assert (makers.positions, makers.alibi_max, makers.qk_norm, makers.mlp_width) == ("none", 4.0, "whole", 48)
    assert (makers.qkv_bias, makers.norm_bias, makers.mlp_bias, makers.logit_scale) == (True, True, True, 0.5)
    assert (makers.clip_qkv, makers.attention_scale) == (plain.clip_qkv, plain.attention_scale) == (0.8, 0.3)


@pytest.mark.parametrize(
    "case, absent, field, value",
    [
        ("mistral", "sliding_window", "layers", 4096),
        ("olmo2", "rms_norm_eps", "epsilon", 1e-5),
        ("olmo3", "sliding_window", "layers", 4096),
        ("phi3", "rms_norm_eps", "epsilon", 1e-5),
        ("qwen3", "head_dim", "head_size", 128),
        ("smollm3", "num_key_value_heads", "kv_heads", 4),
        ("gptj", "rotary_dim", "layers", 1.0),
    ],
)
def test_what_a_family_means_by_an_absent_key(case, absent, field, value):
    config = read_config(case)
    config.pop(absent)
    if case == "gptj":  # 64 dimensions to rotate
        config |= {"n_embd": 256}
    found = getattr(language_config(config), field)
    if field == "layers":
        found = found[0].rope.fraction if case == "gptj" else max(kind.window for kind in found)
    assert found == value


def test_gemma_1_has_the_activation_that_its_file_names():
    for name, ours in (("relu", "relu"), ("gelu", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh")):
        assert language_config(read_config("gemma", hidden_act=name)).activation == ours
    both = read_config("gemma", hidden_act="relu", hidden_activation="silu")
    assert language_config(both).activation == "silu"


def test_gemma_3_has_no_soft_cap_in_its_attention():
    config = read_config("gemma3_text", attn_logit_softcapping=1.0, final_logit_softcapping=3.0)
    assert (language_config(config).softcap, language_config(config).logit_softcap) == (0.0, 3.0)


def test_mistral_and_phi_3_have_their_window_everywhere():
    config = read_config("mistral", layer_types=["full_attention"] * 3)
    assert [kind.window for kind in language_config(config).layers] == [6]


def test_yarn_without_a_factor_takes_it_from_the_contexts():
    config = read_config("llama_yarn")
    rope = config["rope_parameters"] | {"factor": None}
    found = language_config(config | {"rope_parameters": rope}).layers[0].rope
    assert found.factor == config["max_position_embeddings"] / rope["original_max_position_embeddings"] == 2.0


@pytest.mark.parametrize("value", ["32", None, 0])
def test_values_of_a_wrong_type_are_said_to_be(value):
    """A sentence, not what Python says of the first operation with it."""
    with pytest.raises(ValueError, match="gemma: a value of the config is of a wrong type or zero"):
        language_config(read_config("gemma", hidden_size=value, head_dim=None, num_attention_heads=value))


def test_pixels_are_normalised_as_the_folders_image_processor_does(tmp_path):
    folder, file = GOLDEN / "vision" / "clip_vision_gelu", tmp_path / "preprocessor_config.json"
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(folder / name)
    file.write_text(json.dumps({"image_mean": [0.5, 0.25, 0], "image_std": [1, 1, 0.5]}))
    config = find(tmp_path).config
    assert (config.mean, config.std) == ((0.5, 0.25, 0.0), (1.0, 1.0, 0.5))
    assert (
        dataclasses.replace(config, mean=find(folder).config.mean, std=find(folder).config.std) == find(folder).config
    )
    for wrong in ('{"image_mean": [0.5, 0.5]}', '{"image_std": [1, 0, 1]}', '{"image_mean": 3}', "[", "[]"):
        file.write_text(wrong)
        with pytest.raises(ValueError, match="preprocessor_config.json"):
            find(tmp_path)


def test_errors_name_the_folder(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match=f"{tmp_path}: llama: the config has no"):
        find(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"{tmp_path}: config.json has no model_type, so it is not known"):
        find(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="config.json is no JSON"):
        find(tmp_path)
