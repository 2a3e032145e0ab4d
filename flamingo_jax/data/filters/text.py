"""Which pages are kept for their text: see ``TextRules``.

Words are what white space separates (characters up to U+0020), as they are written; lines are what line feeds separate,
empty ones left out. Words are counted as numbers: arrays of hashes, with 64 bits, of words and of n-grams.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping

import numpy as np

from flamingo_jax.config import TextRules
from flamingo_jax.data.filters import language

REASONS = (
    "text too short",
    "text too long",
    "text in another language",
    "text of odd words",
    "text of symbols",
    "text of bullets",
    "text of unfinished lines",
    "text without letters",
    "text without stop words",
    "text repeats lines",
    "text repeats phrases",
)
"""What ``judge`` returns."""

STOP_WORDS = frozenset("the be to of and that have with".split())
BULLETS = "•‣◦▪●■*-–"
ELLIPSES = ("...", "…")

_SPACE = re.compile(r"[\0-\x20]+")
_BASE, _STEP = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # odd, and else of no meaning


def judge(text: str, rules: TextRules) -> str | None:
    """Why a page is left out, one of ``REASONS``, or None.

    The cheap rules come first. What the classifier finds the most likely language decides which of them apply: that of
    stop words to English; to languages written without spaces those that need no words, that is, neither length of
    words, letters, stop words nor n-grams. In these every character counts as a word.

    Args:
        text: paragraphs separated by line feeds.
        rules: the limits.
    """
    if len(text) < rules.min_words:  # fewer characters than words
        return "text too short"
    code, probability = language.identify(text, rules.language_score)
    if rules.languages and (code not in rules.languages or probability < rules.language_score):
        return "text in another language"
    words = find_words(text)
    count = words.characters if code in language.UNSPACED else len(words.starts)
    if count < max(1, rules.min_words):
        return "text too short"
    if count > rules.max_words:
        return "text too long"
    ellipses = sum(map(text.count, ELLIPSES))
    if max(text.count("#"), ellipses) > rules.max_symbols * count:
        return "text of symbols"
    lines = [line for line in text.split("\n") if line]
    if sum([line[0] in BULLETS for line in lines]) > rules.max_bullets * len(lines):
        return "text of bullets"
    most = rules.max_ellipses * len(lines)
    if ellipses > most and sum([line.endswith(ELLIPSES) for line in lines]) > most:
        return "text of unfinished lines"
    if repeats_lines(lines, rules):
        return "text repeats lines"
    if code in language.UNSPACED:
        return None
    if not rules.min_word_length <= words.characters / count <= rules.max_word_length:
        return "text of odd words"
    if lacks_letters(text, words, rules.min_alphabetic):
        return "text without letters"
    if code == "en" and lacks_stop_words(text, rules.min_stop_words):
        return "text without stop words"
    if repeats_phrases(words, rules.max_top_ngram, rules.max_repeated_ngram):
        return "text repeats phrases"
    return None


@dataclasses.dataclass(frozen=True)
class Words:
    """Where the words of a text are.

    Attributes:
        codes: the text's characters, uint32 [characters].
        starts, ends: per word, its first character and the one after its last, [words].
        lengths: per word, its characters, [words].
        characters: of all words.
    """

    codes: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    lengths: np.ndarray
    characters: int


def find_words(text: str) -> Words:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    outside = np.ones(len(codes) + 2, bool)
    np.less_equal(codes, ord(" "), out=outside[1:-1])
    edges = np.flatnonzero(outside[1:] != outside[:-1])
    starts, ends = edges[::2], edges[1::2]
    lengths = ends - starts
    return Words(codes, starts, ends, lengths, int(lengths.sum()))


def repeats_lines(lines: list[str], rules: TextRules) -> bool:
    """Whether too many lines, or too much of the text, are copies of earlier lines."""
    distinct = set(lines)
    if len(distinct) == len(lines):
        return False
    characters = sum(map(len, lines))
    repeated = characters - sum(map(len, distinct))
    return (
        len(lines) - len(distinct) > rules.max_repeated_lines * len(lines)
        or repeated > rules.max_repeated_line_characters * characters
    )


def lacks_letters(text: str, words: Words, least: float) -> bool:
    """Whether less than a share ``least`` of the words has a letter, of any script."""
    needed = least * len(words.starts)
    first = words.codes[words.starts] | np.uint32(32)
    if np.count_nonzero(first - np.uint32(ord("a")) < 26) >= needed:  # most words begin with one from a to z
        return False
    return sum(any(map(str.isalpha, word)) for word in _SPACE.split(text)) < needed


def lacks_stop_words(text: str, least: int) -> bool:
    """Whether fewer than ``least`` different stop words occur."""
    if sum([f" {word} " in text for word in STOP_WORDS]) >= least:  # of an English text, at its beginning
        return False
    return len(STOP_WORDS.intersection(_SPACE.split(text.lower()))) < least


def repeats_phrases(words: Words, top: Mapping[str, float], repeated: Mapping[str, float]) -> bool:
    """Whether n-grams of words make up too much of the characters of all words.

    Args:
        words: the text's.
        top: n -> the largest share of the most frequent n-gram: see ``top_share``.
        repeated: n -> the largest share of words within repeated n-grams: see ``repeated_share``.
    """
    grams = Grams(words)
    most, longest = len(words.starts), int(words.lengths.max(initial=0))
    for n, limit in sorted((int(n), limit) for n, limit in top.items()):
        # Mostly upper bounds settle it; and an n-gram occurs no more often than the shorter ones within it.
        if most * n * longest > limit * words.characters:
            most = grams.most(n)
            if most * n * longest > limit * words.characters and top_share(grams, n) > limit:
                return True
    limits = sorted((int(n), limit) for n, limit in repeated.items())
    for i, (n, limit) in enumerate(limits):
        share = repeated_share(grams, n)
        if share > limit:
            return True
        # Words within longer n-grams that repeat are within shorter ones that repeat.
        if share <= min(later for _, later in limits[i:]):
            break
    return False


class Grams:
    """The n-grams of a text's words.

    Attributes:
        words: the text's.
        before: characters of the words before each word, and of all, [words + 1].
    """

    def __init__(self, words: Words):
        self.words = words
        self.before = np.zeros(len(words.starts) + 1, int)
        np.cumsum(words.lengths, out=self.before[1:])
        self._hashes = {1: _hash(words)}

    def hashes(self, n: int) -> np.ndarray:
        """The n-gram that begins at each word as a number, uint64 [words - n + 1]."""
        if n not in self._hashes:
            count, half = max(0, len(self.words.starts) - n + 1), n // 2
            first, second = self.hashes(n - half)[:count], self.hashes(half)[n - half :]
            self._hashes[n] = first * np.uint64(pow(_STEP, half, 2**64)) + second
        return self._hashes[n]

    def most(self, n: int) -> int:
        """At most how often an n-gram occurs: how many there are in the fullest of 4096 buckets."""
        return int(np.bincount((self.hashes(n) >> np.uint64(52)).view(np.int64)).max(initial=0))

    def find(self, n: int, values: np.ndarray) -> np.ndarray:
        """The words at which one of the n-grams ``values``, ascending, begins."""
        hashes, suspected = self.hashes(n), np.zeros(2**14, bool)
        suspected[values >> np.uint64(50)] = True
        at = np.flatnonzero(suspected[hashes >> np.uint64(50)])
        return at[values[np.searchsorted(values[:-1], hashes[at])] == hashes[at]]


def top_share(grams: Grams, n: int) -> float:
    """The share of the n-gram that occurs most often: occurrences times characters, of several such the longest.

    One that occurs once is no repetition, its share is 0.
    """
    values, counts = np.unique_counts(grams.hashes(n))
    most = int(counts.max(initial=0))
    if most < 2:
        return 0.0
    frequent = grams.find(n, values[counts == most])
    return most * int((grams.before[frequent + n] - grams.before[frequent]).max()) / grams.words.characters


def repeated_share(grams: Grams, n: int) -> float:
    """The share of the characters that are in n-grams which occur more than once, each character counted once."""
    ordered = np.sort(grams.hashes(n))
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return 0.0
    starts = grams.find(n, repeated)
    ends = np.minimum(starts + n, np.append(starts[1:], len(grams.words.starts)))  # before the next one begins
    return int((grams.before[ends] - grams.before[starts]).sum()) / grams.words.characters


def _hash(words: Words) -> np.ndarray:
    """Words as numbers, uint64 [words]: polynomials of their characters."""
    size = len(words.codes)
    powers = _powers(size.bit_length())
    sums = np.zeros(size + 1, np.uint64)
    np.cumsum(words.codes * powers[:size], out=sums[1:])
    # Each is multiplied by what brings its first character to the same power.
    return (sums[words.ends] - sums[words.starts]) * powers[size - words.starts]


@functools.cache
def _powers(bits: int) -> np.ndarray:
    """The powers of ``_BASE`` from 0 to 2^bits - 1, modulo 2^64."""
    return np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(2**bits - 1, _BASE, np.uint64)]))
