"""Rows of a stream as one HTML page: what the model sees, after windowing, augmentation and packing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from html import escape

import numpy as np

from flamingo_jax.data import image
from flamingo_jax.data.show.page import figure, page
from flamingo_jax.data.tokenizer import Tokenizer


def render(title: str, batch: Mapping[str, np.ndarray], tokenizer: Tokenizer) -> str:
    """A self-contained page of a batch's rows: media as they are fed, and all tokens but padding."""
    rows = range(len(batch["tokens"]))
    articles = "\n".join(_row(n, {key: value[n] for key, value in batch.items()}, tokenizer) for n in rows)
    return page(
        title,
        "A section is a stretch of tokens that see the same medium, phi, which is shown beside the first of them. Grey "
        "text weighs nothing in the loss. Control tokens are blue.",
        articles,
    )


def _row(number: int, row: Mapping[str, np.ndarray], tokenizer: Tokenizer) -> str:
    length = int((row["segments"] > 0).sum())
    documents, media = int(row["segments"].max(initial=0)), int(row["media_mask"].sum())
    sections, shown = [], set()
    kinds = list(zip(row["segments"].tolist(), row["media_index"].tolist(), strict=True))
    for (segment, index), places in itertools.groupby(range(length), key=kinds.__getitem__):
        picture = ""
        if index and index not in shown:
            picture = figure(index, [image.encode(frame) for frame in row["media"][index - 1]])
            picture += "" if row["media_mask"][index - 1] else "<p>unreadable</p>"
            shown.add(index)
        label = f"document {segment}, phi = {index}" if documents > 1 else f"phi = {index}"
        sections.append(
            f'<section class="{"medium" if index else "text"}">{picture}<div><span class="phi">{label}</span>'
            f"<p>{_text(list(places), row, tokenizer)}</p></div></section>"
        )
    bad = " and ".join(
        f"{count} {what}" for count, what in zip(row["unreadable"], ("documents", "media"), strict=True) if count
    )
    return (
        f"<article><h2>row {number}</h2><div class='source'>{length} of {len(row['tokens'])} tokens, "
        f"{int((row['weights'] > 0).sum())} of them in the loss; {media} of {len(row['media_mask'])} media"
        f"{f'; {bad} unreadable' if bad else ''}</div>{''.join(sections)}</article>"
    )


def _text(places: list[int], row: Mapping[str, np.ndarray], tokenizer: Tokenizer) -> str:
    """Control tokens one by one, others as runs, for a character may be several tokens."""
    names = {getattr(tokenizer, role): name for role, name in tokenizer.names.items()}

    def kind(place: int) -> tuple[str, bool]:
        return names.get(int(row["tokens"][place]), ""), bool(row["weights"][place])

    out = []
    for (name, counts), run in itertools.groupby(places, key=kind):
        ids = [int(row["tokens"][place]) for place in run]
        text = escape(name * len(ids) or tokenizer.decode(ids))
        classes = " ".join(c for c, on in (("token", name), ("weightless", not counts and not name)) if on)
        out.append(f'<span class="{classes}">{text}</span>' if classes else text)
    return "".join(out)
