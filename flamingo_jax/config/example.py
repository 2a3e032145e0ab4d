"""What a dataset's examples look like: their shape, and the chances by which they are made."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ColourConfig:
    """How far colours are changed at random; 0 leaves them. The paper gives no numbers.

    brightness, contrast, saturation: a factor from [1 - x, 1 + x] each; contrast about the mean value, saturation about
    grey. hue: a turn of the colour circle from [-x, x], 1 being a whole one; text that names colours bears little.

    Raises:
        ValueError: more than half a turn.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self):
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue={self.hue} must be from 0 to 0.5, half a turn.")


@dataclasses.dataclass(frozen=True)
class ExampleConfig:
    """Shape of a dataset's examples and the coin flips that make them (paper 2.4, A.3).

    length: L, tokens. media: N per example. frames: T per medium. size: side S of the padded square, pixels.
    p_next: probability that a page's text refers to the *next* image instead of the previous one.
    leading_space: probability of one space before a caption (paired data).
    fill: the mean value, 0..255 per channel, that pads images and stands for absent ones.
    flip: probability that a medium is mirrored left to right. colour: how its colours are changed.

    Raises:
        ValueError: ``fill`` is no colour.
    """

    length: int
    media: int = 1
    frames: int = 1
    size: int = 320
    p_next: float = 0.5
    leading_space: float = 0.0
    fill: tuple[int, int, int] = (124, 116, 104)
    flip: float = 0.0
    colour: ColourConfig = ColourConfig()

    def __post_init__(self):
        if not all(0 <= channel <= 255 for channel in self.fill):
            raise ValueError(f"fill={self.fill} must be numbers from 0 to 255, a channel each.")
