"""From a document to one token sequence, and which medium each of its tokens sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flamingo_jax.data.document import Document
from flamingo_jax.data.tokenizer import Tokenizer


class Chunk(NamedTuple):
    """A stretch of text, and whether a medium stands before it (the paper's chunk, 2.2)."""

    text: str
    medium: bool = True


def split(document: Document) -> list[Chunk]:
    """The document's chunks in reading order; only the first may lack a medium, and texts may be empty."""
    bounds = (*document.positions, len(document.text))
    chunks = [Chunk(document.text[: bounds[0]], medium=False)]
    chunks += [Chunk(document.text[start:end]) for start, end in zip(bounds, bounds[1:], strict=False)]
    return chunks


def lay_out(
    chunks: Sequence[Chunk], tokenizer: Tokenizer, *, closed: bool = True, leading_space: bool = False
) -> np.ndarray:
    """Chunks as one token sequence (paper 2.2, A.3): ``<BOS>`` then ``<image>text<EOC>`` each, and ``<EOS>``.

        <BOS> see <EOC><image> a dog <EOC><image> a cat <EOC><EOS>

    White space at a chunk's ends is dropped, so that a prompt and a page that look alike are alike. A chunk without
    medium gets no ``<image>``; if it is empty besides, it is left out.

    Args:
        chunks: in reading order; plain ``(text, medium)`` tuples will do.
        tokenizer: gives the ids.
        closed: False leaves the last chunk open, without ``<EOC>`` and ``<EOS>``: a prompt to be continued.
        leading_space: puts one space between ``<image>`` and its text.

    Returns:
        int32 [M], M as long as it takes.
    """
    tokens = [tokenizer.bos]
    eoc: list[int] = []
    for text, medium in chunks:
        text = text.strip()
        if not (text or medium):
            continue
        tokens += eoc
        if medium:
            tokens.append(tokenizer.image)
        if text:
            tokens += tokenizer.encode(" " + text if medium and leading_space else text)
        eoc = [tokenizer.eoc]
    if closed:
        tokens += eoc + [tokenizer.eos]
    return np.array(tokens, np.int32)


def media_index(tokens: np.ndarray, image_id: int, following: bool = False) -> np.ndarray:
    """phi of a token sequence, or of a window of one: 0 for none, i for the i-th ``<image>`` in ``tokens``.

    An ``<image>`` sees its own medium. Other tokens see the last one before them or, if ``following``, the next one
    after them (2.4); the paper does not say what text sees that has none on that side: here, nothing (0).

        <BOS> see <EOC><image> a dog <EOC><image> a cat <EOC><EOS>
          0    0    0     1    1  1    1     2    2  2    2    2      following=False
          1    1    1     1    2  2    2     2    0  0    0    0      following=True

    Args:
        tokens: int [M]. image_id: the id of ``<image>``.

    Returns:
        int32 [M].
    """
    index = np.zeros(len(tokens), np.int32)
    before = 0
    for number, place in enumerate(np.flatnonzero(tokens == image_id).tolist(), 1):
        index[before if following else place : place + 1 if following else None] = number
        before = place + 1
    return index
