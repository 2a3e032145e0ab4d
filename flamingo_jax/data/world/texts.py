"""Text documents for the language model: the pages' templates with words in place of the images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flamingo_jax.config import WorldConfig
from flamingo_jax.data.world import grammar
from flamingo_jax.data.world.attributes import Concept, draw_clip, draw_scene, generator, pick, split

KINDS = ("binding", "attribute", "quiz", "gallery")
KIND_WEIGHTS = (0.70, 0.10, 0.10, 0.10)
_PHRASE_CUES = 0.2  # of the binding documents name concepts where the others name common things
_MOVING = 0.3  # of the quizzes and galleries tell of clips
_NEW_LINE = 0.25  # of the documents put the text on the line below its cue, as it stands alone below an image


def texts(config: WorldConfig) -> Iterator[str]:
    """Yields ``config.texts`` documents, the i-th a pure function of (seed, i). Items are separated by new lines."""
    training, _ = split(config.seed)
    for index in range(config.texts):
        yield text(generator(config.seed, "text", index), training)


def text(rng: np.random.Generator, training: tuple[Concept, ...]) -> str:
    """One document about ``training`` concepts: a single kind and a single template for all of its items."""
    kind = KINDS[int(rng.choice(len(KINDS), p=KIND_WEIGHTS))]
    lines = _DOCUMENTS[kind](rng, training)
    if rng.random() < 0.1:
        lines.insert(int(rng.integers(1, len(lines))), grammar.prose(rng))
    if rng.random() < 0.1:
        lines.insert(0, grammar.title(rng))
    return "\n".join(lines)


def _binding(rng: np.random.Generator, training: tuple[Concept, ...]) -> list[str]:
    ways = int(rng.integers(2, 5))
    if rng.random() < _PHRASE_CUES:
        cues = [grammar.phrase(training[i]) for i in rng.choice(len(training), ways, replace=False)]
    else:
        cues = [grammar.NOUNS[i] for i in rng.choice(len(grammar.NOUNS), ways, replace=False)]
    words = grammar.draw_words(rng, ways)
    form = grammar.template(rng, grammar.BINDING_TEMPLATES, grammar.TEXT_BINDING_WEIGHTS)
    between = _between(rng, " " if form == "{word}" else ". ")
    # Every repetition is a chance to learn copying, every first mention is noise: short items are repeated more often.
    items = rng.integers(14, 23) if form == "{word}" else rng.integers(8, 15)
    order = grammar.bursty(rng, ways, int(items))
    return [cues[i] + between + form.format(word=words[i]) for i in order]


def _attribute(rng: np.random.Generator, training: tuple[Concept, ...]) -> list[str]:
    attribute = pick(rng, grammar.NAMED_ATTRIBUTES)
    form = grammar.template(rng, grammar.ATTRIBUTE_TEMPLATES, grammar.ATTRIBUTE_WEIGHTS)
    between = _between(rng, " ")
    scenes = [draw_scene(rng, pick(rng, training)) for _ in range(rng.integers(5, 9))]
    return [grammar.caption(s) + between + grammar.attribute_text(form, attribute, s.concept) for s in scenes]


def _quiz(rng: np.random.Generator, training: tuple[Concept, ...]) -> list[str]:
    between = _between(rng, " ")
    draw = _still_or_moving(rng)
    scenes = [draw(rng, pick(rng, training)) for _ in range(rng.integers(4, 7))]
    return [grammar.caption(s) + between + grammar.quiz(rng, s) for s in scenes]


def _gallery(rng: np.random.Generator, training: tuple[Concept, ...]) -> list[str]:
    form = grammar.template(rng, grammar.CAPTION_TEMPLATES, grammar.CAPTION_WEIGHTS)
    draw = _still_or_moving(rng)
    scenes = [draw(rng, pick(rng, training)) for _ in range(rng.integers(5, 9))]
    return [form.format(caption=grammar.caption(scene)) for scene in scenes]


def _still_or_moving(rng: np.random.Generator):
    return draw_clip if rng.random() < _MOVING else draw_scene


def _between(rng: np.random.Generator, usual: str) -> str:
    return "\n" if rng.random() < _NEW_LINE else usual


_DOCUMENTS = {"binding": _binding, "attribute": _attribute, "quiz": _quiz, "gallery": _gallery}
