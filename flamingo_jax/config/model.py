"""Typed configuration of the bridge and of the whole model.

Every dataclass checks itself: values that clash, or an option that is not known, raise a ``ValueError`` that says which
values clash and which are allowed, before any array is made.
"""

from __future__ import annotations

import dataclasses

from flamingo_jax.config.check import ACTIVATIONS, choose, divide
from flamingo_jax.config.language import LanguageConfig
from flamingo_jax.config.suggest import suggest
from flamingo_jax.config.vision import NFNetConfig, ViTConfig

REMAT = ("none", "dots", "layers", "full", "offload")


@dataclasses.dataclass(frozen=True)
class ResamplerConfig:
    """What turns a medium's features into R ``latents`` (paper 2.1).

    kind: perceiver | transformer (features and latents attend to each other) | mlp (features averaged into R positions,
    no attention), the alternatives of the paper's ablation. frames: learnt temporal embeddings, 0 for none; more frames
    are given interpolated ones. project: features are projected to ``width`` (the 3072 of NFNet to 1536); without it
    ``width`` is the features'. mlp_width: 0 for 4 * width. qk_norm: none | head (LayerNorm over the head, IDEFICS).
    """

    width: int
    depth: int
    heads: int
    head_size: int
    latents: int = 64
    frames: int = 8
    kind: str = "perceiver"
    project: bool = True
    mlp_width: int = 0
    activation: str = "squared_relu"
    qk_norm: str = "none"
    epsilon: float = 1e-5

    def __post_init__(self):
        choose(self, kind=("perceiver", "transformer", "mlp"), activation=ACTIVATIONS, qk_norm=("none", "head"))
        if not self.mlp_width:
            object.__setattr__(self, "mlp_width", 4 * self.width)


@dataclasses.dataclass(frozen=True)
class GatedConfig:
    """Gated cross-attention before language blocks ``first``, first + every, ... (paper 2.2).

    graft: 0, or that many trainable layers of cross-attention and self-attention on top of the whole language model
    instead (the paper's ablation, after VC-GPT). gate: scalar | vector (one per channel) | none, tanh, starting at
    ``gate_init``. visible: own (a token sees its own medium) | previous (and all before it).
    norm: layer | rms of text and feed-forward; media_norm: keys and values get one too. qk_norm: none | head.
    mlp: plain | gated | none ("vanilla"); mlp_width: 0 for 4 D. unseen_mlp: the feed-forward also changes tokens that
    see no medium (all peers; False leaves them untouched). media_width: latents are projected once to this width before
    all blocks, 0 for not at all.
    """

    every: int
    heads: int
    head_size: int
    gate_init: float = 0.0
    first: int = 0
    graft: int = 0
    gate: str = "scalar"
    visible: str = "own"
    norm: str = "layer"
    media_norm: bool = True
    epsilon: float = 1e-5
    qk_norm: str = "none"
    mlp: str = "plain"
    mlp_width: int = 0
    activation: str = "squared_relu"
    unseen_mlp: bool = True
    media_width: int = 0

    def __post_init__(self):
        choose(
            self,
            gate=("scalar", "vector", "none"),
            visible=("own", "previous"),
            norm=("layer", "rms"),
            qk_norm=("none", "head"),
            mlp=("plain", "gated", "none"),
            activation=ACTIVATIONS,
        )

    def groups(self, depth: int) -> tuple[int, int, int]:
        """How ``depth`` language blocks are split: (blocks below the first gated layer, whole groups of ``every``
        blocks with a gated layer before each, blocks of a last, shorter group)."""
        if self.graft:
            return depth, 0, 0
        return self.first, *divmod(depth - self.first, self.every)


@dataclasses.dataclass(frozen=True)
class TextTowerConfig:
    """The bidirectional text encoder of the contrastive stage, and the joint embedding's width."""

    width: int
    depth: int
    heads: int
    embedding: int
    temperature: float = 0.07
    label_smoothing: float = 0.1

    def __post_init__(self):
        divide(self.width, self.heads)


# part -> what it is, in the order of the data flow; and those that are pretrained, and so may be frozen.
PARTS = {
    "vision": "vision encoder",
    "resampler": "Perceiver Resampler",
    "projection": "projection of the latents to the language model's width",
    "cross_attention": "gated cross-attention (and a graft's self-attention)",
    "new_tokens": "rows of the new tokens",
    "language": "blocks of the language model",
    "embeddings": "token table, positions and head",
}
PRETRAINED = ("vision", "language", "embeddings")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """All modules. ``dtype`` is the type of activations and of frozen weights; trainable weights are float32. int8:
    frozen matrices are whole numbers of 8 bits and a step for every output, and become ``dtype`` layer by layer.
    kernels: the language model's self-attention is computed by splash attention on TPUs and cuDNN on GPUs, where they
    have what it takes.

    resampler: None lets the text attend to the features themselves (IDEFICS). frozen: the parts that do not train, of
    vision, language and embeddings (the token table, positions and head). media: N, the most media per sequence,
    0 for any. remat: what the decoder keeps for the backward pass, from most to least: none (of it is computed again) |
    dots (results of matrix products) | layers (each layer's input) | full (each group's input, and within a group each
    layer's) | offload (the same, groups' inputs in the host's memory).
    """

    language: LanguageConfig
    vision: NFNetConfig | ViTConfig
    resampler: ResamplerConfig | None
    gated: GatedConfig
    text_tower: TextTowerConfig | None = None
    dtype: str = "bfloat16"
    int8: bool = False
    kernels: bool = True
    remat: str = "full"
    frozen: tuple[str, ...] = PRETRAINED
    media: int = 0

    def __post_init__(self):
        choose(self, dtype=("float32", "bfloat16"), remat=REMAT)
        for part in self.frozen:
            if part not in PRETRAINED:
                raise ValueError(f"frozen names {part!r}; {suggest(part, PRETRAINED)}.")
        if self.int8 and not self.frozen:
            raise ValueError("int8=True keeps frozen parts in 8 bits, but frozen=() names none; leave one of them out.")
        depth, gated = self.language.depth, self.gated
        if not gated.graft and (gated.every > depth or gated.first >= depth):
            raise ValueError(
                f"gated.every={gated.every} and gated.first={gated.first} do not fit language.depth={depth}: every may "
                f"be at most {depth}, first at most {depth - 1}."
            )
        features = self.vision.feature_width
        if self.resampler and not self.resampler.project and self.resampler.width != features:
            raise ValueError(
                f"resampler.width={self.resampler.width} is not the vision encoder's {features} channels; make them "
                "equal, or set resampler.project=True."
            )

    @property
    def media_shape(self) -> tuple[int, int]:
        """(latents per medium, their width) as the decoder gets them; without a resampler, of one."""
        return (self.resampler.latents, self.resampler.width) if self.resampler else (1, self.vision.feature_width)
