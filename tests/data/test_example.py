"""Examples: layout, phi, windows, coin flips, media, and what happens to what cannot be read."""

import copy
import io

import numpy as np
import pytest
from PIL import Image

from flamingo_jax.config import ExampleConfig
from flamingo_jax.data import example as example_
from flamingo_jax.data import tokenizer as tokenizer_
from flamingo_jax.data.document import Document
from flamingo_jax.data.example import make_example
from flamingo_jax.data.layout import Chunk, lay_out, media_index, split

BAD = b"no image"


@pytest.fixture(scope="module")
def tokenizer():
    words = "a dog cat see one two three four five six seven".split()
    return tokenizer_.train([text for word in words for text in (word, f"x {word}")] * 50, 400)  # a word is a token


def picture(value, width=8, height=8):
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def page(texts, media=None):
    """A document of alternating text and media: texts[0], medium 1, texts[1], medium 2, ..."""
    positions = tuple(int(n) for n in np.cumsum([len(text) for text in texts[:-1]]))
    media = media or [(picture(10 * (i + 1)),) for i in range(len(texts) - 1)]
    return Document("page", "".join(texts), positions, tuple(media), "test")


def names(tokens, tokenizer):
    """Readable form: control tokens by name, one letter x per token of text."""
    known = {tokenizer.pad: "_", tokenizer.bos: "B", tokenizer.eos: "E", tokenizer.eoc: "|", tokenizer.image: "*"}
    return "".join(known.get(int(token), "x") for token in tokens)


def make(document, tokenizer, seed=0, **config):
    config = {"length": 16, "media": 3, "size": 8, "p_next": 0.0} | config
    return make_example(document, np.random.default_rng(seed), tokenizer, ExampleConfig(**config))


def test_layout_as_in_the_papers_figure(tokenizer):
    tokens = lay_out([Chunk("see", False), Chunk(" a dog\n"), Chunk("a cat")], tokenizer)
    index = media_index(tokens, tokenizer.image)
    text = tokenizer.encode
    assert tokens.tolist() == [1, *text("see"), 3, 4, *text("a dog"), 3, 4, *text("a cat"), 3, 2]
    dog = 1 + len(text("see")) + 1
    cat = dog + 1 + len(text("a dog")) + 1
    assert index.tolist() == [0] * dog + [1] * (cat - dog) + [2] * (len(tokens) - cat)


def test_layout_of_prompts(tokenizer):
    def lay(chunks, **options):
        tokens = lay_out(chunks, tokenizer, **options)
        return tokens.tolist()

    whole = lay([("a dog", True), ("a cat", True)])
    assert lay([("a dog ", True), (" a", True)], closed=False) + tokenizer.encode(" cat") + [3, 2] == whole
    assert lay([("", False), ("", True)], closed=False) == [1, 4]
    assert lay([("", True), ("", True)]) == [1, 4, 3, 4, 3, 2]
    assert lay([("one", False), ("two", False), ("", True)], closed=False) == (
        [1, *tokenizer.encode("one"), 3, *tokenizer.encode("two"), 3, 4]
    )
    assert lay([("a dog", True)], leading_space=True) == [1, 4, *tokenizer.encode(" a dog"), 3, 2]
    assert lay([]) == [1, 2]


def test_media_index_of_both_sides():
    tokens = np.array([1, 9, 3, 4, 9, 9, 3, 4, 9, 3, 2])
    assert media_index(tokens, 4).tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert media_index(tokens, 4, following=True).tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0]
    assert media_index(tokens[:2], 4, following=True).tolist() == [0, 0]
    assert media_index(tokens[:0], 4, following=True).tolist() == []


def test_page(tokenizer):
    out = make(page(["see \n", "\n a dog\n", "a cat "]), tokenizer)
    assert names(out["tokens"], tokenizer) == "Bx|*xx|*xx|E____"
    assert out["media_index"].tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0, 0, 0]
    assert out["weights"].tolist() == [0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    assert out["media_mask"].tolist() == [True, True, False]
    assert (out["media"][:, 0, 0, 0] == [[10] * 3, [20] * 3, [124, 116, 104]]).all()
    assert {key: (value.shape, value.dtype.name) for key, value in out.items()} == {
        "tokens": ((16,), "int32"),
        "weights": ((16,), "float32"),
        "media": ((3, 1, 8, 8, 3), "uint8"),
        "media_index": ((16,), "int32"),
        "media_mask": ((3,), "bool"),
        "segments": ((16,), "int32"),
        "unreadable": ((2,), "int32"),
    }


def test_next_medium(tokenizer):
    out = make(page(["see", "a dog", "a cat"]), tokenizer, p_next=1.0)
    assert names(out["tokens"], tokenizer) == "Bx|*xx|*xx|E____"
    assert out["media_index"].tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0]


def test_p_next_is_a_coin_per_document(tokenizer):
    document = page(["see", "a dog"])
    following = [make(document, tokenizer, seed, p_next=0.3)["media_index"][0] == 1 for seed in range(400)]
    assert 0.2 < np.mean(following) < 0.4


def test_captions_never_refer_to_a_next_medium(tokenizer):
    for seed in range(5):
        out = make(page(["", "a dog"]), tokenizer, seed, p_next=1.0)
        assert names(out["tokens"], tokenizer)[:6] == "B*xx|E"
        assert out["media_index"][:6].tolist() == [0, 1, 1, 1, 1, 1]


def test_leading_space_of_captions(tokenizer):
    document = page(["", " dog"])
    seen = [make(document, tokenizer, seed, leading_space=0.5)["tokens"].tolist() for seed in range(200)]
    spaced = [1, 4, *tokenizer.encode(" dog"), 3, 2]
    plain = [1, 4, *tokenizer.encode("dog"), 3, 2]
    starts = [tokens[: len(spaced)] == spaced for tokens in seen]
    assert all(start or tokens[: len(plain)] == plain for start, tokens in zip(starts, seen, strict=True))
    assert 70 < sum(starts) < 130


def test_long_captions_keep_their_medium(tokenizer):
    for seed in range(5):
        out = make(page(["", "one two three four five"]), tokenizer, seed, length=5)
        assert names(out["tokens"], tokenizer) == "B*xxx"
        assert out["weights"].tolist() == [0, 0, 1, 1, 1]


def test_windows_of_long_pages(tokenizer):
    texts = ["one", "two", "three", "four", "five", "six"]
    document = page(texts)  # <BOS>one|*two|*three|*four|*five|*six|<EOS>: 21 tokens
    whole = lay_out(split(document), tokenizer)
    whole = whole.tolist()
    starts = set()
    for seed in range(200):
        out = make(document, tokenizer, seed, length=10, media=5)
        tokens = out["tokens"].tolist()
        start = next(i for i in range(len(whole) - 9) if whole[i : i + 10] == tokens)
        starts.add(start)
        first = whole[:start].count(tokenizer.image)
        count = tokens.count(tokenizer.image)
        assert out["media_mask"].tolist() == [i < count for i in range(5)]
        assert out["media"][:count, 0, 0, 0, 0].tolist() == [10 * (first + i + 1) for i in range(count)]
        assert out["media_index"].tolist() == media_index(out["tokens"], tokenizer.image).tolist()
        assert out["weights"][0] == 0
    assert starts == set(range(len(whole) - 9))


def test_media_beyond_the_limit(tokenizer):
    out = make(page(["see", "one", "two", "three"]), tokenizer, media=2)
    assert names(out["tokens"], tokenizer) == "Bx|*x|*x|x|E____"
    assert out["media_index"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0]
    assert out["weights"].tolist() == [0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    out = make(page(["see", "one", "two", "three"]), tokenizer, media=2, p_next=1.0)
    assert out["media_index"].tolist() == [1, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    assert out["weights"].tolist() == [0, 1, 1, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0]


def test_text_alone(tokenizer):
    out = make(Document("text", " a dog\na cat\n"), tokenizer, media=0)
    text = tokenizer.encode("a dog\na cat")
    assert out["tokens"][: len(text) + 2].tolist() == [1, *text, 2]
    assert out["weights"].tolist() == [0.0] + [1.0] * (len(text) + 1) + [0.0] * (14 - len(text))
    assert out["media"].shape == (0, 1, 8, 8, 3) and out["media_mask"].shape == (0,)
    assert not out["media_index"].any()
    paged = make(page([" a dog\n", "a cat\n"]), tokenizer, media=0)
    assert (paged["tokens"] == out["tokens"]).all()


def test_the_end_counts_where_one_token_begins_and_ends(tokenizer):
    """As in GPT-2 and OPT."""
    one = copy.copy(tokenizer)
    one.bos = one.eos
    for document in (page(["", "a dog"]), Document("text", "a dog", (), (), "test")):
        row, other = make(document, one), make(document, tokenizer)
        assert row["weights"][row["tokens"] == one.eos].tolist() == [0, 1]
        assert (row["weights"] == other["weights"]).all()


def test_a_forged_tag_is_text(tokenizer):
    out = make(page(["", "a<image>b<EOC>"]), tokenizer, length=32)
    assert (out["tokens"] == tokenizer.image).sum() == 1
    assert (out["tokens"] == tokenizer.eoc).sum() == 1
    assert out["media_index"].max() == 1


def test_bad_medium_is_blank_and_weightless(tokenizer):
    out = make(page(["see", "a dog", "a cat"], [(BAD,), (picture(20),)]), tokenizer)
    assert out["media_mask"].tolist() == [False, True, False]
    assert out["weights"].tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    assert (out["media"][0] == np.array([124, 116, 104])).all()
    assert out["unreadable"].tolist() == [0, 1]


def test_clips(tokenizer):
    def clip(count, seed=0):
        document = page(["", "a dog"], [tuple(picture(i) for i in range(count))])
        return make(document, tokenizer, seed, frames=4)["media"][0, :, 0, 0, 0].tolist()

    assert clip(4) == [0, 1, 2, 3]
    assert clip(2) == [0, 1, 1, 1]
    assert {tuple(clip(6, seed)) for seed in range(40)} == {(0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5)}
    still = make(page(["", "a dog"], [tuple(picture(i) for i in range(3))]), tokenizer, frames=1)
    assert still["media"].shape == (3, 1, 8, 8, 3)


def test_aspect_is_kept_and_padded_with_the_mean(tokenizer):
    out = make(page(["", "a dog"], [(picture(7, width=16, height=8),)]), tokenizer)["media"][0, 0]
    assert (out[2:6] == 7).all() and (out[:2] == [124, 116, 104]).all() and (out[6:] == [124, 116, 104]).all()


def test_same_seed_same_example(tokenizer):
    document = page(["one two three", "four", "five six", "seven"])
    for seed in range(5):
        first, second = (make(document, tokenizer, seed, length=8, p_next=0.5, leading_space=0.5) for _ in range(2))
        assert all((first[key] == second[key]).all() for key in first)


def test_empty_batch():
    batch = example_.empty_batch(ExampleConfig(16, 2, 3, 8, fill=(1, 2, 3)), 4, pad=7)
    assert batch["tokens"].shape == (4, 16) and (batch["tokens"] == 7).all()
    assert batch["media"].shape == (4, 2, 3, 8, 8, 3) and (batch["media"] == [1, 2, 3]).all()
