"""Metrics: when is an answer right, and how sure is an accuracy."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"[^\W\d_]+")


def exact(prediction: str, answer: str) -> bool:
    """Equal up to white space at the ends. The prediction is what was generated before the first ``<EOC>``."""
    return prediction.strip() == answer.strip()


def named(text: str, values: Iterable[str]) -> set[str]:
    """Those of ``values`` that ``text`` names as whole words, in the singular or plural (``stars``, ``crosses``)."""
    words = set(_WORD.findall(text.lower()))
    return {value for value in values if words & {value, f"{value}s", f"{value}es"}}


def names_only(text: str, value: str, values: Iterable[str]) -> bool:
    """Whether ``value`` is named and none of the other ``values``: hedging by naming several is wrong."""
    return named(text, {*values, value}) == {value}


def best(scores: Sequence[float], candidates: Sequence[str]) -> str:
    """The candidate of the highest score; the first of equals."""
    return candidates[max(range(len(candidates)), key=lambda i: (scores[i], -i))]


def accuracy(hits: Sequence[bool]) -> dict[str, float | int]:
    """n, accuracy and its binomial standard error sqrt(p (1 - p) / n). Raises ValueError on no answers at all."""
    if not hits:
        raise ValueError("An accuracy of no answers is undefined; give the task at least one query.")
    mean = sum(map(bool, hits)) / len(hits)
    return {"n": len(hits), "accuracy": mean, "standard_error": math.sqrt(mean * (1 - mean) / len(hits))}
