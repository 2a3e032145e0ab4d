"""What occurs elsewhere already is left out, in the same way by both drivers."""

import functools
import json

import numpy as np
import pytest
from archives import picture, response

from flamingo_jax.config import CorpusConfig, DuplicateRules, TextRules
from flamingo_jax.data import record
from flamingo_jax.data.document import Raw
from flamingo_jax.data.filters import duplicates
from flamingo_jax.data.prepare import beam, prepare

A, B = "https://a.example", "https://b.example"


def html(text, *images):
    return ("".join(f"<img src='/{name}.png'>" for name in images) + f"<p>{text}").encode()


@pytest.fixture
def crawl(tmp_path):
    """Three archives: a page twice, a picture on most pages, a paragraph on most pages of two sites."""
    images = b"".join(
        response(f"{site}/{name}.png", picture(seed), "image/png")
        for site in (A, B)
        for seed, name in enumerate(("logo", "one", "two", "three"))
    )
    pages = [
        [(f"{A}/1", html("Share this<p>first", "logo", "one")), (f"{A}/2", html("Share this<p>second", "two", "two"))],
        [(f"{A}/1", html("Share this<p>first again", "logo", "three")), (f"{A}/3", html("third", "logo"))],
        [(f"{B}/1", html("Share this<p>other site", "logo", "one")), (f"{B}/1", html("the same address", "one"))],
    ]
    for i, content in enumerate(pages):
        (tmp_path / f"{i}.warc.gz").write_bytes(b"".join(response(*page) for page in content) + images)
    return f"{tmp_path}/*.warc.gz"


def run(crawl, target, driver=None, **rules):
    options = CorpusConfig(
        format="warc", source=crawl, text=TextRules(formats=()), shards=2, duplicates=DuplicateRules(**rules)
    )
    report = prepare(options, target, workers=1, driver=driver)
    source = record.Source(target)
    documents = [source[i] for i in range(len(source))]
    return report["drops"], [(d.key, d.text, d.positions) for d in documents]


def test_nothing_is_left_out_by_default(crawl, tmp_path):
    drops, documents = run(crawl, tmp_path / "set")
    assert drops == {} and len(documents) == 6


def test_one_page_of_each_address(crawl, tmp_path):
    drops, documents = run(crawl, tmp_path / "set", pages=True)
    assert drops == {"page repeated": 2}
    assert [text for _, text, _ in documents] == [
        "Share this\nfirst",
        "Share this\nsecond",
        "third",
        "Share this\nother site",
    ]


def test_a_page_whose_first_copy_is_left_out(tmp_path):
    """For its text, or for want of images: then the next one is kept, of another file or of the same."""
    pages = [html("good", "one"), html("no image"), html("", "one"), html("good", "one"), html("good", "one")]
    for i, page in enumerate(pages):
        data = response(f"{A}/1", page) + (response(f"{A}/2", html("", "one")) + response(f"{A}/2", pages[0])) * (
            i == 2
        )
        (tmp_path / f"{'fbacde'[i]}.warc.gz").write_bytes(data + response(f"{A}/one.png", picture(1), "image/png"))
    drops, documents = run(f"{tmp_path}/*.warc.gz", tmp_path / "set", pages=True)
    assert drops == {"page without images": 1, "page without text": 2, "page repeated": 2}
    assert [key for key, *_ in documents] == [f"{A}/2", f"{A}/1"]


def test_images_that_occur_too_often(crawl, tmp_path):
    """The logo occurs four times, "one" three times and "two" twice on one page."""
    drops, documents = run(crawl, tmp_path / "set", image_copies=3)
    assert drops == {"image repeated": 4, "page left without images": 1} and len(documents) == 5
    drops, _ = run(crawl, tmp_path / "other", image_copies=2, in_page=True)
    assert drops == {"image repeated": 7, "image repeated in its page": 1, "page left without images": 4}


def test_paragraphs_that_a_site_repeats(crawl, tmp_path):
    drops, documents = run(crawl, tmp_path / "set", paragraph_copies=1)
    texts = {text: positions for _, text, positions in documents}
    assert set(texts) == {"first", "second", "first again", "third", "Share this\nother site", "the same address"}
    assert texts["first"] == (0, 0) and drops == {"paragraph repeated": 3}


def test_images_that_look_like_a_benchmarks(crawl, tmp_path):
    """Another format, size and quality: another file, but the same picture."""
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "x.jpg").write_bytes(picture(1, (120, 105), "JPEG"))
    (tmp_path / "eval" / "readme.jpg").write_text("no picture")
    drops, documents = run(crawl, tmp_path / "set", evaluation=f"{tmp_path}/eval/*")
    assert drops == {"image of an evaluation": 3, "page left without images": 1, "evaluation image not readable": 1}
    assert len(documents) == 5
    with pytest.raises(ValueError, match="evaluation='.*readme.jpg' matches no readable image"):
        run(crawl, tmp_path / "none", evaluation=f"{tmp_path}/eval/readme.jpg")


def test_both_drivers_agree(crawl, tmp_path):
    pytest.importorskip("apache_beam", reason="pip install 'flamingo_jax[beam]'")
    rules = dict(pages=True, image_copies=3, paragraph_copies=1)
    direct = functools.partial(beam.run, arguments=["--runner=DirectRunner"])
    assert run(crawl, tmp_path / "local", **rules) == run(crawl, tmp_path / "beam", direct, **rules)
    assert record.read_manifest(tmp_path / "local") == record.read_manifest(tmp_path / "beam")


def test_an_interrupted_count_goes_on(crawl, tmp_path, monkeypatch):
    whole = run(crawl, tmp_path / "a", pages=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(duplicates, "repeated", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(crawl, tmp_path / "b", pages=True)
    assert list((tmp_path / "b").glob("*.census.npy"))
    assert run(crawl, tmp_path / "b", pages=True) == whole
    assert not list((tmp_path / "b").glob("*.npy"))


@pytest.mark.parametrize("seed", range(3))
def test_a_census_of_parts_is_that_of_the_whole(seed):
    rng = np.random.default_rng(seed)
    rows = [(int(key) << 56 | int(value), int(task)) for key, value, task in rng.integers(0, (3, 20, 5), (300, 3))]
    parts = [duplicates.count(rows[start : start + 70]) for start in range(0, 300, 70)]
    whole = duplicates.merge([*parts, duplicates.count([])])
    assert np.array_equal(whole, duplicates.count(rows))
    for key, count, task in whole.tolist():
        found = [t for k, t in rows if k == key]
        assert (count, task) == (len(found), min(found))
    rules = DuplicateRules(pages=True, image_copies=5, paragraph_copies=8)
    kept = duplicates.repeated(whole, rules)["key"]
    assert set(kept.tolist()) == {k for k, n, _ in whole.tolist() if n > (1, 5, 8)[k >> 56]}


@pytest.mark.parametrize("seed", range(20))
def test_positions_without_repeated_paragraphs(seed):
    """A medium still stands before the same word, or before the next one that is left."""
    rng = np.random.default_rng(seed)
    lines = [f"w{i}" if rng.random() < 0.5 else "again" for i in range(8)]
    text = "\n".join(lines)
    positions = tuple(sorted(rng.integers(0, len(text) + 1, 4).tolist()))
    raw = Raw("https://x.example/", text, positions, (None,) * 4)
    rules = DuplicateRules(paragraph_copies=1)
    twice = duplicates.merge(
        [duplicates.count((key, 0) for key in duplicates.census(Raw(raw.key, "again"), rules)) for _ in range(2)]
    )
    kept = duplicates.Duplicates(duplicates.repeated(twice, rules), np.empty(0, np.uint64), 0)
    cleaned = kept.without_repeated_paragraphs(raw)
    assert cleaned.text == "\n".join(line for line in lines if line != "again")
    assert list(cleaned.positions) == sorted(cleaned.positions)
    for old, new in zip(positions, cleaned.positions, strict=True):
        rest = [line for line in text[old:].split("\n")[1:] if line != "again"]
        assert json.dumps(cleaned.text[new:]).endswith(json.dumps("\n".join(rest))[1:])


def test_an_address_that_is_none_has_no_site():
    rules, raw = DuplicateRules(pages=True, paragraph_copies=1), Raw("http://[x", "line\nline")
    counted = duplicates.count([(key, 0) for page in (raw, raw) for key in duplicates.census(page, rules)])
    known = duplicates.Duplicates(duplicates.repeated(counted, rules), np.empty(0, np.uint64), 0)
    assert known.without_repeated_paragraphs(raw).text == ""
