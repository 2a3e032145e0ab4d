"""Captions, questions, templates and the text documents."""

import collections

import numpy as np

from flamingo_jax.config import WorldConfig
from flamingo_jax.data.world import grammar
from flamingo_jax.data.world.attributes import COLOURS, SHAPES, TEXTURES, Concept, Scene, concepts, draw_scene, split
from flamingo_jax.data.world.texts import texts

RED = Concept("circle", "red", "striped")


def test_captions():
    assert grammar.caption(Scene(RED, "one", "small", "left")) == "one small red striped circle on the left."
    stars = Scene(Concept("star", "blue", "dotted"), "three", "large")
    assert grammar.caption(stars) == "three large blue dotted stars."
    assert grammar.caption(Scene(Concept("cross", "pink", "plain"), "two", "small")).endswith("pink plain crosses.")
    assert grammar.caption(Scene(RED, motion="left")) == "one red striped circle moving left."
    assert grammar.caption(Scene(RED, motion="growing")) == "one red striped circle growing."


def test_questions_are_answered_by_the_scene():
    known = grammar.questions(Scene(RED, "one", "small", "top"))
    assert known["place"] == ("where is it?", "top") and known["count"] == ("how many are there?", "one")
    assert set(known) == set(grammar.QUESTIONS)
    assert "place" not in grammar.questions(Scene(RED, "two", "small"))
    assert grammar.questions(Scene(RED, motion="up"))["motion"] == ("which way does it move?", "up")
    assert grammar.questions(Scene(RED, motion="shrinking"))["motion"] == ("what does it do?", "shrinking")


def test_split_holds_out_a_quarter_but_no_pair_of_values():
    training, unseen = split(0)
    assert len(unseen) == 100 and len(training) == 300 and set(training) | set(unseen) == set(concepts())
    assert {c[:2] for c in training} == {(s, c) for s in SHAPES for c in COLOURS}
    assert {c[1:] for c in training} == {(c, t) for c in COLOURS for t in TEXTURES}
    assert {c[::2] for c in training} == {(s, t) for s in SHAPES for t in TEXTURES}


def test_noisy_captions_are_short_mostly_right_and_never_name_an_unseen_concept():
    training, _ = split(0)
    rng = np.random.default_rng(0)
    right = complete = 0
    for _ in range(2000):
        scene = draw_scene(rng, training[rng.integers(len(training))])
        words = grammar.noisy_caption(rng, scene, frozenset(training)).split()
        named = [w for w in words if w in COLOURS + TEXTURES or w in {grammar.noun(s, scene.count) for s in SHAPES}]
        expected = {grammar.noun(scene.concept.shape, scene.count), scene.concept.colour, scene.concept.texture}
        right += set(named) <= expected
        complete += scene.concept.colour in words
        assert len(words) <= 8
    assert 0.93 < right / 2000 < 0.995 and 0.7 < complete / 2000 < 0.9


def test_attribute_text_takes_an_article_before_shapes():
    form = "it is {value}."
    assert grammar.attribute_text(form, "shape", Concept("arrow", "red", "plain")) == "it is an arrow."
    assert grammar.attribute_text(form, "colour", RED) == "it is red."
    assert grammar.attribute_text("Output: {value}", "shape", RED) == "Output: circle"


def test_texts_are_deterministic_and_bind_words_anew_in_each_document():
    config = WorldConfig(texts=400)
    documents = list(texts(config))
    assert documents == list(texts(config))[:400] and len(set(documents)) > 395
    assert documents[:10] == list(texts(WorldConfig(texts=10)))
    bare = [d for d in documents if all(line.split()[-1] in grammar.MADE_UP_WORDS for line in d.split("\n"))]
    assert len(bare) > 80
    meanings = collections.defaultdict(set)
    for document in bare:
        bound = {}
        lines = [line.rsplit(" ", 1) for line in document.split("\n")]
        if not all(len(line) == 2 for line in lines):
            continue
        for cue, word in lines:
            cue = cue.removesuffix(". Output:").removesuffix(" Output:")
            assert bound.setdefault(cue, word) == word
            meanings[word].add(cue)
        assert 2 <= len(bound) <= 4 and 8 <= len(lines) <= 22
    assert max(map(len, meanings.values())) > 5


def test_bursty_repeats_every_kind():
    rng = np.random.default_rng(0)
    for _ in range(100):
        order = grammar.bursty(rng, 4, 9)
        assert len(order) == 9 and set(order) == {0, 1, 2, 3}
