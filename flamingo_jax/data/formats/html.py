"""Web pages -> interleaved documents: text and images in the order of the page's tree (the paper's M3W, A.3.1).

Navigation, headers, footers, asides, advertisements, scripts and hidden parts are dropped; what is left is walked depth
first. The walk is iterative, so that nesting costs memory alone.
"""

from __future__ import annotations

import codecs
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote, urljoin

from selectolax.lexbor import LexborHTMLParser, LexborNode

from flamingo_jax.data.corpus import Corpus, Task
from flamingo_jax.data.document import Dropped, Medium, Raw
from flamingo_jax.data.file import open_file

MAX_BYTES = 50_000_000
"""Longer pages are dropped: they are data dumps."""

MAX_DEPTH = 2_000
"""Deeper nested pages are dropped: the HTML standard's parser needs quadratic time for them (200,000: minutes)."""

MAX_CANDIDATES = 32
"""Addresses of one image that are tried; a ``srcset`` holds a handful."""

# Neither prose nor illustration of it. <noscript> repeats the images that a lazy loader shows.
_DROPPED = frozenset(
    """
    aside audio button canvas datalist dialog embed footer form head header iframe input math menu nav noscript object
    option progress script select style svg template textarea video
""".split()
)

# Elements whose begin and end part paragraphs; all others flow in the line.
_BLOCKS = frozenset(
    """
    address article blockquote body br caption center dd details div dl dt fieldset figcaption figure h1 h2 h3 h4 h5 h6
    hr html legend li main ol p pre section summary table tbody td tfoot th thead tr ul
""".split()
)

# What the elements above are called where a page is made of <div>s: OBELICS' list, advertisements and side bars.
_DROPPED_NAMES = frozenset(
    """
    breadcrumb breadcrumbs cookie-banner footer header menu nav navbar navigation newsletter page-footer page-header
    related-posts share sharing sidebar site-footer site-header site-info social
""".split()
)
_ADVERTISEMENT = re.compile(r"(ad|ads|adsense|advert|adverts|advertisement|advertising|sponsored)([-_].*)?")
_DROPPED_ROLES = frozenset(("banner", "complementary", "contentinfo", "navigation", "search"))
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden")
_NEVER_DROPPED = frozenset(("html", "body", "main", "article"))  # themes give them classes such as "nav sidebar"

# Where lazy loaders keep the address while ``src`` shows a placeholder; then sets of sizes; then the plain one.
_LAZY = ("data-src", "data-lazy-src", "data-original", "data-lazy", "data-actualsrc", "data-original-src")
_SETS = ("data-srcset", "data-lazy-srcset", "srcset")

_ADDRESS = re.compile(r"[\s,]*(\S+)")
_DESCRIPTOR = re.compile(r"[^,]*")
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w-]{1,40})", re.IGNORECASE)
_TAG = re.compile(rb"<(/?)([a-zA-Z][a-zA-Z0-9-]{0,40})[^<>]*?(/?)>")
_UNCOUNTED = frozenset(
    b"""
    area base br col colgroup dd dt embed hr img input li link meta option p param source tbody td tfoot th thead tr
    track wbr
""".split()
)  # they hold nothing, or end where the next of them begins
_DRAWN = frozenset(b"circle ellipse image line path polygon polyline rect stop use".split())  # end by "/>" within <svg>
_END, _END_PRE = object(), object()


@dataclasses.dataclass(frozen=True)
class Page:
    """A page's content.

    Attributes:
        text: paragraphs separated by line feeds, white space within them collapsed.
        positions: per image the offset in ``text`` that it stands before, ascending.
        addresses: per image the absolute addresses under which to look for it, the best first; perhaps none.
    """

    text: str
    positions: tuple[int, ...]
    addresses: tuple[tuple[str, ...], ...]


def read(task: Task, corpus: Corpus) -> Iterator[Raw | Dropped]:
    """The page of an HTML file, which its folder stands for the root of the site of."""
    with open_file(task.path) as file:
        data = file.read(MAX_BYTES + 1)
    name = corpus.name(task.path)
    yield page(data, "file:///" + quote(name), corpus.find, name, name)


def page(data: bytes, url: str, find: Callable[[str], bytes | Dropped], key: str, source: str = "") -> Raw | Dropped:
    """A page as a document, its images not read yet.

    Args:
        data: the HTML file.
        url: the page's own address, which relative ones are resolved against.
        find: an absolute address -> the image's file, or why there is none.
        key, source: see ``Raw``.
    """
    if len(data) > MAX_BYTES:
        return Dropped("page too long", f"{key}: {len(data)} bytes", bad=True)
    try:
        found = extract(data, url)
    except ValueError as error:
        return Dropped("page nested too deeply", f"{key}: {error}", bad=True)
    media = tuple(Medium((*a, "<img>")[0], functools.partial(first, find, a)) for a in found.addresses)
    return Raw(key, found.text, found.positions, media, source, clip=False)


def extract(data: bytes, url: str) -> Page:
    """Text and image addresses of an HTML file in tree order.

    Raises ValueError if elements are nested more than ``MAX_DEPTH`` deep; any other bytes are a page.
    """
    _check_depth(data)
    tree = LexborHTMLParser(_decode(data))
    base = tree.css_first("base[href]")
    base = url if base is None else _join(url, base.attributes["href"] or "") or url
    text, positions, addresses, preformatted = _Text(), [], [], 0
    stack: list = [tree.root]
    while stack:
        node = stack.pop()
        if node is _END or node is _END_PRE:
            text.end_paragraph()
            preformatted -= node is _END_PRE
            continue
        if (sibling := node.next) is not None:
            stack.append(sibling)
        if node.is_text_node:
            text.add(node.text_content, preformatted > 0)
            continue
        tag = node.tag
        if not node.is_element_node or tag in _DROPPED:
            continue
        attributes = node.attributes
        if attributes and _is_dropped(tag, attributes):
            continue
        if tag == "img":
            positions.append(text.place())
            resolved = (_join(base, address) for address in _candidates(node, attributes))
            addresses.append(tuple(address for address in resolved if address))
            continue
        if tag in _BLOCKS:
            text.end_paragraph()
            stack.append(_END_PRE if tag == "pre" else _END)
            preformatted += tag == "pre"
        if (child := node.child) is not None:
            stack.append(child)
    result = text.result()
    return Page(result, tuple(min(position, len(result)) for position in positions), tuple(addresses))


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


def _check_depth(data: bytes) -> None:
    """Counts what opens and closes; too high where end tags are left out, which no page does thousands of times."""
    if data.count(b"<") <= MAX_DEPTH:
        return
    depth = 0
    for match in _TAG.finditer(data):
        closing, name, ended = match.groups()
        name = name.lower()
        if name not in _UNCOUNTED and not (ended and name in _DRAWN):
            depth = max(0, depth - 1) if closing else depth + 1
            if depth > MAX_DEPTH:
                raise ValueError(f"elements are nested more than {MAX_DEPTH} deep")


class _Text:
    """Builds the text: collapses white space as a browser does, and parts paragraphs by one line feed."""

    def __init__(self):
        self._parts: list[str] = []
        self._length = 0
        self._gap = ""  # white space that the next word or image will need before it: "", " " or "\n"
        self._last = "\n"

    def add(self, raw: str, preformatted: bool = False) -> None:
        if preformatted and "\n" in raw:
            for line in raw.split("\n"):
                self.add(line)
                self.end_paragraph()
            return
        words = raw.split()
        if not self._gap and raw[:1].isspace():
            self._gap = " "
        if not words:
            return
        self.place()
        self._append(" ".join(words))
        self._gap = " " if raw[-1].isspace() else ""

    def end_paragraph(self) -> None:
        self._gap = "\n"

    def place(self) -> int:
        """The offset at which whatever comes next will stand."""
        if self._gap and self._last != self._gap and self._last != "\n":
            self._append(self._gap)
        self._gap = ""
        return self._length

    def result(self) -> str:
        return "".join(self._parts).rstrip()

    def _append(self, piece: str) -> None:
        self._parts.append(piece)
        self._length += len(piece)
        self._last = piece[-1]


def _is_dropped(tag: str, attributes: dict[str, str | None]) -> bool:
    if "hidden" in attributes or (attributes.get("role") or "").lower() in _DROPPED_ROLES:
        return True
    if (style := attributes.get("style")) and _HIDDEN.search(style.lower()):
        return True
    if tag in _NEVER_DROPPED:
        return False
    return any(names and _has_dropped_name(names) for names in (attributes.get("class"), attributes.get("id")))


@functools.lru_cache(maxsize=4096)  # a site repeats its classes on every page
def _has_dropped_name(names: str) -> bool:
    return any(name in _DROPPED_NAMES or _ADVERTISEMENT.fullmatch(name) for name in names.lower().split())


def _candidates(node: LexborNode, attributes: dict[str, str | None]) -> list[str]:
    """Addresses as written, the best first. ``data:`` images are placeholders or ornaments and not among them."""
    found = [attributes[name] for name in _LAZY if name in attributes]
    found += [address for name in _SETS if name in attributes for address in srcset(attributes[name] or "")]
    found.append(attributes.get("src"))
    if node.parent is not None and node.parent.tag == "picture":
        for source in node.parent.css("source"):
            values = source.attributes
            found += [address for name in _SETS if name in values for address in srcset(values[name] or "")]
    stripped = (address.strip() for address in found if address)
    return list(dict.fromkeys(a for a in stripped if a and not a.lower().startswith("data:")))[:MAX_CANDIDATES]


def first(find: Callable[[str], bytes | Dropped], addresses: tuple[str, ...]) -> bytes | Dropped:
    """The first image that is there; else what happened to the best of the addresses."""
    reasons = []
    for address in addresses:
        image = find(address)
        if not isinstance(image, Dropped):
            return image
        reasons.append(image)
    return reasons[0] if reasons else Dropped("image without address", "an <img> without address")


def _join(base: str, address: str) -> str:
    try:
        return urljoin(base, address)
    except ValueError:  # e.g. a bracket where a host should be
        return ""


def _decode(data: bytes) -> str:
    """The page's characters: by its byte order mark, its declaration, or else UTF-8."""
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace")
    declared = _CHARSET.search(data[:2048])
    name = declared[1].decode("ascii", "replace").lower() if declared else "utf-8"
    if name in ("iso-8859-1", "latin1", "latin-1", "ascii", "us-ascii"):
        name = "cp1252"  # which is what the web means by these (Encoding standard, 4.2)
    elif name.startswith("utf-16"):
        name = "utf-8"  # a declaration that could be read as ASCII cannot be UTF-16 (HTML standard, 13.2.3.2)
    try:
        return data.decode(name, "replace")
    except (LookupError, ValueError):  # no such encoding, or one that is not for text
        return data.decode("utf-8", "replace")
