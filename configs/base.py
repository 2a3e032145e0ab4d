"""The whole recipe in miniature: a world of its own, no download, no accelerator, 8-23 minutes on 2 CPU cores.

    python -m flamingo_jax.train --config=configs/base.py --workdir=runs/base
    python -m flamingo_jax.train --config=configs/base.py:quick --workdir=runs/quick     # a first look: 3 minutes

Every larger config is a diff of this one.
"""

from ml_collections import ConfigDict

SIZE = 48  # side of the encoder's input, pixels
FRAMES = 4  # of a clip, one per second


def get_config(variant: str = "") -> ConfigDict:
    """The configuration; ``variant`` is "" or "quick" (a smaller world and shorter stages)."""
    if variant not in ("", "quick"):
        raise ValueError(f"configs/base.py has the variants '' and 'quick', not {variant!r}.")
    config = ConfigDict()
    config.seed = 0
    config.mesh = dict(data=-1, fsdp=1, tensor=1)
    config.streams = dict(threads=1, workers=0, prefetch=2, max_unreadable=0.01)
    config.world = dict(
        seed=0, images_per_concept=40, pages=4000, align=4000, ltip=4000, clips=800, texts=8000,
        queries=200, supports=96, binding_images=8,
    )  # fmt: skip
    config.tokenizer = dict(vocab_size=1024, datasets=("text",))

    raw = "{workdir}/world"
    config.datasets = dict(
        text=dict(format="text", source=f"{raw}/text/*.jsonl", example=dict(length=96, media=0, size=SIZE)),
        m3w=dict(
            format="html", source=f"{raw}/pages/*.html", size=SIZE, shards=2,
            text=dict(formats=()),  # the world's pages are shorter than the web's
            # The world's pages put every text after its image, so none refers to the next one.
            example=dict(length=112, media=9, size=SIZE, p_next=0.0),
        ),
        align=dict(
            format="tar", source=f"{raw}/align/*.tar", size=SIZE,
            example=dict(length=20, size=SIZE, leading_space=0.5),
        ),
        ltip=dict(
            format="tar", source=f"{raw}/ltip/*.tar", size=SIZE,
            example=dict(length=24, size=SIZE, leading_space=0.5),
        ),
        vtp=dict(
            format="table", source=f"{raw}/vtp/captions.csv", size=SIZE, fps=1.0, shards=2,
            example=dict(length=32, frames=FRAMES, size=SIZE, leading_space=0.5),
        ),
    )  # fmt: skip

    config.model = dict(
        language=dict(
            vocab_size=1024, width=64, depth=2, heads=4, activation="squared_relu", smear=True, embedding_scale=8.0
        ),
        vision=dict(widths=(48, 96), depths=(1, 2), strides=(1, 2), stem=(16, 32, 48), activation="relu"),
        resampler=dict(width=64, depth=2, heads=4, head_size=16, latents=8, frames=FRAMES),
        # The paper's gates start at 0 and open over 500k steps; in the few minutes here they would stay shut.
        gated=dict(every=1, heads=4, head_size=16, gate_init=1.0),
        text_tower=dict(width=64, depth=2, heads=4, embedding=64),
        dtype="float32",  # a CPU computes bfloat16 slowly
        remat="none",
    )

    config.order = ("language", "contrastive", "flamingo")
    config.stages = dict(
        language=dict(
            objective="language", steps=1000, mixture=dict(text=dict(batch_size=32)),
            optimizer=dict(learning_rate=3e-3, warmup=100, decay_fraction=0.2, b2=0.98),
        ),
        contrastive=dict(
            objective="contrastive", steps=800,
            mixture=dict(align=dict(batch_size=32), ltip=dict(batch_size=96)),
            optimizer=dict(learning_rate=2e-3, warmup=50, decay_fraction=0.8, b2=0.98),
        ),
        flamingo=dict(
            objective="flamingo", steps=1250, parts=dict(language="language", vision="contrastive"),
            mixture=dict(
                m3w=dict(batch_size=32, weight=1.0),
                # Four captions, of 8.4 and 11.6 tokens with their control tokens, in a row.
                align=dict(batch_size=32, weight=0.2, pack=4, row_length=40),
                ltip=dict(batch_size=32, weight=0.2, pack=4, row_length=52),
                vtp=dict(batch_size=16, weight=0.2),  # the paper's 0.03 leaves no time to learn what moves
            ),
            optimizer=dict(learning_rate=2e-3, warmup=100, decay_fraction=0.2, b2=0.98),
        ),
    )  # fmt: skip
    config.evaluation = dict(
        tasks=(
            "caption", "caption_unseen", "vqa", "vqa_unseen", "classification", "video_qa", "induction", "binding",
        ),
        benchmarks=f"{raw}/benchmarks", image_dataset="m3w", clip_dataset="vtp",
        shots=(0, 1, 2, 4, 8), queries=200,
        text_shots=0,  # the world has no text-only examples in prompt form, so they would be foreign to the model
    )  # fmt: skip
    return _quick(config) if variant == "quick" else config


def _quick(config: ConfigDict) -> ConfigDict:
    """A smaller world and shorter stages: everything runs, little is learnt."""
    config.world.update(
        images_per_concept=8, pages=600, align=800, ltip=800, clips=120, texts=3000, queries=50, supports=64
    )
    for name, steps in (("language", 120), ("contrastive", 30), ("flamingo", 50)):
        config.stages[name].steps = steps
    config.evaluation.update(queries=50, shots=(0, 2, 4))
    return config
