"""The cases of make.py: configs in today's spelling, what older files have beside them, and what each case is for."""

VOCAB = 48


def rope(theta=10000.0, kind="default", **extra):
    return dict(rope_theta=theta, rope_type=kind, **extra)


IDS = dict(vocab_size=VOCAB, pad_token_id=0, bos_token_id=1, eos_token_id=2)
MHA = IDS | dict(hidden_size=32, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4)
MHA |= dict(max_position_embeddings=64, rope_parameters=rope())
GQA = MHA | dict(num_key_value_heads=2)
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
YARN = dict(factor=4.0, original_max_position_embeddings=32, beta_fast=32.0, beta_slow=1.0)
YARN_OLMO = dict(factor=4.0, original_max_position_embeddings=64, beta_slow=0.25, beta_fast=32.0, attention_factor=1.2)
ROPE_OLMO = dict(sliding_attention=rope(5e5), full_attention=rope(5e5, "yarn", **YARN_OLMO))
ROPE_GEMMA = dict(sliding_attention=rope(100.0), full_attention=rope(10000.0, "linear", factor=4.0))
SCALES = dict(embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.6, logits_scaling=2.5)
LOCAL, GLOBAL = "sliding_attention", "full_attention"

LONG = dict(short_factor=[1.0, 1.1, 1.4], long_factor=[1.3, 2.0, 5.0])
MOSAIC = (
    dict(model_type="mosaic_gpt", architectures=["MosaicGPT"], vocab_size=VOCAB, d_model=32)
    | dict(hidden_size=32, n_heads=4, n_layers=2, mlp_ratio=4, max_seq_len=64, alibi=True, attn_qk_ln=True)
    | dict(alibi_bias_max=8, attn_clip_qkv=None, softmax_scale=None, no_bias=True, attn_impl="torch", attn_pdrop=0)
    | dict(attn_uses_sequence_id=False, embedding_fraction=1.0, logit_scale=None, low_precision_layernorm=True)
    | dict(emb_pdrop=0, prefix_lm=False, resid_pdrop=0, use_cache=False, tokenizer_name="EleutherAI/gpt-neox-20b")
    | dict(torch_dtype="float32", transformers_version="4.27.4")
)

LANGUAGE = {
    "llama3": GQA | dict(model_type="llama", tie_word_embeddings=True, rope_parameters=rope(500.0, "llama3", **LLAMA3)),
    "llama_yarn": GQA | dict(model_type="llama", head_dim=16, rope_parameters=rope(100.0, "yarn", **YARN)),
    "mistral": GQA | dict(model_type="mistral", sliding_window=6, rms_norm_eps=1e-5),
    "qwen2": GQA | dict(model_type="qwen2", tie_word_embeddings=True, rope_parameters=rope(1e6)),
    "qwen3": GQA | dict(model_type="qwen3", head_dim=12, rope_parameters=rope(1e6)),
    "gemma": MHA | dict(model_type="gemma", num_key_value_heads=1, head_dim=16),
    "gemma3_text": GQA
    | dict(model_type="gemma3_text", hidden_size=24, head_dim=8, sliding_window=5, query_pre_attn_scalar=24)
    | dict(num_hidden_layers=6, layer_types=[LOCAL, LOCAL, GLOBAL] * 2, rope_parameters=ROPE_GEMMA),
    "gptj": IDS | dict(model_type="gptj", n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4),
    "gpt_neox_sequential": MHA
    | dict(model_type="gpt_neox", use_parallel_residual=False, rope_parameters=rope(partial_rotary_factor=1.0)),
    "opt_350m": dict(model_type="opt", vocab_size=VOCAB, hidden_size=32, ffn_dim=40, num_hidden_layers=3)
    | dict(num_attention_heads=4, max_position_embeddings=64, word_embed_proj_dim=16, do_layer_norm_before=False)
    | dict(pad_token_id=1, bos_token_id=2, eos_token_id=2),
    "mpt_clip": IDS
    | dict(model_type="mpt", d_model=24, n_heads=6, n_layers=3, max_seq_len=64, learned_pos_emb=False)
    | dict(attn_config=dict(clip_qkv=0.8, softmax_scale=0.3, alibi=True, alibi_bias_max=8)),
    "olmo2": GQA | dict(model_type="olmo2", rope_parameters=rope(5e5)),
    "olmo3": GQA
    | dict(model_type="olmo3", sliding_window=6, rope_parameters=ROPE_OLMO, max_position_embeddings=256)
    | dict(intermediate_size=32, num_hidden_layers=4, layer_types=[LOCAL, LOCAL, LOCAL, GLOBAL]),
    "phi": MHA | dict(model_type="phi", rope_parameters=rope(partial_rotary_factor=0.5)),
    "phi_qknorm": GQA
    | dict(model_type="phi", qk_layernorm=True, num_hidden_layers=2)
    | dict(rope_parameters=rope(partial_rotary_factor=0.25)),
    "phi3": GQA
    | dict(model_type="phi3", sliding_window=9, original_max_position_embeddings=64)
    | dict(rope_parameters=rope(partial_rotary_factor=0.75)),
    "smollm3": GQA
    | dict(model_type="smollm3", no_rope_layers=[1, 0, 1, 0], no_rope_layer_interval=2)
    | dict(intermediate_size=32, num_hidden_layers=4, rope_parameters=rope(5e6)),
    "stablelm": MHA
    | dict(model_type="stablelm", num_key_value_heads=4, use_qkv_bias=True)
    | dict(rope_parameters=rope(partial_rotary_factor=0.25)),
    "stablelm_qknorm": GQA
    | dict(model_type="stablelm", use_parallel_residual=True, qk_layernorm=True)
    | dict(rope_parameters=rope(partial_rotary_factor=0.5)),
    "granite": GQA | SCALES | dict(model_type="granite", tie_word_embeddings=True),
    "phi3_longrope": GQA
    | dict(model_type="phi3", original_max_position_embeddings=8)
    | dict(rope_parameters=rope(100.0, "longrope", partial_rotary_factor=0.75, **LONG)),
    "smollm3_windows": GQA
    | dict(model_type="smollm3", no_rope_layers=[1, 0, 1, 0], use_sliding_window=True, sliding_window=5)
    | dict(intermediate_size=32, num_hidden_layers=4, rope_parameters=rope(5e6)),
    "gpt2_inverse": IDS
    | dict(model_type="gpt2", n_embd=32, n_layer=3, n_head=4, n_positions=64, scale_attn_by_inverse_layer_idx=True)
    | dict(n_inner=40, tie_word_embeddings=False),
    "opt_plain": dict(model_type="opt", vocab_size=VOCAB, hidden_size=32, ffn_dim=40, num_hidden_layers=3)
    | dict(num_attention_heads=4, max_position_embeddings=64, enable_bias=False, layer_norm_elementwise_affine=False)
    | dict(pad_token_id=1, bos_token_id=2, eos_token_id=2),
    "gpt_neox_odd": MHA | dict(model_type="gpt_neox", hidden_size=48, rope_parameters=rope(partial_rotary_factor=0.25)),
    "mosaic_gpt": MOSAIC,
    "mosaic_gpt_learned": MOSAIC | dict(alibi=False, no_bias=False, logit_scale=0.5, attn_clip_qkv=1.5),
}
LEGACY = {  # keys that old files have beside the usual ones
    "qwen2": dict(sliding_window=6, use_sliding_window=False, max_window_layers=1),
    "gemma": dict(hidden_act="gelu"),
    "gemma3_text": dict(sliding_window_pattern=3),
}
TABLE = {"opt_350m": 0.5, "gemma3_text": 0.21, "granite": 0.5}  # standard deviation of embeddings, 0.35 elsewhere

VIT = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, patch_size=4)
VIT_16 = VIT | dict(image_size=16)
VISION = {
    "clip_vision_gelu": VIT_16 | dict(model_type="clip_vision_model", intermediate_size=40, hidden_act="gelu"),
    "siglip2_naflex": VIT | dict(model_type="siglip2_vision_model", intermediate_size=40, num_patches=16),
    "dinov2_swiglu": VIT_16 | dict(model_type="dinov2", mlp_ratio=2, use_swiglu_ffn=True),
    "dinov2_registers": VIT_16 | dict(model_type="dinov2_with_registers", mlp_ratio=2, num_register_tokens=3),
    "dinov3_vit": VIT_16 | dict(model_type="dinov3_vit", intermediate_size=40, num_register_tokens=3),
    "dinov3_vit_gated": VIT_16
    | dict(model_type="dinov3_vit", intermediate_size=40, num_register_tokens=4, use_gated_mlp=True)
    | dict(hidden_act="silu", query_bias=False, value_bias=False),
    "open_clip_vit": VIT_16 | dict(model_type="clip_vision_model", intermediate_size=48, projection_dim=20),
}

# Whole CLIPs: towers of different widths, a context that longer texts are cut to.
CLIP = {
    "clip_whole": dict(
        model_type="clip",
        projection_dim=10,
        vision_config=dict(VIT_16, hidden_size=12, num_attention_heads=3, intermediate_size=20),
        text_config=dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20)
        | dict(max_position_embeddings=20),
    )
}
MERGES = "t h,th e</w>,a n,an d</w>,i n,in g</w>,o n</w>,c a,ca t</w>,d o,do g</w>".split(",")  # of its tokenizer

NOTES = {
    "llama3": "llama3 rope scaling with all three frequency bands, GQA, tied",
    "llama_yarn": "YaRN with a ramp inside the head, attention factor 0.1 ln(factor) + 1, head_dim 16 != 32 / 4",
    "mistral": "sliding window 6 in every layer",
    "qwen2": "biases on q, k, v; tied; the legacy file names a sliding window that use_sliding_window turns off",
    "qwen3": "RMSNorm per head on q and k, head_dim 12 != 32 / 4",
    "gemma": "(1 + w) norms, embeddings x sqrt(D), tied, MQA, head_dim 16; gelu in the legacy file means the tanh form",
    "gemma3_text": "window 5, two local layers to one global; theta 100 / 10000 with linear factor 4; scale 24^-0.5",
    "gptj": "interleaved rotary on 4 of 8 dims, parallel block with one norm, bias on MLP and head, n_inner null",
    "gpt_neox_sequential": "RedPajama style: sequential residual, rotary over the whole head",
    "opt_350m": "post-norm, no final norm, embeddings of 16 projected to 32 and back",
    "mpt_clip": "ALiBi with 6 heads (not a power of two), clip_qkv 0.8, softmax_scale 0.3",
    "olmo2": "norms after each branch, RMSNorm over the whole q and k, GQA",
    "olmo3": "three layers of window 6 with plain rope, one full layer with YaRN (attention factor given)",
    "phi": "partial rotary 0.5, parallel block with one norm, biases everywhere, the head too",
    "phi_qknorm": "as phi, one LayerNorm over head_dim for all heads of q, one for k; GQA, partial rotary 0.25",
    "phi3": "fused qkv and gate_up with GQA sizes, partial rotary 0.75 (6 of 8 dims), window 9 in every layer",
    "smollm3": "no rope in layers 1 and 3 (no_rope_layers 1, 0, 1, 0), tied",
    "stablelm": "LayerNorm with bias, partial rotary 0.25, biases on q, k, v",
    "stablelm_qknorm": "parallel block with one norm; LayerNorm without bias on q and k, a weight for each head; GQA",
    "granite": "embedding x 3, attention scale 0.2, residual branches x 0.6, logits / 2.5, tied",
    "phi3_longrope": "LongRoPE with its long divisors, as 16 tokens pass the original 8; partial rotary 0.75",
    "smollm3_windows": "window 5 in layers 1 and 3, which have no rope",
    "gpt2_inverse": "scores of layer i divided by i + 1; untied head",
    "opt_plain": "norms without scale or offset, no biases at all",
    "gpt_neox_odd": "a quarter of heads of 12: angles for 3 dimensions, of which 4 are turned",
    "mosaic_gpt_learned": "as mosaic_gpt with learnt positions, biases everywhere, clipped to 1.5, logits x 0.5",
    "mosaic_gpt": "not in transformers: mosaic_gpt.py; ALiBi, no biases, LayerNorm without bias over whole q, k",
    "clip_vision_gelu": "exact gelu; last_hidden_state without post_layernorm; positions resized bicubic, no antialias",
    "siglip2_naflex": "patches of in.image_N are (row, column, channel); compare where in.pixel_attention_mask is 1",
    "dinov2_swiglu": "SwiGLU of width 48 from mlp_ratio 2, fused weights_in; positions resized bicubic, no antialias",
    "dinov2_registers": "3 registers after CLS, without positions; positions resized bicubic with antialias",
    "dinov3_vit": "3 registers, 2-D rope on patches only, no bias on k",
    "dinov3_vit_gated": "gated MLP with silu, no bias on q, k, v: as the 7B model",
    "clip_whole": "padded by the end token; eos_token_id 2 in the legacy config means the highest id",
    "open_clip_vit": "quick_gelu (var.gelu_*: same weights, gelu); tokens (CLS too) before ln_post; stray text keys",
}
