"""Flamingo-80B: Chinchilla's 70B shape, gated layers before every seventh block. A diff of flamingo_3b.py.

    python -m flamingo_jax.plan --config=configs/flamingo_80b.py --params

The batches are twelve times those of the paper's ablations, which it does not give for this model: 1.1M tokens a step,
which 500,000 steps in its 15 days on 1536 chips leave room for at an MFU of 35 %.

80 layers with a gated one before blocks 0, 7, .., 77 have 12 of them, 9.66B weights, which the paper rounds to 10B.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

SMALL = runpy.run_path(str(pathlib.Path(__file__).with_name("flamingo_3b.py")))


def get_config() -> ConfigDict:
    config = SMALL["get_config"]()
    config.model.language = SMALL["chinchilla"](width=8192, depth=80, heads=64)
    config.model.gated = dict(every=7, heads=64, head_size=128, media_width=8192)
    for name, batch_size in dict(m3w=3072, align=6144, ltip=6144, vtp=768).items():
        config.stages.flamingo.mixture[name].batch_size = batch_size
    return config
