"""OBELICS, OmniCorpus-CC and MINT-1T in their schemas."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from prepared import levels, pack, picture, run

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data import image
from flamingo_jax.data.prepare import prepare

IMAGES = ["https://x.example/0", None, None, "https://x.example/1", "https://x.example/2"]
TEXTS = [None, "One.\n\nTwo  three.", " four ", None, None]


def obelics(pages):
    """The types are those of the published files: JSON texts beside lists of texts."""
    return {
        "images": pa.array([images for images, _ in pages], pa.list_(pa.string())),
        "metadata": [
            json.dumps([image and {"src": image, "format": "jpg"} for image in images]) for images, _ in pages
        ],
        "general_metadata": [
            json.dumps({"url": f"https://site.example/{i}", "warc_filename": "a.warc.gz", "warc_record_offset": 1})
            for i in range(len(pages))
        ],
        "texts": pa.array([texts for _, texts in pages], pa.list_(pa.string())),
    }


def omnicorpus(pages):
    facts = {"id": "0", "domain": ["site.example"], "fluency_prob": 0.9, "porn_prob": 0.0}
    sizes = {"img_url_sha": "0", "width": 80, "height": 70, "aesthetic_prob": 4.0, "unsafe_prob": 0.0}
    return {
        "general_metadata": [{"url": f"https://site.example/{i}"} | facts for i in range(len(pages))],
        "images": pa.array([images for images, _ in pages], pa.list_(pa.string())),
        "texts": pa.array([texts for _, texts in pages], pa.list_(pa.string())),
        "metadata": [[sizes if image else None for image in images] for images, _ in pages],
    }


def mint_html(pages):
    return {
        "url": [f"https://site.example/{i}" for i in range(len(pages))],
        "texts": pa.array([texts for _, texts in pages], pa.list_(pa.string())),
        "images": pa.array([images for images, _ in pages], pa.list_(pa.string())),
        "image_hashes": [["0"] for _ in pages],  # shorter than images: one for each that is there
        "previous_word_count": [1] * len(pages),
    }


def write(tmp_path, columns, name="a.parquet", **options):
    (tmp_path / "raw").mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), tmp_path / "raw" / name, **options)


def index(tmp_path, *numbers):
    members = []
    for i in numbers:
        members += [(f"{i:09d}.jpg", picture(50 + 10 * i))]
        members += [(f"{i:09d}.json", json.dumps({"url": f"https://x.example/{i}"}).encode())]
    (tmp_path / "00000.tar").write_bytes(pack(*members))
    return f"{tmp_path}/*.tar"


@pytest.mark.parametrize(("format", "schema"), [("obelics", obelics), ("omnicorpus", omnicorpus), ("mint", mint_html)])
def test_pages_keep_their_order_and_their_paragraphs(tmp_path, format, schema):
    write(tmp_path, schema([(IMAGES, TEXTS), ([None], ["only text"]), ([IMAGES[0]], [None])]))
    report, [document] = run(format, tmp_path / "raw/*", tmp_path / "set", images=index(tmp_path, 0, 1, 2))
    assert (document.key, document.text) == ("https://site.example/0", "One.\nTwo three.\nfour")
    assert document.positions == (0, 20, 20) and levels(document) == [50, 60, 70]
    assert report["drops"] == {"page without images": 1, "page without text": 1}


def test_an_image_between_texts_stands_before_the_second(tmp_path):
    write(tmp_path, obelics([([None, IMAGES[0], None], ["one", None, "two"])]))
    [document] = run("obelics", tmp_path / "raw/*", tmp_path / "set", images=index(tmp_path, 0))[1]
    assert (document.text, document.positions) == ("one\ntwo", (4,))


def test_another_document_begins_where_obelics_says_so(tmp_path):
    end = "END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED"
    texts = [None, f"one\n\n{end}\n\ntwo", None, end, None, f"three{end}{end}"]
    write(tmp_path, obelics([([IMAGES[0], None, IMAGES[3], None, IMAGES[4], None], texts)]))
    report, documents = run("obelics", tmp_path / "raw/*", tmp_path / "set", images=index(tmp_path, 0, 1, 2))
    assert [(d.key[-3:], d.text, d.positions, levels(d)) for d in documents] == [
        ("e/0", "one", (0,), [50]),
        ("0#1", "two", (3,), [60]),
        ("0#2", "three", (0,), [70]),
    ]
    assert report["drops"] == {"page without images": 2}


def test_images_that_are_gone_cost_themselves(tmp_path):
    images = ["https://x.example/gone", None, "", "../../etc/passwd", "file:///etc/passwd", "https://x.example/1"]
    write(tmp_path, obelics([(images, [None, "text", None, None, None, None])]))
    report, [document] = run("obelics", tmp_path / "raw/*", tmp_path / "set", images=index(tmp_path, 1))
    assert levels(document) == [60]
    assert report["drops"] == {"medium missing": 2, "image without address": 1, "medium elsewhere": 1}


@pytest.mark.parametrize("as_struct", [False, True])
def test_images_may_be_in_the_file(tmp_path, as_struct):
    cells = [[picture(50), None, b"no image", picture(60)]]
    kind = pa.binary()
    if as_struct:
        cells = [[data and {"bytes": data, "path": None} for data in cells[0]]]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = obelics([([None] * 4, [None, "text", None, None])]) | {"images": pa.array(cells, pa.list_(kind))}
    write(tmp_path, columns)
    report, [document] = run("obelics", tmp_path / "raw/*", tmp_path / "set")
    assert levels(document) == [50, 60] and report["drops"] == {"image not readable": 1}


def test_lists_that_do_not_fit_and_addresses_that_are_none(tmp_path):
    pages = [(["https://x.example/0"] * n, ["a", None, "b"][:3]) for n in (2, 3, 0)]
    columns = obelics([*pages, (IMAGES[:2], TEXTS[:2])]) | {
        "general_metadata": ["{", '{"url": ' + "[" * 9999, None, "[]"]
    }
    write(tmp_path, columns | {"images": pa.array([*columns["images"].to_pylist()[:2], None, IMAGES[:2]])})
    report, documents = run("obelics", tmp_path / "raw/*", tmp_path / "set", images=index(tmp_path, 0))
    assert [(d.key, levels(d)) for d in documents] == [("a.parquet:1", [50] * 3), ("a.parquet:3", [50])]
    assert report["drops"] == {"page damaged": 2} and report["bad"] == 2


def test_damaged_files_cost_themselves_and_missing_columns_stop(tmp_path):
    write(tmp_path, obelics([(IMAGES, TEXTS)]))
    data = (tmp_path / "raw" / "a.parquet").read_bytes()
    (tmp_path / "raw" / "b.parquet").write_bytes(data[:-200])
    report, documents = run("obelics", tmp_path / "raw/*", tmp_path / "set", images=index(tmp_path, 0))
    assert len(documents) == 1 and report["drops"] == {"medium missing": 2, "parquet damaged": 1}
    write(tmp_path, {"url": ["a"], "text": ["b"]}, "c.parquet")
    with pytest.raises(ValueError, match=r"c\.parquet has the columns url, text, but no images .* and no texts"):
        prepare(CorpusConfig(format="obelics", source=f"{tmp_path}/raw/*"), tmp_path / "b")
    columns = {"images": "pics", "texts": "words", "address": "from"}
    write(tmp_path, {"pics": [IMAGES[:2]], "words": [TEXTS[:2]], "from": ["https://site.example"]}, "d.parquet")
    options = {"images": f"{tmp_path}/*.tar", "columns": columns}
    [document] = run("omnicorpus", tmp_path / "raw/d.parquet", tmp_path / "c", **options)[1]
    assert document.key == "https://site.example"


# MINT-1T's PDF and ArXiv parts.


def tiff(*levels_, modes=("RGB",), size=(80, 70)):
    pages = [Image.open(io.BytesIO(picture(level, "PNG", size))) for level in levels_]
    pages = [page.convert(modes[i % len(modes)]) for i, page in enumerate(pages)]
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    return buffer.getvalue()


def pdf(key, images, texts, xrefs, data, **more):
    fields = {"images": images, "texts": texts, "language_id_whole_page_fasttext": {"en": 0.9}, "pdf_name": key}
    fields["image_metadata"] = [{"page": 0, "xref": x, "sha256": "0", "width": 80, "height": 70} for x in xrefs]
    return (f"{key}.json", json.dumps(fields | more).encode()), *([(f"{key}.tiff", data)] if data else [])


def mint_tar(tmp_path, *members):
    (tmp_path / "a.tar").write_bytes(pack(*members))
    return run("mint", tmp_path / "a.tar", tmp_path / "set")


def test_documents_of_mint_take_the_pages_that_their_metadata_names(tmp_path):
    names = ["page_0_image_7", None, "page_0_image_5", "page_0_image_9"]
    texts = [None, "Text.\n\nMore.", None, None]
    _, [document] = mint_tar(tmp_path, *pdf("k", names, texts, [5, 7, 9], tiff(50, 100, 150)), ("k.txt", b"no"))
    assert (document.key, document.text, document.positions) == ("a.tar/k", "Text.\nMore.", (0, 11, 11))
    assert levels(document) == [100, 50, 150]


def test_without_metadata_the_pages_are_in_order(tmp_path):
    """As in the ArXiv part, whose images have other names."""
    data = pdf("k", ["fig1.png", None, "fig2.png"], [None, "text", None], [], tiff(50, 100), url="https://x.example")
    _, [document] = mint_tar(tmp_path, *data)
    assert levels(document) == [50, 100] and document.key == "https://x.example"


def test_pages_of_every_kind(tmp_path):
    names = [f"page_0_image_{i}" for i in range(6)]
    data = tiff(*range(50, 110, 10), modes=("RGB", "L", "CMYK", "RGBA", "P", "I;16"))
    _, [document] = mint_tar(tmp_path, *pdf("k", [*names, None], [*[None] * 6, "x"], range(6), data))
    assert levels(document)[:5] == [50, 60, 70, 80, 90]


def test_damage_of_mint_costs_what_it_touches(tmp_path):
    names, texts = ["page_0_image_0", "page_0_image_1", None], [None, None, "text"]
    members = [
        *pdf("good", names, texts, [0, 1], tiff(50, 60)),
        *pdf("one_page", names, texts, [0, 1], tiff(50)),
        *pdf("unnamed", names, texts, [0], tiff(50)),
        *pdf("no_tiff", names, texts, [0, 1], b""),
        *pdf("no_tiff_at_all", names, texts, [0, 1], b"<html>"),
        *pdf("jpeg", names, texts, [0, 1], picture(50)),
        *pdf("cut", names, texts, [0, 1], tiff(50, 60)[:200]),
        *pdf("lists", names, "text", [0, 1], tiff(50, 60)),
        *pdf("metadata", names, texts, [0, 1], tiff(50, 60), image_metadata=[5, {"page": [], "xref": {}}]),
        ("no_json.tiff", tiff(50)),
        ("bad_json.json", b"{"),
    ]
    report, documents = mint_tar(tmp_path, *members)
    assert {d.key.split("/")[1]: levels(d) for d in documents} == {
        "good": [50, 60],
        "one_page": [50],
        "unnamed": [50],
        "metadata": [50, 60],
    }
    assert report["drops"] == {
        "image not readable": 7,
        "medium missing": 3,
        "page left without images": 4,
        "page damaged": 1,
        "document without text": 1,
        "line not JSON": 1,
    }


def test_a_page_that_claims_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(image, "MAX_PIXELS", 10_000)
    names, texts = ["page_0_image_0", "page_0_image_1", None], [None, None, "text"]
    large = Image.fromarray(np.zeros((400, 400), np.uint8))
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(50, "PNG"))).save(buffer, "TIFF", save_all=True, append_images=[large])
    report, [document] = mint_tar(tmp_path, *pdf("k", names, texts, [0, 1], buffer.getvalue()))
    assert levels(document) == [50] and "400 x 400 pixels are more" in report["first_drops"]["image not readable"]


def test_a_tiff_whose_pages_lead_in_circles_ends(tmp_path):
    data = bytearray(tiff(50, 60))
    first = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[first : first + 2], "little")
    end = first + 2 + 12 * count
    data[end : end + 4] = first.to_bytes(4, "little")  # the next page is the first one again
    names = [f"page_0_image_{i}" for i in range(5)]
    report, [document] = mint_tar(tmp_path, *pdf("k", [*names, None], [*[None] * 5, "x"], range(5), bytes(data)))
    assert levels(document)[0] == 50 and report["drops"]["image not readable"] == 4
