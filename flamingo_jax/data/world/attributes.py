"""What the world is made of: attribute values, concepts, and which concepts no training file may show or name."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from typing import NamedTuple

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "crescent", "diamond", "arrow")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
TEXTURES = ("plain", "striped", "dotted", "checkered", "bordered")
SIZES = ("small", "large")
COUNTS = ("one", "two", "three", "four")
PLACES = ("left", "right", "top", "bottom", "center")
MOTIONS = ("left", "right", "up", "down", "growing", "shrinking")

UNSEEN_FRACTION = 0.25
# Half of the scenes hold a single object: only these have a place, and pages ask where it is.
COUNT_PROBABILITIES = (0.52, 0.16, 0.16, 0.16)


class Concept(NamedTuple):
    """A combination of attribute values: the thing that a made-up word is bound to."""

    shape: str
    colour: str
    texture: str

    @property
    def name(self) -> str:
        """``shape/colour/texture``, as the benchmark files write it."""
        return "/".join(self)


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a picture or a clip shows. ``place`` is set for single still objects, ``motion`` for clips."""

    concept: Concept
    count: str = "one"
    size: str = "large"
    place: str | None = None
    motion: str | None = None

    def attributes(self) -> dict[str, str]:
        """The values by attribute name; attributes that this scene does not have are absent."""
        values = {**self.concept._asdict(), "count": self.count}
        if self.motion is None:
            values["size"] = self.size
        if self.place is not None:
            values["place"] = self.place
        if self.motion is not None:
            values["motion"] = self.motion
        return values


def generator(seed: int, kind: str, index: int = 0) -> np.random.Generator:
    """The generator of one item: a pure function of (seed, kind, index), whatever the process that makes the item."""
    return np.random.default_rng([seed, zlib.crc32(kind.encode()), index])


def concepts() -> tuple[Concept, ...]:
    """All combinations of shape, colour and texture."""
    return tuple(Concept(*values) for values in itertools.product(SHAPES, COLOURS, TEXTURES))


def split(seed: int) -> tuple[tuple[Concept, ...], tuple[Concept, ...]]:
    """Splits the concepts into (training, unseen); a quarter is unseen.

    Every *pair* of values (red circle, striped circle, red striped) still occurs in training: what is held out is a new
    combination of known parts, never a part.
    """
    everything = concepts()
    unseen_count = round(UNSEEN_FRACTION * len(everything))
    for attempt in itertools.count():
        order = generator(seed, "split", attempt).permutation(len(everything))
        unseen = tuple(everything[i] for i in sorted(order[:unseen_count]))
        training = tuple(everything[i] for i in sorted(order[unseen_count:]))
        if _pairs(training) == _pairs(everything):
            return training, unseen


def draw_scene(rng: np.random.Generator, concept: Concept, count: str | None = None) -> Scene:
    """A still scene of ``concept`` with random size, count (unless given) and, for a single object, place."""
    count = count or COUNTS[rng.choice(len(COUNTS), p=COUNT_PROBABILITIES)]
    place = pick(rng, PLACES) if count == "one" else None
    return Scene(concept, count, pick(rng, SIZES), place)


def draw_clip(rng: np.random.Generator, concept: Concept) -> Scene:
    """A moving scene: one object of ``concept`` that travels, grows or shrinks."""
    return Scene(concept, motion=pick(rng, MOTIONS))


def pick(rng: np.random.Generator, values):
    """One of ``values``, uniformly (``Generator.choice`` would turn tuples into arrays, and is slow)."""
    return values[int(rng.integers(len(values)))]


def _pairs(some: tuple[Concept, ...]) -> set[tuple[str, ...]]:
    return {pair for concept in some for pair in itertools.combinations(concept, 2)}
