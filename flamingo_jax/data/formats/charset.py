"""The characters of a web page: which encoding its bytes are in (HTML standard 13.2.3, Encoding standard 4.2)."""

from __future__ import annotations

import codecs
import re

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_DECLARED = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w-]{1,40})", re.IGNORECASE)

# Python's name of an encoding -> the encoding that browsers take for it. Others than these are not of the web: some of
# Python's are no characters at all, and some need quadratic time.
_ENCODINGS = {
    name: name
    for name in """
        big5hkscs cp866 cp874 cp932 cp949 cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 euc_jp gb18030
        iso2022_jp iso8859-2 iso8859-3 iso8859-4 iso8859-5 iso8859-6 iso8859-7 iso8859-8 iso8859-10 iso8859-13
        iso8859-14 iso8859-15 iso8859-16 koi8-r koi8-u mac-cyrillic mac-roman utf-8 utf-16-be utf-16-le
    """.split()
} | {
    "ascii": "cp1252",
    "big5": "big5hkscs",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "shift_jis": "cp932",
    "tis-620": "cp874",
    "utf-16": "utf-16-le",
}
_LABELS = {"ks_c_5601-1987": "cp949", "x-sjis": "cp932", "x-gbk": "gb18030"}  # those that Python does not know


def to_utf8(data: bytes, charset: str | None = None) -> bytes:
    """A page in UTF-8, by its byte order mark, what the server said, what the page declares, or else as it is.

    Args:
        data: the HTML file.
        charset: the ``charset`` of the response's Content-Type, if it had one.

    Returns:
        UTF-8 without a mark; what is faulty in a page that is UTF-8 already stays so.
    """
    marked = next((pair for pair in _MARKS if data.startswith(pair[0])), None)
    if marked is not None:
        mark, name = marked
        data = data[len(mark) :]
    else:
        name = _encoding(charset or "")
        if name is None and (declared := _DECLARED.search(data[:2048])):
            name = _encoding(declared[1].decode("ascii", "replace"))
            if name in ("utf-16-le", "utf-16-be"):  # a declaration that could be read as ASCII cannot be UTF-16
                name = "utf-8"
    return data if name in (None, "utf-8") else data.decode(name, "replace").encode("utf-8", "replace")


def _encoding(label: str) -> str | None:
    label = label.strip(" \t\r\n\"'").lower()
    try:
        return _LABELS.get(label) or _ENCODINGS.get(codecs.lookup(label).name)
    except (LookupError, ValueError):  # ValueError: a label with a NUL
        return None
