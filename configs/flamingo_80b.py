"""Flamingo-80B: Chinchilla's 70B shape, gated layers before every seventh block. A diff of flamingo_3b.py.

    python -m flamingo_jax.plan --config=configs/flamingo_80b.py --params

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
    return config
