"""Sentences of a text, in any language: rules of punctuation alone, so that the same text is always cut alike."""

from __future__ import annotations

import re

# A stretch without white space, cut after the stops of scripts that have no spaces; or a line feed.
_TOKEN = re.compile(r"\n|[^\s。！？｡]+(?:[。！？｡]+[」』”’）》】]*)?|[。！？｡]+[」』”’）》】]*")
_STOPS, _CLOSING, _OPENING = ".!?…؟۔।॥።៕။։。！？｡", "\"'”’»›)]」』）》】", "\"'“‘„«‹([¿¡"
_LETTER = re.compile(r"[^\W\d_]")
_NEXT = re.compile(r"[^\S\n]*[\"'“‘„«‹(\[¿¡]*(.)?")

# Before a full stop that ends no sentence: titles and the like, of the languages that most pages are written in.
_SHORT = frozenset("mr mrs ms dr prof st sr jr sra dra mme fr hr no nr fig vol ed vs cf ca bzw inc ltd co".split())


def sentences(text: str) -> list[tuple[int, int]]:
    """Where sentences begin and end: [start, end) of each, in order, without white space at either end.

    A sentence ends with its line, and after ``.!?…`` or another script's full stop (with the quotes and brackets that
    close there) before white space, or before anything where a script writes no spaces. It does not end before a small
    letter; nor after a full stop that follows a single letter ("J. Smith"), letters with full stops ("e.g."), a number
    of one or two digits ("1. First", "am 3. Mai"), or a title ("Dr. No"). What has no letter is part of the sentence
    after it in its line or, as the last one of a line, of that before it; a line without any letter is no sentence.
    """
    found: list[tuple[int, int]] = []
    start, end, lettered, first = None, 0, False, 0  # of the open sentence; and the number of the line's first one

    def close() -> None:
        nonlocal start, lettered
        if lettered:
            found.append((start, end))
        elif start is not None and len(found) > first:
            found[-1] = (found[-1][0], end)
        start, lettered = None, False

    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "\n":
            close()
            first = len(found)
            continue
        start = match.start() if start is None else start
        end, lettered = match.end(), lettered or bool(_LETTER.search(token))
        if lettered and _ends(token.rstrip(_CLOSING), text, end):
            close()
    close()
    return found


def _ends(token: str, text: str, end: int) -> bool:
    """Whether a sentence ends with ``token``, before ``text[end:]``."""
    word = token.rstrip(_STOPS)
    mark = token[len(word) :]
    if not mark:
        return False
    following = _NEXT.match(text, end)[1]
    if following is not None and following.islower():
        return False
    word = word.lstrip(_OPENING).lower()
    if mark != "." or not word:
        return True
    single = len(word) == 1 and word.isalpha() or word.isdigit() and len(word) <= 2
    return not (single or word in _SHORT or "." in word and _LETTER.search(word) and len(word) < 8)
