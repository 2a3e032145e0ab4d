"""Options of what a CLIP has beside its vision encoder."""

from __future__ import annotations

import dataclasses

from flamingo_jax.config.language import LanguageConfig


@dataclasses.dataclass(frozen=True)
class ClipTextConfig:
    """The text tower of a CLIP, and what takes both towers to their common space (Radford et al. 2021, 2.4).

    tower: a decoder, whose last hidden state at the first ``end_token`` stands for the text. embedding: width E of the
    common space. image_width: of the encoder's pooled vector, where it is projected here; 0 where the encoder does it.
    """

    tower: LanguageConfig
    embedding: int
    end_token: int
    image_width: int = 0

    def __post_init__(self):
        if not 0 <= self.end_token < self.tower.vocab_size:
            raise ValueError(
                f"end_token={self.end_token} is no id of the text tower, whose vocab_size is {self.tower.vocab_size}."
            )
