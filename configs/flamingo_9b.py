"""Flamingo-9B: a Chinchilla-shaped 7.1B decoder, gated layers before every fourth block. A diff of flamingo_3b.py.

    python -m flamingo_jax.plan --config=configs/flamingo_9b.py --params

The batches are four times those of the paper's ablations, which it does not give for this model; docs/pods.md has plans
for several kinds of TPUs. Table 4 of the paper gives the language model 40 layers and 10 gated ones;
table 5 counts 7.1B and 1.6B weights, which are 32 layers (as Gopher's 7.1B has) and 8 gated ones. The counts are taken.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

SMALL = runpy.run_path(str(pathlib.Path(__file__).with_name("flamingo_3b.py")))


def get_config() -> ConfigDict:
    config = SMALL["get_config"]()
    config.model.language = SMALL["chinchilla"](width=4096, depth=32, heads=32)
    config.model.gated = dict(every=4, heads=32, head_size=128, media_width=4096)
    config.model.remat = "dots"
    config.mesh.update(fsdp=32)
    for name, batch_size in dict(m3w=1024, align=2048, ltip=2048, vtp=256).items():
        config.stages.flamingo.mixture[name].batch_size = batch_size
    return config
