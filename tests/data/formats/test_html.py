import pytest

from flamingo_jax.data import html
from flamingo_jax.data.document import Document, Dropped

URL = "file:///blog/page.html"


def extract(body, head=""):
    return html.extract(f"<html><head>{head}</head><body>{body}</body></html>".encode(), URL)


def addresses(body, head=""):
    return extract(body, head).addresses


def marked(body, head=""):
    """The page's text with * where images stand."""
    page, result, last = extract(body, head), "", 0
    for position in page.positions:
        result, last = result + page.text[last:position] + "*", position
    return result + page.text[last:]


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
        ("", ""),
        ("  \n ", ""),
    ],
)
def test_text_and_images_come_in_tree_order(body, expected):
    assert marked(body) == expected


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
        "<div class='ad'>{}</div>",
        "<div class='top Ads-left'>{}</div>",
        "<ins class=adsbygoogle hidden>{}",
        "<div id=ad_7>{}</div>",
        "<div class=sidebar><div>{}</div></div>",
        "<ul class='main menu'><li>{}</ul>",
        "<div role=navigation>{}</div>",
        "<div hidden>{}</div>",
        "<div style='color:red;Display : NONE'>{}</div>",
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


def test_the_title_is_not_text():
    assert marked("one", head="<title>no</title>") == "one"


@pytest.mark.parametrize(
    ("tag", "head", "expected"),
    [
        ("<img src='a b.jpg'>", "", ["file:///blog/a b.jpg"]),
        ("<img src=' ../x/./a.jpg\n'>", "", ["file:///x/a.jpg"]),
        ("<img src=/a.jpg>", "", ["file:///a.jpg"]),
        ("<img src=../../../../a.jpg>", "", ["file:///a.jpg"]),
        ("<img src=a.jpg?v=2#top>", "", ["file:///blog/a.jpg?v=2#top"]),
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
        ("<img>", "", []),
        ("<img src>", "", []),
        ("<img src='http://[x'>", "", []),
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
    assert html.srcset(value) == expected


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


def run(data, images):
    return list(html.document(data.encode(), URL, lambda a: images.get(a, Dropped("image missing", a)), "k", "s"))


def test_document_keeps_the_images_that_are_there():
    images = {"file:///blog/a.jpg": b"A", "file:///blog/c.jpg": b"C"}
    outcomes = run("<img src=a.jpg>one<img src=b.jpg>two<img src=d.jpg data-src=c.jpg><img>three", images)
    assert outcomes == [
        Dropped("image missing", "k: file:///blog/b.jpg"),
        Dropped("image without address", "k"),
        Document("k", "onetwothree", (0, 6), ((b"A",), (b"C",)), "s"),
    ]


def test_the_next_address_serves_where_the_first_is_missing():
    assert run("<img data-src=gone.jpg src=a.jpg>x", {"file:///blog/a.jpg": b"A"})[0].media == ((b"A",),)


@pytest.mark.parametrize(
    ("data", "reasons"),
    [
        ("<p>text", ["page without images"]),
        ("<p>text<img src=b>", ["image missing", "page left without images"]),
        ("<img src=a>", ["page without text"]),
        ("<div>" * 200_000 + "<img src=a>x", ["page nested too deeply"]),
    ],
)
def test_dropped_pages(data, reasons):
    assert [outcome.reason for outcome in run(data, {"file:///blog/a": b"A"})] == reasons


def test_many_elements_are_not_many_levels():
    page = "<p>x<br>" * 3000 + "<svg>" + "<path d='M0 0'/>" * 3000 + "</svg><img src=a>"
    assert len(run(page, {"file:///blog/a": b"A"})) == 1
    assert html.extract(b"<div>" * 1900 + b"<img src=a>x", URL).text == "x"
