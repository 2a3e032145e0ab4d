"""Images put before the sentences that they fit best, given how alike they are: MMC4's assignment (arXiv 2304.06939).

OmniCorpus (arXiv 2406.08418) found such placement better than the page's own order for a model with cross-attention as
Flamingo's, and worse for one that reads images as tokens.
"""

from __future__ import annotations

import bisect
import dataclasses

import numpy as np
from scipy.optimize import linear_sum_assignment

from flamingo_jax.config import AlignConfig
from flamingo_jax.data.document import Document, Dropped
from flamingo_jax.data.filters.sentences import sentences

MAX_CELLS = 1_000_000
"""Of a matrix that is solved, in a second at most: time grows with its rows times its columns times the fewer."""

MAX_SENTENCES = 10_000
"""Of a document that is looked at."""


@dataclasses.dataclass(frozen=True)
class Aligned:
    """What became of a document.

    Attributes:
        document: None when it was left without images.
        similarities: of each of its images with the sentence that it stands before.
        moved: how many of them stood before another sentence, or after all.
        dropped: what was left out.
        untouched: why the document is as it was, a short phrase; else empty.
    """

    document: Document | None
    similarities: tuple[float, ...] = ()
    moved: int = 0
    dropped: tuple[Dropped, ...] = ()
    untouched: str = ""


def skip(document: Document, spans: list[tuple[int, int]]) -> str:
    """Why a document with these sentences is not looked at; empty when it is."""
    if not document.media:
        return "document without images"
    if not spans:
        return "document without sentences"
    cells = len(document.media) * len(spans)
    return "document too long" if len(spans) > MAX_SENTENCES or cells > MAX_CELLS else ""


def align(document: Document, similarity: np.ndarray, options: AlignConfig) -> Aligned:
    """Puts each image at the start of its sentence: no two at one while there are enough sentences.

    The sum of similarities is as large as it can be. Where there are more images than sentences, those that are left
    over go to the sentence that they are most alike. Images of one sentence keep their order, and the text is the same.

    Args:
        document: its sentences are those that ``sentences`` finds.
        similarity: [images, sentences]. A matrix of another shape, or with numbers that are not finite, leaves the
            document as it is.
        options: which images are left out.
    """
    spans = sentences(document.text)
    starts = [start for start, _ in spans]
    similarity = np.asarray(similarity)
    if reason := skip(document, spans):
        return Aligned(document, untouched=reason)
    if similarity.shape != (len(document.media), len(starts)):
        return Aligned(document, untouched="similarities of a wrong shape")
    if not np.isfinite(similarity).all():
        return Aligned(document, untouched="similarities not finite")
    dropped, kept = [], []
    for number, best in enumerate(similarity.max(1)):
        if options.min_best and best < options.min_best:
            dropped.append(Dropped("image unlike all sentences", f"{document.key}, medium {number}: {best:.3f}"))
        else:
            kept.append(number)
    placed = []
    for number, sentence in zip(kept, assign(similarity[kept]), strict=True):
        value = similarity[number, sentence]
        if options.min_similarity and value < options.min_similarity:
            dropped.append(Dropped("image unlike its sentence", f"{document.key}, medium {number}: {value:.3f}"))
        else:
            placed.append((int(sentence), number, float(value)))
    if not placed:
        dropped.append(Dropped("page left without images", document.key))
        return Aligned(None, dropped=tuple(dropped))
    chosen, numbers, values = zip(*sorted(placed), strict=True)
    moved = sum(
        bisect.bisect_left(starts, document.positions[number]) != sentence
        for sentence, number in zip(chosen, numbers, strict=True)
    )
    document = dataclasses.replace(
        document,
        positions=tuple(starts[sentence] for sentence in chosen),
        media=tuple(document.media[number] for number in numbers),
    )
    return Aligned(document, values, moved, tuple(dropped))


def assign(similarity: np.ndarray) -> np.ndarray:
    """[images, sentences] of finite numbers, one sentence at least -> the sentence of each image, int [images]."""
    found = similarity.argmax(1)
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    found[rows] = columns
    return found
