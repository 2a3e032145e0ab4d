"""The one example type: text tokens, a set of media, and for every token the medium that it sees.

A web page, an image or a clip with its caption, and plain text all become this; so do the prompts of the evaluation,
which are laid out by the same ``lay_out``.

    key           shape             type     meaning
    tokens        [L]               int32    <BOS> text <EOC><image> text <EOC> ... <EOS>, then <PAD>
    weights       [L]               float32  1 where tokens[l], predicted from l - 1, counts in the loss, else 0
    media         [N, T, S, S, 3]   uint8    RGB; absent media are filled with the mean value
    media_index   [L]               int32    phi: 0 sees no medium, i sees the i-th of this example (from 1)
    media_mask    [N]               bool     True where there is a medium
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from flamingo_jax.config import ExampleConfig
from flamingo_jax.data import image
from flamingo_jax.data.document import Document
from flamingo_jax.data.tokenizer import Tokenizer

# A small dataset is decoded once, not in every epoch (four times the speed at 48 px). Of a large one, the first 256 MiB
# are kept, which nearly never serves but costs no time.
_FRAME_BYTES = 2**28
_frames: dict[tuple, np.ndarray] = {}


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


def make_example(
    document: Document, rng: np.random.Generator, tokenizer: Tokenizer, config: ExampleConfig
) -> dict[str, np.ndarray]:
    """Turns a document into an example: the dict that this file's heading describes.

    The paper's recipe (2.4, A.3): a random window of L tokens when the document is longer, the first N media of it;
    with probability ``p_next`` all of its text refers to the next medium instead of the previous one; with probability
    ``leading_space`` a space stands before the texts of media. What the paper leaves open, and is decided here:

    - ``<image>`` tags after the N-th are dropped. Their text stays, as context, but sees nothing and weighs nothing:
      it describes what is withheld.
    - A document whose text precedes no medium, like a captioned image, has no text that could refer to a next medium
      and always uses the previous one; its window starts at the beginning, where its media are.
    - A clip of more than T frames gives T consecutive ones from a random start (the records hold one per second, as
      the paper's clips do); of fewer, the last is repeated.
    - Text alone, or any document if N is 0, is ``<BOS>text<EOS>``: ``<EOC>`` ends what belongs to a medium, and a
      language model is pretrained without it.

    A medium that does not decode becomes a blank with ``media_mask`` False, and its text weighs nothing; nothing is
    raised for it (``count_dummies`` counts it).

    Args:
        document: any.
        rng: decides everything that is random. tokenizer: gives the ids. config: gives L, N, T, S and probabilities.
    """
    space, following, place = rng.random(3)
    interleaved = False
    if config.media and document.media:
        chunks = split(document)
        interleaved = any(chunk.text.strip() for chunk in chunks[:-1])
        tokens, _ = lay_out(chunks, tokenizer, leading_space=space < config.leading_space)
    else:
        text = document.text.strip()
        tokens = np.array([tokenizer.bos, *(tokenizer.encode(text) if text else ()), tokenizer.eos], np.int32)
    start = 0
    if interleaved or not document.media or not config.media:
        start = int(place * max(1, len(tokens) - config.length + 1))
    skipped = int((tokens[:start] == tokenizer.image).sum())
    tokens = tokens[start : start + config.length]

    index = media_index(tokens, tokenizer.image, following=interleaved and following < config.p_next)
    tags = tokens == tokenizer.image
    kept = index <= config.media
    weights = (kept & ~tags & (tokens != tokenizer.bos)).astype(np.float32)
    weights[:1] = 0.0  # nothing comes before it that could predict it
    index[~kept] = 0
    stay = kept | ~tags
    example = empty_example(config, tokenizer.pad)
    length = int(stay.sum())
    example["tokens"][:length] = tokens[stay]
    example["weights"][:length] = weights[stay]
    example["media_index"][:length] = index[stay]
    for slot, frames in enumerate(document.media[skipped : skipped + min(config.media, int(tags.sum()))]):
        first = int(rng.integers(max(1, len(frames) - config.frames + 1)))
        try:
            example["media"][slot] = load_medium(frames, config, first)
            example["media_mask"][slot] = True
        except ValueError as error:
            example["weights"][example["media_index"] == slot + 1] = 0.0
            logging.log_first_n(
                logging.WARNING,
                "Medium %d of document %s (%s) left blank: %s",
                10,
                skipped + slot,
                document.key,
                document.source,
                error,
            )
    return example


def load_medium(frames: Sequence[bytes], config: ExampleConfig, first: int = 0) -> np.ndarray:
    """T frames from the ``first`` on, decoded and padded; where they end early, the last is repeated.

    Returns:
        uint8 [T, S, S, 3].

    Raises:
        ValueError: a frame does not decode.
    """
    chosen = frames[first : first + config.frames]
    out = np.empty((config.frames, config.size, config.size, 3), np.uint8)
    for i, data in enumerate(chosen):
        out[i] = _frame(data, config.size, config.fill)
    out[len(chosen) :] = out[len(chosen) - 1]
    return out


def empty_example(config: ExampleConfig, pad: int = 0) -> dict[str, np.ndarray]:
    """The dummy that stands for an unreadable document: padding alone, and no weight anywhere."""
    return {
        "tokens": np.full(config.length, pad, np.int32),
        "weights": np.zeros(config.length, np.float32),
        "media": _blank(config).copy(),
        "media_index": np.zeros(config.length, np.int32),
        "media_mask": np.zeros(config.media, bool),
    }


def empty_batch(config: ExampleConfig, batch_size: int, pad: int = 0) -> dict[str, np.ndarray]:
    """``batch_size`` dummies, [B, ...]: the shapes and types of a batch."""
    return {key: np.stack([value] * batch_size) for key, value in empty_example(config, pad).items()}


def count_dummies(batch: dict[str, np.ndarray], tokenizer: Tokenizer) -> tuple[int, int]:
    """How many documents of a batch were unreadable, and how many media that should be there were left blank."""
    documents = int((batch["tokens"] == tokenizer.pad).all(-1).sum())
    media = int((batch["tokens"] == tokenizer.image).sum() - batch["media_mask"].sum())
    return documents, media


def _frame(data: bytes, size: int, fill: tuple[int, int, int]) -> np.ndarray:
    """Decodes and pads, or remembers having done so. uint8 [S, S, 3], not to be changed. Raises ValueError."""
    key = (hashlib.blake2b(data, digest_size=16).digest(), size, fill)
    pixels = _frames.get(key)
    if pixels is None:
        pixels = image.pad(image.decode(data, size), size, fill)
        if (len(_frames) + 1) * pixels.nbytes <= _FRAME_BYTES:
            _frames[key] = pixels
    return pixels


@functools.lru_cache(maxsize=16)
def _blank(config: ExampleConfig) -> np.ndarray:
    """uint8 [N, T, S, S, 3] of the mean value."""
    return np.full((config.media, config.frames, config.size, config.size, 3), config.fill, np.uint8)
