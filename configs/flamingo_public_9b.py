"""A Flamingo on SigLIP 2 so400m and Qwen3-8B, gated layers before every fourth block. A diff of flamingo_public_3b.py.

    python -m flamingo_jax.plan --config=configs/flamingo_public_9b.py --params

``checkpoints/`` holds the two public folders: google/siglip2-so400m-patch14-384 and Qwen/Qwen3-8B-Base.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

SMALL = runpy.run_path(str(pathlib.Path(__file__).with_name("flamingo_public_3b.py")))


def get_config() -> ConfigDict:
    config = SMALL["get_config"]()
    config.model.language = SMALL["qwen3"](width=4096, depth=36, heads=32, mlp_width=12288, tied=False)
    config.model.gated = dict(every=4, heads=32, head_size=128, media_width=4096)
    config.tokenizer.path = "checkpoints/Qwen3-8B-Base"
    config.stages.flamingo.parts.language = "checkpoints/Qwen3-8B-Base"
    return config
