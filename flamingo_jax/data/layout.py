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
) -> tuple[np.ndarray, np.ndarray]:
    """Chunks as one token sequence (paper 2.2, A.3): ``<BOS>`` then ``<image>text<EOC>`` each, and ``<EOS>``.

        <BOS> see <EOC><image> a dog <EOC><image> a cat <EOC><EOS>      media_index, phi:
          0    0    0     1    1  1    1     2    2  2    2    2        the last medium that came before (paper 2.3)

    White space at a chunk's ends is dropped, so that a prompt and a page that look alike are alike. A chunk without
    medium gets no ``<image>``; if it is empty besides, it is left out.

    Args:
        chunks: in reading order; plain ``(text, medium)`` tuples will do.
        tokenizer: gives the ids.
        closed: False leaves the last chunk open, without ``<EOC>`` and ``<EOS>``: a prompt to be continued.
        leading_space: puts one space between ``<image>`` and its text.

    Returns:
        (tokens int32 [M], media_index int32 [M]), M as long as it takes.
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
    array = np.array(tokens, np.int32)
    return array, media_index(array, tokenizer.image)


def media_index(tokens: np.ndarray, image_id: int, following: bool = False) -> np.ndarray:
    """phi of a token sequence, or of a window of one: 0 for none, i for the i-th ``<image>`` in ``tokens``.

    An ``<image>`` sees its own medium. Other tokens see the last one before them or, if ``following``, the next one
    after them; the paper does not say what text sees that has none on that side: here, nothing (0).

        <BOS> see <EOC><image> a dog <EOC><image> a cat <EOC><EOS>
          0    0    0     1    1  1    1     2    2  2    2    2      following=False
          1    1    1     1    2  2    2     2    0  0    0    0      following=True

    Args:
        tokens: int [M]. image_id: the id of ``<image>``.

    Returns:
        int32 [M].
    """
    tags = tokens == image_id
    index = np.cumsum(tags, dtype=np.int32)
    if following:
        count = index[-1] if len(index) else 0
        index[~tags] += 1
        index[index > count] = 0
    return index
