"""Archives as crawlers write them, whole and damaged."""

import gzip
import io

import pytest
from archives import picture, response

from flamingo_jax.config import CorpusConfig, TextRules
from flamingo_jax.data import record
from flamingo_jax.data.formats import html, warc
from flamingo_jax.data.prepare import prepare


def page(number, image="/i/0.png"):
    return f"<p>before {number}</p><img src='{image}'><p>after {number}</p>".encode()


def run(tmp_path, data, name="a.warc.gz", target="set", **options):
    (tmp_path / "raw").mkdir(exist_ok=True)
    (tmp_path / "raw" / name).write_bytes(data)
    options = {"text": TextRules(formats=()), "max_bad": 1.0} | options
    source = f"{tmp_path}/raw/{name}"
    report = prepare(CorpusConfig(format="warc", source=source, **options), tmp_path / target, workers=1)
    source = record.Source(tmp_path / target)
    return report, [source[i] for i in range(len(source))]


@pytest.mark.parametrize("compress", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_pages_with_images_of_the_same_archive(tmp_path, compress):
    data = b"".join(
        response(*arguments, compress=compress)
        for arguments in (
            ("https://a.example/x/1.html", page(1, "../i/0.png")),
            ("https://a.example/gone.html", page(2), "text/html", "404 Not Found"),
            ("https://a.example/i/0.png", picture(0), "image/png"),
            ("https://a.example/x.json", b"{}", "application/json"),
            ("https://a.example/3.html", gzip.compress(page(3)), "TEXT/HTML", "200 OK", "Content-Encoding: gzip\r\n"),
            ("https://a.example/4.html", page(4, "/i/missing.png")),
        )
    )
    report, documents = run(tmp_path, data)
    assert [document.key for document in documents] == ["https://a.example/x/1.html", "https://a.example/3.html"]
    assert [document.text for document in documents] == ["before 1\nafter 1", "before 3\nafter 3"]
    assert documents[0].positions == (9,) and documents[0].media == documents[1].media
    assert report["drops"] == {"medium elsewhere": 1, "page left without images": 1}


def test_the_servers_encoding_goes_before_the_pages(tmp_path):
    body = "<meta charset=utf-8><img src=/i/0.png>\u041f\u0440\u0438\u0432\u0435\u0442".encode("cp1251")
    image = response("https://a.example/i/0.png", picture(0), "image/png")
    data = image + response("https://a.example/1.html", body, "text/html; charset=windows-1251")
    assert [document.text for document in run(tmp_path, data)[1]] == ["\u041f\u0440\u0438\u0432\u0435\u0442"]


def test_images_of_a_folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "url.csv").write_text("url,file\nhttps://a.example/i/0.png,0.png\n")
    (tmp_path / "images" / "0.png").write_bytes(picture(0))
    data = response("https://a.example/1.html", page(1)) + response("https://a.example/2.html", page(2, "/i/1.png"))
    report, documents = run(tmp_path, data, images=f"{tmp_path}/images/*.csv")
    assert [document.text for document in documents] == ["before 1\nafter 1"]
    assert report["drops"] == {"medium missing": 1, "page left without images": 1}


@pytest.mark.parametrize("compress", [gzip.compress, bytes], ids=["gzip", "plain"])
@pytest.mark.parametrize("is_page", [True, False], ids=["page", "image"])
def test_the_end_may_be_missing(tmp_path, compress, is_page):
    """A record that the file ends in the midst of, be it in its header, is damaged; but for its last line feeds."""
    words = "".join(f" word{i * i}" for i in range(1000))
    data = b"".join(response(f"https://a.example/{i}.html", page(i, f"/i/{i}.png"), compress=compress) for i in (0, 1))
    data += response("https://a.example/i/0.png", picture(0), "image/png", compress=compress)
    body = page(words, "/i/0.png") if is_page else picture(1)
    last = response("https://a.example/i/1.png", body, "text/html" if is_page else "image/png", compress=compress)
    assert len(run(tmp_path, data + last)[1]) == 2
    for cut in (len(last) - 10, len(last) * 3 // 5, 300, 60, 12):
        report, documents = run(tmp_path, data + last[:cut], name=f"{cut}.warc.gz", target=str(cut))
        assert [d.text for d in documents] == ["before 0\nafter 0"]
        assert report["bad"] == report["drops"]["warc damaged"] == 1
        assert report["first_drops"]["warc damaged"].startswith(f"{cut}.warc.gz, from byte {len(data)}: ")


def test_images_of_a_mirror(tmp_path):
    """A folder that holds HOST/PATH."""
    place = tmp_path / "images" / "a.example" / "i"
    place.mkdir(parents=True)
    (place / "0 1.png").write_bytes(picture(0))
    data = response("https://a.example/1.html", page(1, "/i/0 1.png")) + response("https://a.example/2.html", page(2))
    report, documents = run(tmp_path, data, images=f"{tmp_path}/images")
    assert [document.text for document in documents] == ["before 1\nafter 1"]
    assert report["drops"] == {"medium elsewhere": 1, "page left without images": 1}


def test_images_are_found_by_any_spelling_of_their_address(tmp_path):
    stored = ["a.jpg", "my%20photo.jpg", "%C3%BC.jpg", "caps.jpg", "up.jpg"]
    named = ["a.jpg#top", "my photo.jpg", "\u00fc.jpg", "//EX.com:443/caps.jpg", "..\\up.jpg"]
    data = b"".join(response(f"https://ex.com/{name}", picture(i), "image/png") for i, name in enumerate(stored))
    data += b"".join(response(f"https://ex.com/{i}.html", page(i, name)) for i, name in enumerate(named))
    report, documents = run(tmp_path, data)
    assert [len(document.media) for document in documents] == [1] * 5 and not report["drops"]


@pytest.mark.parametrize("compress", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_damaged_members_are_passed_over(tmp_path, compress):
    """One that is cut off, one of other bytes, and the end of the file: what is between them is read."""
    image = response("https://a.example/i/0.png", picture(0), "image/png", compress=compress)
    pages = [response(f"https://a.example/{i}.html", page(i), compress=compress) for i in range(5)]
    cut = len(pages[1]) // 4
    data = pages[0] + image + pages[1][:cut] + pages[2] + b"\x1f\x8b\x08garbage WARC/1." + pages[3] + pages[4][:cut]
    report, documents = run(tmp_path, data)
    assert {"before 0\nafter 0", "before 3\nafter 3"} <= {document.text for document in documents}
    assert len(documents) >= 3 - (compress is bytes)  # without members, a cut record swallows the next one
    assert 1 <= report["drops"]["warc damaged"] <= 3 and report["bad"] == report["drops"]["warc damaged"]
    assert report["first_drops"]["warc damaged"].startswith("a.warc.gz, from byte ")


def test_bombs_and_nonsense(tmp_path, monkeypatch):
    monkeypatch.setattr(html, "MAX_BYTES", 1_000_000)
    image = response("https://a.example/i/0.png", picture(0), "image/png")
    encoded = {"headers": "Content-Encoding: gzip\r\n"}
    bomb = response("https://a.example/b.html", gzip.compress(bytes(50_000_000)), **encoded)
    no_gzip = response("https://a.example/n.html", b"no gzip", **encoded)
    report, documents = run(tmp_path, bomb + no_gzip + image + response("https://a.example/1.html", page(1)))
    assert [document.text for document in documents] == ["before 1\nafter 1"]
    assert report["first_drops"]["page damaged"].startswith("a.warc.gz, byte 0: https://a.example/b.html: more than")


@pytest.mark.parametrize(
    "data",
    [b"", b"no archive", bytes(1000), gzip.compress(b"no archive"), b"\x1f\x8b\x08"],
    ids=["empty", "text", "zeros", "gzip of text", "a member's beginning"],
)
def test_files_that_are_no_archives(data):
    found = list(warc.records(io.BytesIO(data)))
    assert all(isinstance(item, tuple) for item in found) and len(found) <= 1


def test_a_page_without_address_is_named_by_its_place(tmp_path):
    first = response("https://a.example/1", page(1, "https://a.example/i/0.png"), compress=bytes)
    first = first.replace(b"WARC-Target-URI: https://a.example/1\r\n", b"")
    image = response("https://a.example/i/0.png", picture(0), "image/png", compress=bytes)
    report, documents = run(tmp_path, first + image, "a.warc")
    assert [document.key for document in documents] == ["a.warc@0"] and report["drops"] == {}
