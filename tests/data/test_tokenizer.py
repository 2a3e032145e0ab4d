"""The tokenizer: round trips, control tokens that text cannot forge, seams, files."""

import pickle

import pytest

from flamingo_jax.data import tokenizer as tokenizers_

TEXTS = [
    "one small red striped circle on the left.",
    "Output: dax",
    "Question: what colour is it? Answer: red",
    "apple dax\nkettle wug\napple dax",
    "two large blue dotted stars.",
] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers_.train(TEXTS, 400)


def test_specials_come_first_in_order(tokenizer):
    assert (tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.eoc, tokenizer.image) == (0, 1, 2, 3, 4)
    assert 261 <= tokenizer.vocab_size <= 400


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Output: dax",
        "  two  spaces \n",
        "12345",
        "grüße, 世界 🦩",
        "a\x00b",
        "<image> and <EOC><PAD>",
        "e\u0301",
    ],
)
def test_round_trip_without_forged_control_tokens(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {0, 1, 2, 3, 4} & set(ids)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


def test_decode_skips_control_tokens(tokenizer):
    assert tokenizer.decode([1, 4, *tokenizer.encode("dax"), 3, 2, 0]) == "dax"


def test_lone_surrogate_does_not_raise(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"


def test_no_seam_before_a_space(tokenizer):
    joined = tokenizer.encode("Question: what colour is it? Answer: red")
    assert tokenizer.encode("Question: what colour is it? Answer:") + tokenizer.encode(" red") == joined
    assert len(tokenizer.encode(" red")) == 1


def test_digits_are_single_tokens(tokenizer):
    assert len(tokenizers_.train(["1234 1234"] * 50, 400).encode("1234")) == 4


def test_training_save_load_and_pickle_agree(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]
    others = [tokenizers_.load(path), pickle.loads(pickle.dumps(tokenizer)), tokenizers_.train(iter(TEXTS), 400)]
    for other in others:
        assert other.vocab_size == tokenizer.vocab_size
        for text in [*TEXTS[:5], "<image> never seen"]:
            assert other.encode(text) == tokenizer.encode(text)
            assert other.encode(text) == tokenizer.encode(text)  # the second time from the cache


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match="vocab_size is 260"):
        tokenizers_.train(TEXTS, 260)
    with pytest.raises(ValueError, match="no text"):
        tokenizers_.train([], 300)
    with pytest.raises(ValueError, match="absent.json"):
        tokenizers_.load(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match="bad.json"):
        tokenizers_.load(tmp_path / "bad.json")
