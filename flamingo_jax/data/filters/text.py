"""Which pages are kept for their text: see ``TextRules``."""

from __future__ import annotations

from flamingo_jax.config import TextRules


def judge(text: str, rules: TextRules) -> str | None:
    """Why a page is left out, or None. ``text``: paragraphs separated by line feeds."""
    words = text.split()
    if len(words) < rules.min_words:
        return "text too short"
    return None
