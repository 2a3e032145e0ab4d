"""Web pages as the HTML standard means them, and as people who mean harm write them."""

import random
import re

import pytest
from selectolax.lexbor import LexborHTMLParser

from flamingo_jax.data.document import Dropped
from flamingo_jax.data.formats import address, elements, html

URL = "file:///blog/page.html"


def extract(body, head=""):
    return html.extract(f"<html><head>{head}</head><body>{body}</body></html>".encode(), URL)


def addresses(body, head=""):
    page = extract(body, head)
    return tuple(address.absolute(image, page.base) for image in page.images)


def show(page):
    """The page's text with * where images stand."""
    result, last = "", 0
    for position in page.positions:
        result, last = result + page.text[last:position] + "*", position
    return result + page.text[last:]


def marked(body, head=""):
    return show(extract(body, head))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<p>one</p><img src=a><p>two</p><img src=b>", "one\n*two*"),
        ("<img src=a><img src=b>one", "**one"),
        ("<p>one <img src=a> two</p>", "one *two"),
        ("<p>one<img src=a>two</p>", "one*two"),
        ("<div>one<br>two</div>three<div><div>four</div></div>", "one\ntwo\nthree\nfour"),
        ("<p>a  <b> bold</b>\n word<i>s</i>\u00a0here </p>\n\n<p> b", "a bold words here\nb"),
        ("<ul><li>a<li>b</ul><table><tr><td>c<td>d</table>", "a\nb\nc\nd"),
        ("<pre>a\n  b   c\n</pre>d", "a\nb c\nd"),
        ("<figure><img src=a><figcaption>one</figcaption></figure>", "*one"),
        ("<div class='item'><a href='/x'><img src=a></a><p>one</p></div>", "*one"),
        ("<p>fish &amp; chips &lt;image&gt; <EOC></p>", "fish & chips <image>"),
        ("<p>one <img src=a></p> <p>two</p>", "one*\ntwo"),
        ("<p>one <img src=a> <img src=b> </p>two", "one**\ntwo"),
        ("one<img src=a>\n<img src=b>\ntwo", "one* *two"),
        ("one<div><img src=a></div>two", "one\n*two"),
        ("two<img src=a>one<img src=a>&lt;", "two*one*<"),
        ("<a href=x>one<p>two</p></a>three", "one\ntwo\nthree"),
        ("on<!-- -->e<span></span>s <wbr>two<my-tag> three</my-tag>", "ones two three"),
        ("<b>one<p>two</b>three", "one\ntwothree"),
        ("<p title='<img src=x> \"no\" > no'>one</p>", "one"),
        ("<pre>one\n<b>two\nthree</b> four</pre>five", "one\ntwo\nthree four\nfive"),
        ("<pre>one\n<pre>two\n\nthree</pre></pre>", "one\ntwo\nthree"),
        ("<xmp>one <img src=x>\n</p>&amp;</xmp>two", "one <img src=x>\n</p>&amp;\ntwo"),
        ("one<plaintext>two\n<img src=x>", "one\ntwo\n<img src=x></body></html>"),
        ("one<table>two<tr><td>three</table>", "onetwo\nthree"),
        ("one&#10;two&#13;three\u2003four\u3000\u00a0 five", "one two three four five"),
        ("", ""),
        ("  \n ", ""),
    ],
)
def test_text_and_images_come_in_tree_order(body, expected):
    assert marked(body) == expected


def walk(node):
    """The page below ``node`` as one string: ^ where paragraphs part, * for an image."""
    if node.is_text_node:
        return re.sub(r"\s+", " ", node.text_content)
    kind, attributes = elements.KINDS.get(node.tag_id, elements.INLINE), node.attributes
    dropped = kind >= elements.DROPPED or "hidden" in attributes or attributes.get("class") == "ad"
    inside = "" if dropped else "".join(walk(child) for child in node.iter(include_text=True))
    if kind == elements.IMAGE:
        return "" if dropped else "*"
    return f"^{inside}^" if kind in elements.PARTING else inside


def test_random_pages_are_read_as_by_an_obvious_walk():
    rng = random.Random(0)
    tags = "p div span b i a ul li table td br h1 figure svg nav script button picture form header my-tag em".split()
    for _ in range(2000):
        pieces = []
        for _ in range(rng.randint(1, 25)):
            tag, attribute = rng.choice(tags), rng.choice(("", "", " hidden", " class=ad", " class", " title='a>b'"))
            tag = rng.choice((f"<{tag}{attribute}>", f"</{tag}>", f"<img src=a{attribute}>", "<!-- <p> -->"))
            pieces += rng.choice(((tag,), (rng.choice((" ", "\n", "one", "two ", " \u2003é", "on", "&lt;o&nbsp;")),)))
        data = "".join(pieces).encode()
        # White space around an image is kept before it, and no paragraph begins or ends with a space.
        expected = re.sub(r" +", " ", walk(LexborHTMLParser(data).root))
        expected = re.sub(r"[ ^]*\^[ ^]*", "^", expected).strip("^ ")
        for pattern, change in (
            (r"(^|[ ^])(\*+)[ ]", r"\1\2"),
            (r"(^|\^)(\*+)\^", r"\1\2"),
            (r" (\*+)(\^|$)", r"\1\2"),
            (r"\^(\*+)$", r"\1"),  # the text ends with its last word
        ):
            while (changed := re.sub(pattern, change, expected)) != expected:
                expected = changed
        assert show(html.extract(data, URL)) == expected.replace("^", "\n").rstrip(), data


@pytest.mark.parametrize(
    "unwanted",
    [
        "<nav>{}</nav>",
        "<header>{}</header>",
        "<footer>{}</footer>",
        "<aside>{}</aside>",
        "<script>{}</script>",
        "<style>{}</style>",
        "<noscript>{}</noscript>",
        "<template>{}</template>",
        "<form>{}</form>",
        "<!-- {} -->",
        "<noembed>{}</noembed>",
        "<noframes>{}</noframes>",
        "<iframe>{}</iframe>",
        "<textarea>{}</textarea>",
        "<svg><title>{}</title></svg>",
        "<select><option>no</select>",
        "<div class='ad'>{}</div>",
        "<div class='top Ads-left'>{}</div>",
        "<ins class=adsbygoogle hidden>{}",
        "<div id=ad_7>{}</div>",
        "<div class=sidebar><div>{}</div></div>",
        "<ul class='main menu'><li>{}</ul>",
        "<div role=navigation>{}</div>",
        "<div hidden>{}</div>",
        "<div style='color:red;Display : NONE'>{}</div>",
        "<div role=Banner>{}</div>",
        "<nav><nav>{0}</nav>{0}</nav>",
    ],
)
def test_boilerplate_is_dropped(unwanted):
    assert marked(f"one<div>{unwanted.format('<img src=x> no')}</div><p>two") == "one\ntwo"


@pytest.mark.parametrize(
    "wanted",
    [
        "<div class='address adder'>{}</div>",
        "<main class='sidebar'>{}</main>",
        "<div class='shadow'>{}</div>",
        "<section id=nav-history>{}</section>",
    ],
)
def test_similar_names_are_kept(wanted):
    assert marked(wanted.format("<img src=x> yes")) == "*yes"


@pytest.mark.parametrize(
    ("unwanted", "expected"),
    [("<aside>no</aside>", "one\ntwo"), ("<div class=ad>no</div>", "one\ntwo"), ("<script>no</script>", "onetwo")],
)
def test_what_is_dropped_parts_paragraphs_as_it_would_if_shown(unwanted, expected):
    assert marked(f"one{unwanted}two") == expected


def test_the_title_is_not_text():
    assert marked("one", head="<title>no</title>") == "one"


@pytest.mark.parametrize(
    ("tag", "head", "expected"),
    [
        ("<img src='a b.jpg'>", "", ["file:///blog/a%20b.jpg"]),
        ("<img src=' ../x/./a.jpg\n'>", "", ["file:///x/a.jpg"]),
        ("<img src=/a.jpg>", "", ["file:///a.jpg"]),
        ("<img src=../../../../a.jpg>", "", ["file:///a.jpg"]),
        ("<img src=a.jpg?v=2#top>", "", ["file:///blog/a.jpg?v=2"]),
        ("<img src=//cdn.example/a.jpg>", "", ["file://cdn.example/a.jpg"]),
        ("<img src=a.jpg>", "<base href=img/>", ["file:///blog/img/a.jpg"]),
        ("<img src=a.jpg>", "<base href='https://x.example/y/z'>", ["https://x.example/y/a.jpg"]),
        ("<img src=a.jpg>", "<base><base href=1/><base href=2/>", ["file:///blog/1/a.jpg"]),
        ("<img src=data:image/gif;base64,R0lG data-src=a.jpg>", "", ["file:///blog/a.jpg"]),
        ("<img src=small.jpg data-original=a.jpg>", "", ["file:///blog/a.jpg", "file:///blog/small.jpg"]),
        (
            "<img src=s.jpg srcset='s.jpg 320w, l.jpg 1280w, m.jpg 640w'>",
            "",
            ["file:///blog/l.jpg", "file:///blog/m.jpg", "file:///blog/s.jpg"],
        ),
        (
            "<img data-srcset='a,b.jpg, c.jpg 2x,d.jpg 1.5x'>",
            "",
            ["file:///blog/c.jpg", "file:///blog/d.jpg", "file:///blog/a,b.jpg"],
        ),
        ("<picture><source srcset=a.webp><img src=a.jpg></picture>", "", ["file:///blog/a.jpg", "file:///blog/a.webp"]),
        ("<picture><source srcset=x></picture><img src=a>", "", ["file:///blog/a"]),
        ("<picture><source srcset=x></picture><picture><img src=a></picture>", "", ["file:///blog/a"]),
        ("<video><source srcset=x></video><picture><img src=a><source srcset=y></picture>", "", ["file:///blog/a"]),
        ("<img src='a&amp;b.jpg'>", "", ["file:///blog/a&b.jpg"]),
        ("<img src=a.jpg><base href=/x/>", "", ["file:///x/a.jpg"]),
        ("<image src=a.jpg>", "", ["file:///blog/a.jpg"]),
        ("<img>", "", []),
        ("<img src>", "", []),
        ("<img src='http://[x'>", "", []),
        ("<img src='img\\\u00fc.jpg'>", "", ["file:///blog/img/%C3%BC.jpg"]),
        ("<img src='HTTPS://X.Example:443/a.jpg#top'>", "", ["https://x.example/a.jpg"]),
    ],
)
def test_addresses_are_a_browsers(tag, head, expected):
    assert addresses(tag, head) == (tuple(expected),)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", []),
        (" , ,", []),
        ("a", ["a"]),
        ("a 1x, b 2x", ["b", "a"]),
        ("a 100w,b 200w", ["b", "a"]),
        ("a nonsense, b 3x", ["b", "a"]),
        ("data:image/png;base64,AA== 2x, a", ["data:image/png;base64,AA==", "a"]),
    ],
)
def test_srcset(value, expected):
    assert address.srcset(value) == expected


@pytest.mark.parametrize(
    "data",
    [
        "<meta charset=latin1><p>caf\u00e9".encode("cp1252"),
        '<meta charset="utf-8"><p>caf\u00e9'.encode(),
        "<p>caf\u00e9".encode("utf-8-sig"),
        "<p>caf\u00e9".encode("utf-16"),
        "<meta charset=utf-16><p>caf\u00e9".encode(),
        "<meta http-equiv=Content-Type content='text/html; charset=windows-1252'><p>caf\u00e9".encode("cp1252"),
        "<meta charset=rot13><p>caf\u00e9".encode(),
        "<meta charset=nonsense><p>caf\u00e9".encode(),
    ],
)
def test_characters_are_decoded_as_declared(data):
    assert html.extract(data, URL).text == "caf\u00e9"


@pytest.mark.parametrize(
    ("data", "charset", "expected"),
    [
        ("<meta charset=utf-8><p>caf\u00e9".encode("cp1252"), "ISO-8859-1", "caf\u00e9"),
        ("<meta charset=latin1><p>caf\u00e9".encode(), ' "UTF-8"', "caf\u00e9"),
        ("<p>caf\u00e9".encode("utf-8-sig"), "latin1", "caf\u00e9"),
        ("<p>caf\u00e9".encode("utf-16-le"), "utf-16", "caf\u00e9"),
        ("<meta charset=latin1><p>caf\u00e9".encode("cp1252"), "nonsense\0", "caf\u00e9"),
        ("<meta charset=latin1><p>caf\u00e9".encode("cp1252"), "punycode", "caf\u00e9"),
        ("<p>\u20ac \u201cx\u201d".encode("cp1252"), "us-ascii", "\u20ac \u201cx\u201d"),
        ("<p>\u6f22\u3007".encode("gb18030"), "gb2312", "\u6f22\u3007"),
        ("<p>\u2460\u6f22".encode("cp932"), "Shift_JIS", "\u2460\u6f22"),
        ("<p>\ub620\ubc29".encode("cp949"), "ks_c_5601-1987", "\ub620\ubc29"),
    ],
)
def test_the_servers_word_comes_after_a_mark_and_before_the_pages(data, charset, expected):
    assert html.extract(data, URL, charset).text == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"no tags",
        b"<",
        b"<img src=a" * 1000,
        b"\xff\xfe\xff",
        b"<p>&#xD800;\xed\xa0\x80</p>",
        b"<base href='http://[' ><img src=a>",
        b"<img srcset='" + b"a " * 5000 + b"'>",
        b"<p" + b" a" * 20000,
    ],
)
def test_odd_bytes_are_a_page(data):
    html.extract(data, URL).text.encode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\1one\0 <img src=a>\1two\0i\0p", "one *twoip"),
        (b"&#1;one<img src=a>&#x1;two", "one* two"),
        (b"&#&#1;1;<img src=a>", "&# 1;*"),
        (b"&#4294967297;<img src=a>x", "\ufffd*x"),
        (b"<p>&#0;<svg>&#0;\0</svg><img src=a alt='&#1;'>", "\ufffd*"),
        ("<p>\ue000\ufdd0\ufffe<img src=a>".encode(), "\ue000\ufdd0\ufffe*"),
    ],
)
def test_a_page_cannot_write_the_marks_of_images(data, expected):
    assert show(html.extract(data, URL)) == expected


def read(data, images):
    """(the page, the files of its images or why there is none)."""
    raw = html.page(data.encode(), URL, lambda place: images.get(place, Dropped("image missing", place)), "k", "s")
    return raw, [medium.read() for medium in raw.media]


def test_a_page_reads_the_images_that_are_there():
    images = {"file:///blog/a.jpg": b"A", "file:///blog/c.jpg": b"C"}
    raw, media = read("<img src=a.jpg>one<img src=b.jpg>two<img src=d.jpg data-src=c.jpg><img>three", images)
    assert (raw.key, raw.text, raw.positions, raw.source, raw.clip) == ("k", "onetwothree", (0, 3, 6, 6), "s", False)
    assert media[0] == b"A" and media[2] == b"C"
    assert media[1] == Dropped("image missing", "file:///blog/b.jpg")
    assert media[3].reason == "image without address"
    assert [medium.name for medium in raw.media] == ["a.jpg", "b.jpg", "c.jpg", "<img>"]


def test_the_next_address_serves_where_the_first_is_missing():
    assert read("<img data-src=gone.jpg src=a.jpg>x", {"file:///blog/a.jpg": b"A"})[1] == [b"A"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"x" * (html.MAX_BYTES + 1), "page too long"),
        (b"<div>" * 200_000 + b"<img src=a>x", "page too complex"),
        (b"<div></x>" * 100_000, "page too complex"),
        (b"<p>" + b"".join(b"<b id=%d>" % i for i in range(700)) + b"</p>" + b"<p>x</p>" * 700, "page too complex"),
    ],
    ids=["long", "deep", "deep with ends of other elements", "elements that multiply"],
)
def test_pages_that_would_take_for_ever_are_dropped(data, reason):
    dropped = html.page(data, URL, None, "k")
    assert (dropped.reason, dropped.bad) == (reason, True) and dropped.place.startswith("k: ")


def test_many_elements_are_not_many_levels():
    page = "<p>x<br>" * 3000 + "<svg>" + "<path d='M0 0'/>" * 3000 + "</svg><img src=a>"
    assert len(html.extract(page.encode(), URL).positions) == 1
    assert html.extract(b"<div>" * 1900 + b"<img src=a>x", URL).text == "x"
    assert html.extract(b"<b>" * 100_000 + b"<img src=a>x", URL).text == "x"
