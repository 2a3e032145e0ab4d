"""Flamingo-3B as the paper has it: NFNet-F6, a Chinchilla-shaped 1.4B decoder, gated layers before every block.

    python -m flamingo_jax.plan --config=configs/flamingo_3b.py --params

The readings of the paper that this config and its relatives take, where it contradicts itself or is silent:
- Resampler: heads of 128 (the first version; the second says 96) and a projection of NFNet's 3072 channels to 1536 make
  its 194M.
- NFNet ends with the 1x1 expansion convolution; that makes the vision encoder's 435M.
- Cross-attention counts as if its keys and values read inputs of the language model's width, so the latents are
  projected to it once, before all gated layers (a part of its own in the table of parameters).
- Language model: Transformer-XL's relative positions (13 D^2 weights a layer) and a tied table of 32,000 rows. 24
  layers of 2048 are 1.374B, which the paper rounds to 1.4B.
- Texts of pairs have 32 or 64 tokens; which set has which is not said.
- How far colours are changed is not said; captions name colours, so it is little.
- Length and batches of the language stage, and the text tower's size, are not the paper's: it took Chinchilla, and says
  of the tower no more than that it is BERT's.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

SIZE = 320  # side of the encoder's input, pixels
BASE = pathlib.Path(__file__).with_name("base.py")


def get_config() -> ConfigDict:
    config = runpy.run_path(str(BASE))["get_config"]()
    del config.world
    config.tokenizer = dict(vocab_size=32000, datasets=("text",))
    raw = "{workdir}/raw"
    seen = dict(size=SIZE, flip=0.5, colour=dict(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02))
    paired = dict(seen, leading_space=0.5)
    config.datasets = dict(
        text=dict(
            format="text", source=f"{raw}/text/*.jsonl", shards=256, example=dict(length=2048, media=0, size=SIZE)
        ),
        m3w=dict(
            format="html", source=f"{raw}/m3w/**/*.html", size=SIZE, shards=1024,
            example=dict(length=256, media=5, p_next=0.5, **seen),
        ),
        align=dict(
            format="tar", source=f"{raw}/align/*.tar", size=SIZE, shards=1024, example=dict(length=32, **paired)
        ),
        ltip=dict(
            format="tar", source=f"{raw}/ltip/*.tar", size=SIZE, shards=1024, example=dict(length=64, **paired)
        ),
        vtp=dict(
            format="table", source=f"{raw}/vtp/captions.csv", size=SIZE, shards=1024, fps=1.0,
            example=dict(length=64, frames=8, **paired),
        ),
    )  # fmt: skip
    config.model = dict(
        language=chinchilla(width=2048, depth=24, heads=16),
        vision=dict(
            kind="nfnet", widths=(256, 512, 1536, 1536), depths=(7, 14, 42, 21), strides=(1, 2, 2, 2),
            stem=(16, 32, 64, 128), expansion=3072,
        ),
        resampler=dict(width=1536, depth=6, heads=16, head_size=128, latents=64, frames=8),
        gated=dict(every=1, heads=16, head_size=128, media_width=2048),
        text_tower=dict(width=768, depth=12, heads=12, embedding=1376),
        dtype="bfloat16", remat="full",
    )  # fmt: skip
    optimizer = dict(learning_rate=1e-4, warmup=5000, weight_decay=0.1, clip=1.0)
    config.stages = dict(
        language=dict(
            objective="language", steps=1_000_000, mixture=dict(text=dict(batch_size=512)), optimizer=optimizer
        ),
        contrastive=dict(
            objective="contrastive", steps=1_200_000,
            mixture=dict(align=dict(batch_size=16384), ltip=dict(batch_size=16384)),
            optimizer=dict(learning_rate=1e-3, warmup=0, decay_fraction=1.0, weight_decay=0.0, clip=10.0),
        ),
        flamingo=dict(
            objective="flamingo", steps=500_000, parts=dict(language="language", vision="contrastive"),
            mixture=dict(
                m3w=dict(batch_size=256, weight=1.0),
                # Captions of 12.4 and 20.5 tokens, and 4 control tokens each: a tenth of the packed rows is padding.
                align=dict(batch_size=512, weight=0.2, pack=8, row_length=152),
                ltip=dict(batch_size=512, weight=0.2, pack=8, row_length=216),
                vtp=dict(batch_size=64, weight=0.03),
            ),
            optimizer=optimizer,
        ),
    )  # fmt: skip
    config.evaluation.update(benchmarks=f"{raw}/benchmarks", shots=(0, 4, 8, 16, 32), queries=2048, text_shots=2)
    return config


def chinchilla(width: int, depth: int, heads: int) -> dict:
    """A decoder of Chinchilla's shape (Hoffmann et al. 2022): heads of 128, relative positions, GELU, RMSNorm."""
    return dict(
        vocab_size=32000, width=width, depth=depth, heads=heads, head_size=128, positions="relative",
        activation="gelu_tanh", max_positions=2048,
    )  # fmt: skip
