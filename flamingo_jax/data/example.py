"""The one example type: text tokens, a set of media, and for every token the medium that it sees.

A web page, an image or a clip with its caption, and plain text all become this. A row holds one document, or several
(``data/packing.py``).

    key           shape             type     meaning
    tokens        [L]               int32    <BOS> text <EOC><image> text <EOC> ... <EOS>, then <PAD>
    weights       [L]               float32  1 where tokens[l], predicted from l - 1, counts in the loss, else 0
    segments      [L]               int32    which document of the row a token belongs to, from 1; 0 is padding
    media         [N, T, S, S, 3]   uint8    RGB; absent media are filled with the mean value
    media_index   [L]               int32    phi: 0 sees no medium, i sees the i-th of this row (from 1)
    media_mask    [N]               bool     True where there is a medium
    unreadable    [2]               int32    how many documents and media are missing because they could not be read
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from flamingo_jax.config import ExampleConfig
from flamingo_jax.data import image, medium
from flamingo_jax.data.document import Document
from flamingo_jax.data.layout import lay_out, media_index, split
from flamingo_jax.data.medium import Look, choose_look
from flamingo_jax.data.tokenizer import Tokenizer


class Drawn(NamedTuple):
    """An example whose media are not decoded yet: tokens, weights and media_index [n], n <= L; frames with their look.

    name: of the document, for warnings.
    """

    tokens: np.ndarray
    weights: np.ndarray
    media_index: np.ndarray
    media: tuple[tuple[tuple[bytes, ...], Look], ...] = ()
    name: str = ""


_TEXT_DRAWS = 3


def count_draws(config: ExampleConfig) -> int:
    """How many random numbers an example takes."""
    return _TEXT_DRAWS + medium.DRAWS * config.media


NOTHING = Drawn(np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.int32))
"""What stands for an unreadable document: no token, so no weight."""


def draw(document: Document, draws: Sequence[float], tokenizer: Tokenizer, config: ExampleConfig) -> Drawn:
    """Turns a document into an example, up to the decoding of its media.

    The paper's recipe (2.4, A.3): a random window of L tokens when the document is longer, the first N media of it;
    with probability ``p_next`` all of its text refers to the next medium instead of the previous one; with probability
    ``leading_space`` a space stands before the texts of media. What the paper leaves open, and is decided here:

    - Text before the window's first medium sees nothing, or that medium if text refers to the next one. Text after the
      last one then sees nothing. Both count in the loss: they are plain text to the language model.
    - ``<image>`` tags after the N-th are dropped. The text that refers to them stays, as context, but sees nothing and
      weighs nothing: it describes what is withheld.
    - A window may be without media, or begin within a text; its first token has nothing to be predicted from and
      weighs nothing. A document without text is its media's tags and end tokens.
    - A document whose text precedes no medium, like a captioned image, has no text that could refer to a next medium
      and always uses the previous one; its window starts at the beginning, where its media are.
    - A clip of more than T frames gives T consecutive ones from a random start (the records hold one per second, as
      the paper's clips do); of fewer, the last is repeated.
    - Text alone, or any document if N is 0, is ``<BOS>text<EOS>``: ``<EOC>`` ends what belongs to a medium, and a
      language model is pretrained without it.
    - A coin is tossed for each medium whether it is mirrored, and its colours are drawn; frames of a clip look alike.

    Args:
        document: any.
        draws: ``count_draws(config)`` numbers in [0, 1), which decide everything that is random.
        tokenizer: gives the ids. config: gives L, N, T, S and probabilities.
    """
    space, following, place = draws[:_TEXT_DRAWS]
    interleaved = False
    if config.media and document.media:
        chunks = split(document)
        interleaved = any(chunk.text.strip() for chunk in chunks[:-1])
        tokens = lay_out(chunks, tokenizer, leading_space=space < config.leading_space)
    else:
        text = document.text.strip()
        tokens = np.array([tokenizer.bos, *(tokenizer.encode(text) if text else ()), tokenizer.eos], np.int32)
    start = 0
    if interleaved or not document.media or not config.media:
        start = int(place * max(1, len(tokens) - config.length + 1))
    skipped = np.count_nonzero(tokens[:start] == tokenizer.image) if start else 0
    tokens = tokens[start : start + config.length]

    index = media_index(tokens, tokenizer.image, following=interleaved and following < config.p_next)
    tags = tokens == tokenizer.image
    weights = np.ones(len(tokens), np.float32)
    weights[tags] = 0.0
    weights[:1] = 0.0  # <BOS>, or else nothing comes before it that could predict it
    count = np.count_nonzero(tags)
    if count > config.media:
        withheld = index > config.media
        weights[withheld] = index[withheld] = 0
        stay = ~(withheld & tags)
        tokens, weights, index = tokens[stay], weights[stay], index[stay]
    media = document.media[skipped : skipped + min(config.media, count)]
    looks = (draws[_TEXT_DRAWS + medium.DRAWS * slot :][: medium.DRAWS] for slot in range(len(media)))
    return Drawn(
        tokens,
        weights,
        index,
        tuple((frames, choose_look(len(frames), look, config)) for frames, look in zip(media, looks, strict=True)),
        f"{document.key} ({document.source})",
    )


def write(
    drawn: Drawn,
    row: dict[str, np.ndarray],
    config: ExampleConfig,
    number: int = 0,
    at: int = 0,
    length: int | None = None,
    known: Callable[[bytes, int], np.ndarray | None] = lambda data, size: None,
) -> bool:
    """Writes an example into a row, as document ``number`` (from 0) of it, its first tokens from place ``at`` on.

    A medium that does not decode becomes a blank with ``media_mask`` False, its text weighs nothing, and it is counted
    in ``unreadable``; nothing is raised for it. Returns whether all media were readable.

    Args:
        drawn: what ``draw`` returned. row: the dict of this file's heading; its N slots number, number + 1, ... of
            ``config.media`` each are written whole. config: of one document.
        length: how many of the tokens are written; None for all.
        known: gives the pixels of a frame where they are known (``medium.cached``).
    """
    count = len(drawn.tokens) if length is None else length
    part, first = slice(at, at + count), number * config.media
    row["tokens"][part] = drawn.tokens[:count]
    row["weights"][part] = drawn.weights[:count]
    row["segments"][part] = number + 1
    index = drawn.media_index[:count]
    row["media_index"][part] = np.where(index > 0, index + first, 0) if first else index
    whole = True
    for slot in range(config.media):
        out = row["media"][first + slot]
        try:
            if slot < len(drawn.media):
                frames, look = drawn.media[slot]
                medium.load(frames, config, look, known=known, out=out)
                row["media_mask"][first + slot] = True
                continue
        except Exception as error:  # of several libraries; nothing may leave a stream's map
            logging.log_first_n(logging.WARNING, "Medium %d of %s left blank: %s", 10, slot, drawn.name, error)
            whole = False
            row["unreadable"][1] += 1
            row["weights"][part][index == slot + 1] = 0.0
        out[...] = image.blank(config.size, config.fill)
    return whole


def make_example(
    document: Document, rng: np.random.Generator, tokenizer: Tokenizer, config: ExampleConfig
) -> dict[str, np.ndarray]:
    """A document as the dict that this file's heading describes, alone in its row. See ``draw`` and ``write``."""
    row = {key: value[0] for key, value in new_batch(config, 1, tokenizer.pad).items()}
    write(draw(document, rng.random(count_draws(config)).tolist(), tokenizer, config), row, config)
    return row


def new_batch(config: ExampleConfig, rows: int, pad: int = 0) -> dict[str, np.ndarray]:
    """Rows [B, ...] without any token. ``media`` is not written yet and holds anything."""
    return {
        "tokens": np.full((rows, config.length), pad, np.int32),
        "weights": np.zeros((rows, config.length), np.float32),
        "segments": np.zeros((rows, config.length), np.int32),
        "media": np.empty((rows, config.media, config.frames, config.size, config.size, 3), np.uint8),
        "media_index": np.zeros((rows, config.length), np.int32),
        "media_mask": np.zeros((rows, config.media), bool),
        "unreadable": np.zeros((rows, 2), np.int32),
    }


def empty_batch(config: ExampleConfig, rows: int, pad: int = 0) -> dict[str, np.ndarray]:
    """Rows [B, ...] of padding alone and absent media: the shapes and types of a batch."""
    batch = new_batch(config, rows, pad)
    batch["media"][...] = image.blank(config.size, config.fill)
    return batch
