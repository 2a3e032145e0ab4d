"""What --set=KEY=VALUE of a command line says, as the dictionary that ``build`` takes."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any


def parse_options(assignments: Sequence[str]) -> dict[str, Any]:
    """["text.min_words=20"] -> {"text": {"min_words": 20}}. Raises ValueError for what is no assignment."""
    options: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set={assignment} sets nothing; it looks like --set=text.min_words=20.")
        if path in ("format", "source", "images"):
            raise ValueError(f"--set={assignment}: say --{assignment}.")
        *groups, key = path.split(".")
        place = options
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                raise ValueError(f"--set={assignment}: {group} has been set to {place!r}, which has no {key}.")
        try:
            place[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):  # a word is a string
            place[key] = value
    return options
