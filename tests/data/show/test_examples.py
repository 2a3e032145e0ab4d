"""Rows as a page: every token, medium and weight of a batch is there."""

import base64
import html
import io
import re

import numpy as np
import pytest
from PIL import Image
from written import write

from flamingo_jax.config import ExampleConfig, MixConfig, StreamsConfig
from flamingo_jax.data import image, record, stream, tokenizer
from flamingo_jax.data.document import Document
from flamingo_jax.data.show import examples


def picture(level):
    return image.encode(np.full((8, 8, 3), level, np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("show")
    texts = ["see <b>one</b> thing", "two näive dogs", "three"]
    write(path / "data", (Document(t, t, (0,), ((picture(60 * i) if i else b"bad",),)) for i, t in enumerate(texts)), 1)
    tokenizer.train(texts * 20, 300).save(path / "tokenizer.json")
    return path


def plain(page):
    """The page's text without its tags."""
    return html.unescape(re.sub("<[^>]*>", "", page.split("</h1>")[1]))


@pytest.mark.parametrize("mix", [MixConfig(3), MixConfig(3, pack=3, row_length=70)], ids=["plain", "packed"])
def test_all_that_the_model_sees_is_on_the_page(folder, mix):
    vocabulary = tokenizer.load(folder / "tokenizer.json")
    example = ExampleConfig(length=40, size=8)
    streams = StreamsConfig(threads=0)
    batch = next(stream.stream(record.Source(folder / "data"), vocabulary, example, mix, seed=0, streams=streams))
    page = examples.render("<title>", batch, vocabulary)
    text = plain(page)
    for caption in ("see <b>one</b> thing", "two näive dogs", "three"):
        assert f"<image>{caption}<EOC><EOS>" in text
    assert "<b>" not in page and "&lt;title&gt;" in page
    assert text.count("<BOS>") == 3 and text.count("<image>") == 3 and "1 media unreadable" in text
    assert 'class="weightless">see &lt;b&gt;one&lt;/b&gt; thing</span>' in page  # its picture cannot be read
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(d)))) for d in re.findall(r"base64,([^\"]*)", page)]
    levels = sorted(int(pixels.mean()) for pixels in shown)
    assert np.allclose(levels, [60, 115, 120], atol=1)  # the blank has the mean value
    assert ("document 2, phi = 2" in text) == (mix.pack > 1)
