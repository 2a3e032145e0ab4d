"""The HTML page that documents and examples are shown on."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

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
.weightless { color: #999 }
"""


def page(title: str, legend: str, articles: str) -> str:
    """A self-contained page. ``articles`` is HTML, the others are text."""
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style>\n<h1>{escape(title)}</h1>\n<p>{escape(legend)}</p>\n{articles}\n</html>\n"
    )


def figure(index: int, frames: Sequence[bytes]) -> str:
    """A medium, of JPEGs or PNGs, which the browser tells apart."""
    pictures = "".join(f'<img src="data:image/jpeg;base64,{base64.b64encode(f).decode()}" alt="">' for f in frames)
    count = "" if len(frames) == 1 else f", {len(frames)} frames"
    kind = "clip" if count else "one"
    return f'<figure class="{kind}">{pictures}<figcaption>medium {index}{count}</figcaption></figure>'
