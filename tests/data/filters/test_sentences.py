import random
import time

import pytest

from flamingo_jax.data.filters.sentences import sentences

CUTS = {  # text -> the same with bars between its sentences
    "One. Two!  Three? \t Four… five\nSix": "One.|Two!|Three?|Four… five|Six",
    'He said: "Go!" Then (it was late.) he left.': 'He said: "Go!"|Then (it was late.) he left.',
    "J. Smith of the U.S. Navy (e.g. Tom) ran. No. 5.": "J. Smith of the U.S. Navy (e.g. Tom) ran.|No. 5.",
    "1. First of 3.5 m\n2. Second. Then\n---\n12:30\nEnd! :-) *": "1. First of 3.5 m|2. Second.|Then|End! :-) *",
    "See www.example.com. It works in 1999. Really.": "See www.example.com.|It works in 1999.|Really.",
    "¿Qué pasa? ¡Nada! «Bien.» Sí.": "¿Qué pasa?|¡Nada!|«Bien.»|Sí.",
    "Am 3. Mai kam Dr. Müller. Er blieb.": "Am 3. Mai kam Dr. Müller.|Er blieb.",
    "Это А. С. Пушкин. Он поэт.": "Это А. С. Пушкин.|Он поэт.",
    "今日は晴れです。「行こう！」と彼は言った。はい": "今日は晴れです。|「行こう！」|と彼は言った。|はい",
    "नमस्ते दुनिया। आप कैसे हैं? ठीक।": "नमस्ते दुनिया।|आप कैसे हैं?|ठीक।",
    "مرحبا. كيف حالك؟ بخير.": "مرحبا.|كيف حالك؟|بخير.",
    " \n12 3.\n...\n": "",
    "": "",
}


@pytest.mark.parametrize("number", range(len(CUTS)))
def test_cuts(number):
    text, expected = list(CUTS.items())[number]
    assert "|".join(text[start:end] for start, end in sentences(text)) == expected


def test_every_letter_is_in_one_sentence_whose_ends_are_tight():
    rng = random.Random(0)
    for _ in range(500):
        text = "".join(rng.choices([*"aB.!? \n\t1\"'()…。」", "\u00a0", "\u2028", "e.g. ", "é", "\ud800", "猫"], k=40))
        spans = sentences(text)
        outside, last = "", 0
        for start, end in spans:
            assert last <= start < end and text[start:end] == text[start:end].strip() and "\n" not in text[start:end]
            outside, last = outside + text[last:start], end
        assert not any(map(str.isalpha, outside + text[last:]))


@pytest.mark.parametrize(
    "piece", ["A. ", "a." + '"' * 50, "1. ", ".", "。", " ", "x", ". ", "Ab. ", '"', "a....", "\n"]
)
def test_time_grows_with_the_length_alone(piece):
    text = (piece * 200_000)[:200_000]
    start = time.process_time()
    sentences(text)
    assert time.process_time() - start < 2
