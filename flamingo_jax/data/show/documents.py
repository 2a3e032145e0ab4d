"""Documents of a dataset as one HTML page, for a person to look at."""

from __future__ import annotations

import os
from html import escape

import numpy as np

from flamingo_jax.data import record
from flamingo_jax.data.document import Document
from flamingo_jax.data.layout import split
from flamingo_jax.data.show.page import figure, page


def render(directory: str | os.PathLike, count: int = 20, seed: int = 0) -> str:
    """A self-contained page of ``count`` documents, drawn at random: every chunk with its medium and its index.

    Raises ValueError when there is no dataset at ``directory``.
    """
    source = record.Source(directory)
    drawn = np.random.default_rng(seed).choice(len(source), min(count, len(source)), replace=False)
    articles = "\n".join(_article(int(i), source[int(i)]) for i in sorted(drawn))
    title = f"{directory}: {len(drawn)} of {len(source)} documents"
    return page(
        title,
        "A section is a chunk: text between media. phi is the medium that its tokens see; in brackets, the next one.",
        articles,
    )


def _article(number: int, document: Document) -> str:
    sections, index = [], 0
    for chunk in split(document):
        if not (chunk.medium or chunk.text.strip()):
            continue
        index += chunk.medium
        following = index + 1 if index < len(document.media) else 0
        picture = figure(index, document.media[index - 1]) if chunk.medium else ""
        image = '<span class="token">&lt;image&gt;</span>' if chunk.medium else ""
        sections.append(
            f'<section class="{"medium" if chunk.medium else "text"}">{picture}<div><span class="phi">phi = {index} '
            f"({following})</span><p>{image}{escape(chunk.text.strip())}"
            '<span class="token">&lt;EOC&gt;</span></p></div></section>'
        )
    return (
        f"<article><h2>{number}: {escape(document.key)}</h2><div class='source'>{escape(document.source)}; "
        f"{len(document.text):,} characters, {len(document.media)} media</div>{''.join(sections)}</article>"
    )
