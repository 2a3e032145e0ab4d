"""Documents of a dataset as one HTML page, for a person to look at."""

from __future__ import annotations

import base64
import os
from html import escape

import numpy as np

from flamingo_jax.data import record
from flamingo_jax.data.document import Document
from flamingo_jax.data.layout import split

_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; background: #fff }
article { border-top: 2px solid #444; margin-top: 2.5em }
h2 { font-size: 1em; overflow-wrap: anywhere; margin-bottom: 0 }
.source { color: #777; font-size: 0.85em; margin: 0 0 1em }
section { display: flex; gap: 1em; border-left: 4px solid #ccc; padding: 0.2em 0 0.6em 0.8em; margin: 0.4em 0 }
section.medium { border-color: #c60 }
figure { margin: 0; flex: none; max-width: 330px }
img { max-width: 160px; max-height: 160px; display: inline-block }
figure.one img { max-width: 320px; max-height: 320px }
figcaption, .phi { color: #c60; font-size: 0.85em }
p { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 }
.token { color: #07a; font-family: monospace }
"""


def render(directory: str | os.PathLike, count: int = 20, seed: int = 0) -> str:
    """A self-contained page of ``count`` documents, drawn at random: every chunk with its medium and its index.

    Raises ValueError when there is no dataset at ``directory``.
    """
    source = record.Source(directory)
    drawn = np.random.default_rng(seed).choice(len(source), min(count, len(source)), replace=False)
    articles = "\n".join(_article(int(i), source[int(i)]) for i in sorted(drawn))
    title = escape(f"{directory}: {len(drawn)} of {len(source)} documents")
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>\n'
        f"<h1>{title}</h1>\n<p>A section is a chunk: text between media. phi is the medium that its tokens see; in "
        f"brackets, the next one.</p>\n{articles}\n</html>\n"
    )


def _article(number: int, document: Document) -> str:
    sections, index = [], 0
    for chunk in split(document):
        if not (chunk.medium or chunk.text.strip()):
            continue
        index += chunk.medium
        following = index + 1 if index < len(document.media) else 0
        figure = _figure(index, document.media[index - 1]) if chunk.medium else ""
        image = '<span class="token">&lt;image&gt;</span>' if chunk.medium else ""
        sections.append(
            f'<section class="{"medium" if chunk.medium else "text"}">{figure}<div><span class="phi">phi = {index} '
            f"({following})</span><p>{image}{escape(chunk.text.strip())}"
            '<span class="token">&lt;EOC&gt;</span></p></div></section>'
        )
    return (
        f"<article><h2>{number}: {escape(document.key)}</h2><div class='source'>{escape(document.source)}; "
        f"{len(document.text):,} characters, {len(document.media)} media</div>{''.join(sections)}</article>"
    )


def _figure(index: int, frames: tuple[bytes, ...]) -> str:
    pictures = "".join(f'<img src="data:image/jpeg;base64,{base64.b64encode(f).decode()}" alt="">' for f in frames)
    count = "" if len(frames) == 1 else f", {len(frames)} frames"
    kind = "clip" if count else "one"
    return f'<figure class="{kind}">{pictures}<figcaption>medium {index}{count}</figcaption></figure>'
