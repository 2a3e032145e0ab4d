"""Web pages -> interleaved documents: text and images in the order of the page's tree (the paper's M3W, A.3.1).

Navigation, headers, footers, asides, advertisements, scripts and hidden parts are dropped: see ``elements``.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from selectolax.lexbor import LexborDocumentOptions, LexborHTMLParser, LexborNode

from flamingo_jax.data.corpus import Corpus, Task
from flamingo_jax.data.document import Dropped, Raw
from flamingo_jax.data.file import open_file
from flamingo_jax.data.formats import address
from flamingo_jax.data.formats.charset import to_utf8
from flamingo_jax.data.formats.elements import (
    BASE,
    BLOCK,
    DROPPED,
    DROPPED_BLOCK,
    HAS_DROPPED_NAME,
    HEAD,
    IMAGE,
    INLINE,
    KINDS,
    PARTING,
    PICTURE,
    PREFORMATTED,
    SOURCE,
    WHOLE,
    hides,
    is_dropped_role,
)

MAX_BYTES = 10_000_000
"""Longer pages are dropped: they are data dumps."""

# Some pages (200,000 elements nested into one another, or as many attributes of one) take the HTML standard's algorithm
# quadratic time. A page within these sizes takes some seconds at the worst; of a larger one, parts of growing size are
# parsed first, and it is dropped when one takes a tenth of a second and hundreds of times as long as honest pages do.
_SAFE_BYTES, _SAFE_TAGS, _FIRST_BYTES = 256_000, 3_000, 32_000
_SECONDS_PER_BYTE = 2e-6

_NODES_PER_TAG = 50  # a <b> that is never closed is repeated in every paragraph, and so are a thousand of them

# What stands in the tree's text between paragraphs and for an image. Both are taken out of the source; as a character
# reference, a page can still have the second one (HTML standard, 13.2.5.80).
_PARAGRAPH, _MARK = "\0", "\1"
_REFERENCE = re.compile(rb"&#[xX]?[0-9a-fA-F]+;?")

_SPACES = [c for c in map(chr, range(0x3001)) if c.isspace() and c != " "]


@dataclasses.dataclass(frozen=True)
class Page:
    """A page's content.

    Attributes:
        text: paragraphs separated by line feeds, white space within them collapsed to single spaces.
        positions: per image the offset in ``text`` that it stands before, ascending.
        images: the images' elements: see ``address.absolute``.
        base: the address that those of the images are relative to.
    """

    text: str
    positions: tuple[int, ...]
    images: tuple[address.Image, ...]
    base: str


class _Picture(NamedTuple):
    """A ``Medium`` that looks at its element only when it is asked."""

    image: address.Image
    base: str
    find: Callable[[str], bytes | Dropped]

    @property
    def name(self) -> str:
        return address.name(self.image)

    def read(self) -> bytes | Dropped:
        """The first of the image's addresses that is there; else what happened to the best of them."""
        reasons = []
        for place in address.absolute(self.image, self.base):
            found = self.find(place)
            if not isinstance(found, Dropped):
                return found
            reasons.append(found)
        return reasons[0] if reasons else Dropped("image without address", "an <img> without address")


def read(task: Task, corpus: Corpus) -> Iterator[Raw | Dropped]:
    """The page of an HTML file, which its folder stands for the root of the site of."""
    with open_file(task.path) as file:
        data = file.read(MAX_BYTES + 1)
    name = corpus.name(task.path)
    yield page(data, "file:///" + quote(name), corpus.find, name, name)


def page(
    data: bytes,
    url: str,
    find: Callable[[str], bytes | Dropped],
    key: str,
    source: str = "",
    charset: str | None = None,
) -> Raw | Dropped:
    """A page as a document, its images not read yet.

    Args:
        data: the HTML file.
        url: the page's own address, which relative ones are resolved against.
        find: an absolute address -> the image's file, or why there is none.
        key, source: see ``Raw``.
        charset: the encoding that the server named.
    """
    if len(data) > MAX_BYTES:
        return Dropped("page too long", f"{key}: {len(data)} bytes", bad=True)
    try:
        found = extract(data, url, charset)
    except ValueError as error:
        return Dropped("page too complex", f"{key}: {error}", bad=True)
    media = tuple([_Picture(image, found.base, find) for image in found.images])
    return Raw(key, found.text, found.positions, media, source, clip=False)


def extract(data: bytes, url: str, charset: str | None = None) -> Page:
    """Text and images of an HTML file in tree order.

    Raises ValueError for a page that takes the parser quadratic time or memory; any other bytes are a page.
    """
    source = to_utf8(data, charset).replace(b"\0", b"").replace(b"\1", b"")
    tags = int(np.count_nonzero(np.frombuffer(source, np.uint8) == ord("<")))
    marked, images, base = _take_apart(_parse(source, tags), tags)
    if marked.count(_MARK) != len(images):
        marked, images, base = _take_apart(_parse(_REFERENCE.sub(b" ", source), tags), tags)
    text, positions = _assemble(marked)
    return Page(text, positions, images, address.join(url, base or "") or url)


def _take_apart(tree: LexborHTMLParser, tags: int) -> tuple[str, tuple[address.Image, ...], str | None]:
    """(text with marks, images, the page's own base address).

    Python looks at every element once: unwanted ones are emptied, images become marks, and what stays in the line is
    dissolved, so that the text nodes that are left are the paragraphs. The parser's own code does the rest. Attributes
    of images are not read yet: it would take a quarter of the time, and most pages are dropped for their text.
    """
    if next(itertools.islice(tree.root.traverse(), 1000 + _NODES_PER_TAG * tags, None), None) is not None:
        raise ValueError(f"its {tags} tags make more than {_NODES_PER_TAG} times as many elements")
    inline, preformatted, shown, images, sources, base = [], [], [], [], [], None
    unwanted, kind_of = _find_unwanted(tree), KINDS.get
    for node in tree.root.traverse():
        kind = kind_of(node.tag_id, INLINE)
        if kind < DROPPED and node.mem_id in unwanted:
            kind = DROPPED_BLOCK if kind in PARTING else DROPPED
        if kind == BLOCK:
            continue
        if kind == INLINE:
            inline.append(node)
        elif kind == IMAGE:
            shown.append(node)
            in_picture = sources and kind_of(node.parent.tag_id) == PICTURE
            images.append((node, *sources) if in_picture else (node,))
        elif kind >= DROPPED:
            if kind == HEAD and (found := node.css_first("base[href]")) is not None:
                base = found.attributes["href"]
            for child in node.iter(include_text=True):
                child.decompose(recursive=False)
            if kind not in PARTING:
                inline.append(node)
        elif kind == PREFORMATTED:
            preformatted.append(node)
        elif kind not in PARTING:
            inline.append(node)
            if kind == PICTURE:
                sources = []
            elif kind == SOURCE and len(sources) < address.MAX_CANDIDATES:
                sources.append(node.attributes)
            elif kind == BASE and base is None:
                base = node.attributes.get("href")
    for node in shown:
        node.replace_with(_MARK)
    for node in inline:  # outer ones first: each child then moves once
        node.unwrap(delete_empty=True)
    tree.root.merge_text_nodes()
    _part_lines(preformatted)
    return tree.root.text(separator=_PARAGRAPH, strip=True), tuple(images), base


def _find_unwanted(tree: LexborHTMLParser) -> set[int]:
    """The elements whose attributes say that they are hidden or of no interest."""
    unwanted = set()
    for node in tree.css("[hidden],[style],[role]"):
        attributes = node.attributes
        if "hidden" in attributes or hides(attributes.get("style")) or is_dropped_role(attributes.get("role")):
            unwanted.add(node.mem_id)
    named = [node for node in tree.css("[class]") if HAS_DROPPED_NAME[node.attrs["class"]]]
    named += [node for node in tree.css("[id]") if HAS_DROPPED_NAME[node.id]]
    return unwanted.union([node.mem_id for node in named if KINDS.get(node.tag_id) != WHOLE])


def _parse(html: bytes, tags: int) -> LexborHTMLParser:
    """The page's tree. Raises ValueError for a page that takes far longer than its size explains.

    Processor time decides, so that of such pages some may be dropped on one machine and not on another.
    """
    size = _SAFE_BYTES if tags <= _SAFE_TAGS else _FIRST_BYTES
    while size < len(html):
        start = time.thread_time()
        LexborHTMLParser(html[:size], options=LexborDocumentOptions.WO_EVENTS)
        if (seconds := time.thread_time() - start) > max(0.1, size * _SECONDS_PER_BYTE):
            raise ValueError(f"its first {size} bytes take {seconds:.1f} s to parse")
        size *= 2
    return LexborHTMLParser(html, options=LexborDocumentOptions.WO_EVENTS)


def _part_lines(preformatted: list[LexborNode]) -> None:
    """Makes each line of preformatted elements, which are in tree order, a paragraph."""
    inner = set()
    for outer in preformatted:
        if outer.mem_id in inner:
            continue
        for node in list(outer.traverse(include_text=True)):
            if node.is_text_node:
                node.replace_with(_PARAGRAPH.join(map(str.strip, node.text_content.split("\n"))))
            else:
                inner.add(node.mem_id)


def _assemble(marked: str) -> tuple[str, tuple[int, ...]]:
    """Collapses white space: (text without marks, offsets of the images).

    Of white space before and after an image, that before it is kept; but no paragraph begins or ends with a space.
    """
    for space in _SPACES:
        marked = marked.replace(space, " ")
    marked = _collapse(marked)
    first, *rest = "\n".join(filter(None, marked.split(_PARAGRAPH))).split(_MARK)
    parts, positions, length, last = [first], [], len(first), first[-1:] or "\n"
    for part in rest:
        positions.append(length)
        if last in " \n" and part[:1] in (" ", last):
            part = part[1:]
        elif last == " " and part[:1] == "\n":  # the paragraph ends with its images
            parts[-1], length = parts[-1][:-1], length - 1
            ending = len(positions)
            while ending and positions[ending - 1] > length:
                ending -= 1
                positions[ending] = length
        if part:
            parts.append(part)
            length += len(part)
            last = part[-1]
    text = "".join(parts).rstrip()
    if len(text) < length:
        positions = [min(position, len(text)) for position in positions]
    return text, tuple(positions)


def _collapse(text: str) -> str:
    """Makes one space of several."""
    data = np.frombuffer(text.encode(), np.uint8)
    space = data == ord(" ")
    again = space[1:] & space[:-1]
    return data[np.append(True, ~again)].tobytes().decode() if again.any() else text
