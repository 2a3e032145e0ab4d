"""Options of a corpus: raw files of a public format, and which of their documents are kept in which form."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class ImageRules:
    """Which images of a page are kept: the paper's filters (A.3.1). Images with captions of their own are all kept.

    side: width and height are at least this many pixels (the paper's 64). aspect: the longer side is at most this many
    times the shorter one (the paper's 3). deviation: the standard deviation of a channel, 0..255, that an image needs
    so as not to count as a single colour. The paper gives no number: 3 is above a JPEG's noise, and far below a word on
    white paper.
    """

    side: int = 64
    aspect: float = 3.0
    deviation: float = 3.0


@dataclasses.dataclass(frozen=True)
class TextRules:
    """Which pages are kept for their text: MassiveWeb's rules (Rae et al. 2021, arXiv 2112.11446, A.1.1), which the
    paper follows (A.3.1).

    formats: whose pages are held to them; those of the others were filtered by whoever published them.
    languages: codes of ISO 639-1 (of 639-3 where it has none) of the languages kept, () for all. language_score: the
    most likely language must be one of them and have this probability by fastText's classifier (the paper names no
    number; OBELICS takes 0.8, RefinedWeb 0.65); plain English, told by its commonest words, has 1.

    Quality (the first list of A.1.1): min_words, max_words; min_word_length, max_word_length, mean characters per word;
    max_symbols, "#" per word, and ellipses per word; max_bullets, share of lines that begin with a bullet;
    max_ellipses, share of lines that end with an ellipsis; min_alphabetic, share of words with a letter;
    min_stop_words, how many different of "the be to of and that have with" occur, in English pages alone.

    Repetition (table A1). A line is a paragraph here, so the table's rows for both, which have the same limits, are
    one: max_repeated_lines, share of lines that repeat an earlier one; max_repeated_line_characters, their share of the
    characters. max_top_ngram {n: share of the characters within the n-gram of words that occurs most often};
    max_repeated_ngram {n: share of the characters within n-grams of words that occur more than once}.

    ``data/filters/text.py`` says what a word is, and what becomes of languages written without spaces.

    Raises:
        ValueError: a language that is no such code, an n that is no positive integer, a share that is none,
            a least that is more than the most.
    """

    formats: tuple[str, ...] = ("html", "warc")
    languages: tuple[str, ...] = ("en",)
    language_score: float = 0.65
    min_words: int = 50
    max_words: int = 100_000
    min_word_length: float = 3.0
    max_word_length: float = 10.0
    max_symbols: float = 0.1
    max_bullets: float = 0.9
    max_ellipses: float = 0.3
    min_alphabetic: float = 0.8
    min_stop_words: int = 2
    max_repeated_lines: float = 0.3
    max_repeated_line_characters: float = 0.2
    max_top_ngram: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"2": 0.20, "3": 0.18, "4": 0.16})
    max_repeated_ngram: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"5": 0.15, "6": 0.14, "7": 0.13, "8": 0.12, "9": 0.11, "10": 0.10}
    )

    def __post_init__(self):
        for least, most in (("min_words", "max_words"), ("min_word_length", "max_word_length")):
            if getattr(self, least) > getattr(self, most):
                raise ValueError(f"{least}={getattr(self, least)} is more than {most}={getattr(self, most)}.")
        for code in self.languages:
            if not re.fullmatch("[a-z]{2,3}", code):
                raise ValueError(f"languages has {code!r}; give codes of two or three letters, such as 'en'.")
        for name in ("max_top_ngram", "max_repeated_ngram"):
            for n, share in getattr(self, name).items():
                if not re.fullmatch("[1-9][0-9]{0,2}", str(n)):
                    raise ValueError(f"{name} has {n!r}; give how many words an n-gram has, such as '5'.")
                if not 0 <= share <= 1:
                    raise ValueError(f"{name}.{n} must be a share, 0 to 1, but is {share}.")


@dataclasses.dataclass(frozen=True)
class DuplicateRules:
    """What is left out because it is elsewhere already; nothing by default, as in the paper's M3W (A.3.4).

    The first three need a pass over all raw files before the one that writes.

    pages: keep one page of each address. image_copies: leave out images, the same byte for byte, that occur in the
    corpus more often than this (OBELICS: 10; 0: never). paragraph_copies: leave out a page's paragraphs that the pages
    of one site repeat more often than this (OBELICS: 1; 0: never).
    in_page: leave out an image that its page has shown before, as OBELICS does.
    evaluation: a glob of image files, those of benchmarks; images that look like one of them are left out, as the paper
    does for ALIGN and LTIP. distance: bits of 64 in which the perceptual hashes of two images that look alike differ
    at most.

    Raises:
        ValueError: a distance at which all images look alike.
    """

    pages: bool = False
    image_copies: int = 0
    paragraph_copies: int = 0
    in_page: bool = False
    evaluation: str = ""
    distance: int = 4

    def __post_init__(self):
        if self.distance >= 32:
            raise ValueError(f"distance={self.distance}: of 64 bits, images of nothing in common differ in 32.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Raw files and what becomes of them.

    format: a key of ``data.formats.FORMATS``. source: a glob, ``**`` included, or what the format says.
    images: where the images and clips are that the raw files name by address or file name: a folder; a glob of
    img2dataset's or video2dataset's .tar files, which hold the addresses; or of tables (.csv, .tsv, .parquet) with the
    columns url and file. Without it, they are looked for beside the raw files.
    columns: of formats with columns, what those are called that have other names than usual: {"caption": ...,
    "media": ...} of pairs, {"images": ..., "texts": ..., "address": ...} of pages, {"text": ...}; numbers count the
    columns of a table without header from 0.
    split: of tfds, which part is read, as the library writes it: "train[:10%]".
    min_similarity: of mmc4, images less similar to their sentence are left out, by the set's own CLIP ViT-L/14
    (OpenFlamingo: 0.24; 0: none). reassign: of mmc4, images are matched to sentences anew, by similarity_matrix; in
    OpenFlamingo's files, only those that were found take part.
    size: longest side of stored images and frames, pixels; none is enlarged. quality: of the JPEGs, 0..100.
    fps, max_frames: of clips, frames per second and the most that are kept.
    shards: files of the dataset; 0 takes one for every 64 MB of raw files, 1024 at most.
    max_bad: share of documents and media that may be damaged before the preparation stops.

    Raises:
        ValueError: a quality that JPEG does not have, a similarity that no two vectors have.
    """

    format: str
    source: str
    images: str = ""
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    split: str = "train"
    min_similarity: float = 0.0
    reassign: bool = False
    size: int = 320
    quality: int = 95
    fps: float = 1.0
    max_frames: int = 32
    shards: int = 0
    max_bad: float = 0.5
    image: ImageRules = ImageRules()
    text: TextRules = TextRules()
    duplicates: DuplicateRules = DuplicateRules()

    def __post_init__(self):
        if self.quality > 100:
            raise ValueError(f"quality={self.quality} is more than a JPEG's 100.")
        if abs(self.min_similarity) > 1:
            raise ValueError(f"min_similarity={self.min_similarity} is no cosine; give one from -1 to 1.")
