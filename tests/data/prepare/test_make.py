"""What becomes of documents as their formats have them."""

import numpy as np
from prepared import levels, picture

from flamingo_jax.config import CorpusConfig, TextRules
from flamingo_jax.data.document import Document, Dropped, Medium, Raw
from flamingo_jax.data.filters import duplicates
from flamingo_jax.data.prepare import make


def maker(format="html", **options):
    options = CorpusConfig(format=format, source="", text=TextRules(formats=()), **options)
    return make.Maker(options, duplicates.Duplicates(duplicates.count([]), np.empty(0, np.uint64), 0))


def medium(data):
    return Medium("a.jpg", lambda: data)


def test_a_page_that_names_an_image_a_million_times_holds_it_some_times():
    image, count = medium(picture(50)), 1_000_000
    drop, document = maker()(Raw("a.html", "text", (0,) * count, (image,) * count), 0)
    assert drop == Dropped("too many media", "a.html: those after the first 2000 of 1000000", bad=True)
    assert isinstance(document, Document) and len(document.media) == make.MAX_MEDIA
    assert levels(document)[:2] == [50, 50]


def test_as_many_media_as_may_be_are_all_kept(monkeypatch):
    monkeypatch.setattr(make, "MAX_MEDIA", 3)
    [document] = maker()(Raw("a.html", "text", (0, 1, 2), tuple(medium(picture(50 + 10 * i)) for i in range(3))), 0)
    assert levels(document) == [50, 60, 70]


def test_bytes_decide_what_is_an_image_and_what_a_clip():
    """A GIF is an image; a page's media are images, whatever they are."""
    [document] = maker("table")(Raw("k", "caption", (0,), (medium(picture(50, "GIF")),)), 0)
    assert len(document.media[0]) == 1
    [drop] = maker("table")(Raw("k", "caption", (0,), (medium(b"\0\0\0\x18ftypisom" + bytes(50)),)), 0)
    assert drop.reason == "clip not readable" and drop.bad
    drop, _ = maker()(Raw("k", "text", (0,), (medium(b"\0\0\0\x18ftypisom" + bytes(50)),), clip=False), 0)
    assert drop.reason == "image not readable" and drop.bad
