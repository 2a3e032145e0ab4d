"""Where the image of an ``<img>`` may be: its attributes -> absolute addresses, the best first."""

from __future__ import annotations

import re
from collections.abc import Mapping

import ada_url
from selectolax.lexbor import LexborNode

MAX_CANDIDATES = 32
"""Addresses of one image that are tried; a ``srcset`` holds a handful."""

Image = tuple[LexborNode | Mapping[str, str | None], ...]
"""An ``<img>``, and then the attributes of each ``<source>`` of its ``<picture>``."""

# Where lazy loaders keep the address while ``src`` shows a placeholder; then sets of sizes; then the plain one.
_LAZY = ("data-src", "data-lazy-src", "data-original", "data-lazy", "data-actualsrc", "data-original-src")
_SETS = ("data-srcset", "data-lazy-srcset", "srcset")

_ADDRESS = re.compile(r"[\s,]*(\S+)")
_DESCRIPTOR = re.compile(r"[^,]*")


def name(image: Image) -> str:
    """A short name of an image, as its page has it."""
    own = image[0].attributes
    return own.get("data-src") or own.get("src") or "<img>"


def absolute(image: Image, base: str) -> tuple[str, ...]:
    """The addresses under which to look for an image, the best first; perhaps none.

    ``data:`` images are placeholders or ornaments and not among them.
    """
    element, *sources = image
    own = element.attributes
    found = [own.get(attribute) or "" for attribute in _LAZY]
    found += _of_sets(own) + [own.get("src") or ""]
    for source in sources:
        found += _of_sets(source)
    stripped = (address.strip() for address in found)
    written = dict.fromkeys(a for a in stripped if a and not a[:5].lower() == "data:")
    resolved = (join(base, address) for address in list(written)[:MAX_CANDIDATES])
    return tuple(dict.fromkeys(filter(None, resolved)))


def _of_sets(attributes: Mapping[str, str | None]) -> list[str]:
    return [address for name in _SETS for address in srcset(attributes.get(name) or "")]


def srcset(value: str) -> list[str]:
    """The addresses of a ``srcset`` attribute, the largest image first (HTML standard, 4.8.4.2.1)."""
    found, start = [], 0
    while len(found) < MAX_CANDIDATES and (match := _ADDRESS.match(value, start)):
        address, start, descriptor = match[1], match.end(), ""
        if address.endswith(","):  # no descriptor follows
            address = address.rstrip(",")
        else:
            match = _DESCRIPTOR.match(value, start)
            descriptor, start = match[0].strip(), match.end()
        try:
            size = float(descriptor.rstrip("wx") or 1)
        except ValueError:
            size = 1.0
        if address:
            found.append((-size, address))
    return [address for _, address in sorted(found, key=lambda pair: pair[0])]


def join(base: str, address: str) -> str:
    """An address as a browser requests it (WHATWG URL standard), "" if it is none."""
    try:
        found = ada_url.join_url(base, address)
    except ValueError:
        try:
            found = ada_url.normalize_url(address)  # the page's own address may be none
        except ValueError:  # e.g. a bracket where a host should be
            return "" if "://" in base else address
    return found.partition("#")[0]


def canonical(address: str) -> str:
    """The one form of an address's several spellings; what is no absolute address stays as it is."""
    try:
        return ada_url.normalize_url(address).partition("#")[0]
    except ValueError:
        return address
