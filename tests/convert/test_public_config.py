"""Public configs: families and options that are not implemented are refused by name; epsilons are the file's."""

import json
import pathlib

import chex
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flamingo_jax
from flamingo_jax.convert.language_config import FAMILIES, language_config
from flamingo_jax.convert.load import load_language
from flamingo_jax.convert.vision import vision_config

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


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
        ("llama3", {"rope_parameters": {"rope_type": "dynamic"}}, "'dynamic' is not implemented"),
        ("phi3", {"rope_parameters": None, "rope_scaling": {"type": "longrope"}}, "'longrope' is not implemented"),
        ("qwen3", {"layer_types": ["linear_attention"] * 3}, "'linear_attention' is not implemented"),
        ("gemma3_text", {"layer_types": ["chunked_attention"] * 6}, "'chunked_attention' is not implemented"),
        ("llama3", {"hidden_act": "mish"}, "'mish' is not implemented"),
        ("gptj", {"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=T"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ("smollm3", {"use_sliding_window": True}, "use_sliding_window=True"),
        ("opt_350m", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine=False"),
        ("phi", {"pretraining_tp": 2}, "pretraining_tp=2"),
        ("mpt_clip", {"attn_config": {"alibi": False}}, "alibi=False"),
        ("mosaic_gpt", {"alibi": False}, "alibi=False"),
        ("mpt_clip", {"attn_config": {"alibi": True, "prefix_lm": True}}, "prefix_lm=True"),
        ("mosaic_gpt", {"attn_uses_sequence_id": True}, "attn_uses_sequence_id=True"),
        ("mpt_clip", {"no_bias": False}, "no_bias=False"),
        ("mpt_clip", {"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ("mosaic_gpt", {"logit_scale": 0.5}, "logit_scale=0.5"),
        ("clip_vision_gelu", {"hidden_act": "mish"}, "'mish' is not implemented"),
        ("clip_vision_gelu", {"num_channels": 1}, "num_channels=1"),
        ("dinov2_swiglu", {"apply_layernorm": False}, "apply_layernorm=False"),
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
    config, weights = load_language(tmp_path, {"model_type": "gemma3", "text_config": text})
    expected, same = load_language(folder, text)
    assert config == expected
    chex.assert_trees_all_equal(weights, same)
