"""A Flamingo of 3B on parts that anyone can get: SigLIP 2 so400m and Qwen3-1.7B. A diff of flamingo_3b.py.

    python -m flamingo_jax.plan --config=configs/flamingo_public_3b.py --params

``checkpoints/`` holds the two public folders: google/siglip2-so400m-patch14-384 and Qwen/Qwen3-1.7B-Base.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

PAPER = pathlib.Path(__file__).with_name("flamingo_3b.py")
SIZE = 378  # 27 patches of 14 pixels, what the encoder sees of 384


def get_config() -> ConfigDict:
    config = runpy.run_path(str(PAPER))["get_config"]()
    for dataset in config.datasets.values():
        dataset.example.size = SIZE
        if dataset.format != "text":
            dataset.size = SIZE
    config.model.language = qwen3(width=2048, depth=28, heads=16, mlp_width=6144, tied=True)
    config.model.vision = dict(
        kind="vit", width=1152, depth=27, heads=16, patch_size=14, grid=(27, 27), mlp_width=4304,
        activation="gelu_tanh", epsilon=1e-6, pool="map",
    )  # fmt: skip
    config.model.gated = dict(every=2, heads=16, head_size=128, media_width=2048)
    config.tokenizer = dict(vocab_size=151669, path="checkpoints/Qwen3-1.7B-Base")
    config.order = ("flamingo",)
    config.stages = dict(flamingo=config.stages.flamingo)
    config.stages.flamingo.parts = dict(
        language="checkpoints/Qwen3-1.7B-Base", vision="checkpoints/siglip2-so400m-patch14-384"
    )
    return config


def qwen3(width: int, depth: int, heads: int, mlp_width: int, tied: bool) -> dict:
    """Qwen3's dense decoders: 8 key heads, RMSNorm of queries and keys, a table of 151,936 rows."""
    return dict(
        vocab_size=151669, vocab_rows=151936,  # 267 rows are no token
        width=width, depth=depth, heads=heads, kv_heads=8, head_size=128, mlp_width=mlp_width, max_positions=32768,
        epsilon=1e-6, layers=(dict(rope=dict(theta=1e6)),), qk_norm="head", mlp="gated",
        activation="silu", tied=tied,
    )  # fmt: skip
