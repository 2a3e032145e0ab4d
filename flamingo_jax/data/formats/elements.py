"""What each element of a web page is to its reader: a paragraph, a part of a line, an image, or nothing of interest.

Navigation, headers, footers, asides, advertisements, scripts and hidden parts are of no interest.
"""

from __future__ import annotations

import re

from selectolax.lexbor import LexborHTMLParser

# The kinds of elements. Those from DROPPED on are emptied.
INLINE, BLOCK, WHOLE, PREFORMATTED, IMAGE, PICTURE, SOURCE, BASE, DROPPED, DROPPED_BLOCK, HEAD = range(11)

PARTING = frozenset((BLOCK, WHOLE, PREFORMATTED, DROPPED_BLOCK))
"""The kinds whose begin and end part paragraphs. All others, and elements that are not in the table, do not."""

_TAGS = {
    BLOCK: """
        address blockquote br caption center dd details div dl dt fieldset figcaption figure h1 h2 h3 h4 h5 h6 hr legend
        li ol p section summary table tbody td tfoot th thead tr ul
    """,
    WHOLE: "html body main article",  # themes give them classes such as "nav sidebar"
    PREFORMATTED: "listing plaintext pre xmp",
    IMAGE: "img",
    PICTURE: "picture",
    SOURCE: "source",
    BASE: "base",
    # <noscript> repeats the images that a lazy loader shows.
    DROPPED: """
        audio button canvas datalist embed frameset iframe input math noembed noframes noscript object option progress
        script select style svg template textarea title video
    """,
    DROPPED_BLOCK: "aside dialog footer form header menu nav",
    HEAD: "head",
}
_empty = LexborHTMLParser("")
KINDS = {_empty.create_node(tag).tag_id: kind for kind, tags in _TAGS.items() for tag in tags.split()}
"""The kind of an element by the parser's number of its tag, which Python reads faster than its name."""

# What the dropped elements are called where a page is made of <div>s: OBELICS' list, advertisements and side bars.
_NAMES = frozenset(
    """
    breadcrumb breadcrumbs cookie-banner footer header menu nav navbar navigation newsletter page-footer page-header
    related-posts share sharing sidebar site-footer site-header site-info social
""".split()
)
_ADVERTISEMENTS = frozenset("ad ads adsense advert adverts advertisement advertising sponsored".split())
_ROLES = frozenset("banner complementary contentinfo navigation search".split())
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden")


class _Verdicts(dict):
    """A ``class`` or ``id`` -> whether it is that of an element to drop; of advertisements also "ad-..." and "ad_...".

    Sites repeat their classes on every page, and this is quicker than a function that remembers.
    """

    def __missing__(self, names: str | None) -> bool:
        each = (names or "").lower().split()
        verdict = any(name in _NAMES or name.replace("_", "-").partition("-")[0] in _ADVERTISEMENTS for name in each)
        if len(self) >= 16_384:
            self.clear()
        if len(names or "") <= 200:
            self[names] = verdict
        return verdict


HAS_DROPPED_NAME = _Verdicts()


def hides(style: str | None) -> bool:
    """Whether a ``style`` hides its element."""
    return _HIDDEN.search((style or "").lower()) is not None


def is_dropped_role(role: str | None) -> bool:
    return (role or "").lower() in _ROLES
