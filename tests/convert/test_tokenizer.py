"""Tokenizers of public models: read from whatever files they come in, with Flamingo's control tokens behind theirs."""

import json
import pickle

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from flamingo_jax.convert.tokenizer import load_tokenizer
from flamingo_jax.data import tokenizer as own

TEXTS = ["The cat sat on the mat, the dog did not.", "Ein Igel läuft übers Feld.", "1 + 1 = 2"] * 50
SEEN = ["the cat", " the dog", "übers Feld", "A  B\n", "猫 🐈"]


def byte_level(vocab_size=400):
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend


@pytest.fixture
def folder(tmp_path):
    """A public tokenizer with an end alone."""
    byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|end|>"}}))
    return tmp_path


def test_control_tokens_come_after_the_last(folder):
    found, plain = load_tokenizer(folder), byte_level()
    size = plain.get_vocab_size()
    assert (found.eoc, found.image, found.pad) == (size, size + 1, size + 2) == found.new_tokens
    assert found.bos == found.eos == plain.token_to_id("<|end|>")
    assert found.vocab_size == size + 3
    for text in SEEN:
        assert found.encode(text) == plain.encode(text).ids and found.decode(found.encode(text)) == text
    assert max(found.encode("<image> and <EOC> and <|end|> are text here")) < size
    assert found.eos not in found.encode("<|end|>")


def test_a_padding_token_of_its_own_is_kept(folder):
    backend = byte_level()
    backend.add_special_tokens(["<|pad|>"])
    backend.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<|pad|>", "bos_token": None, "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    found, size = load_tokenizer(folder), backend.get_vocab_size()
    assert found.pad == size - 1 and found.new_tokens == (found.eoc, found.image) == (size, size + 1)


def test_what_is_saved_is_read_as_it_was(folder, tmp_path):
    found = load_tokenizer(folder)
    (tmp_path / "saved").mkdir()
    found.save(tmp_path / "saved" / "tokenizer.json")
    for other in (load_tokenizer(tmp_path / "saved"), pickle.loads(pickle.dumps(found))):
        assert [getattr(other, role) for role in own.ROLES] == [getattr(found, role) for role in own.ROLES]
        assert (other.new_tokens, other.vocab_size) == (found.new_tokens, found.vocab_size)
        assert [other.encode(text) for text in SEEN] == [found.encode(text) for text in SEEN]
    with pytest.raises(ValueError, match="is a public tokenizer; give its folder"):
        own.load(tmp_path / "saved" / "tokenizer.json")


def test_ours_is_read_as_ours(tmp_path):
    trained = own.train(TEXTS, 300)
    trained.save(tmp_path / "tokenizer.json")
    found = load_tokenizer(tmp_path)
    assert found.new_tokens == trained.new_tokens == (trained.eoc,) and found.eoc == 3
    assert not (tmp_path / "tokenizer_config.json").exists()


@pytest.mark.parametrize("file", ["special_tokens_map.json", "config.json"])
def test_control_tokens_named_elsewhere(folder, file):
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="no file names the token that ends a text"):
        load_tokenizer(folder)
    content = {"eos_token_id": [0, 7]} if file == "config.json" else {"eos_token": "<|end|>"}
    (folder / file).write_text(json.dumps(content))
    assert load_tokenizer(folder).eos == 0


@pytest.mark.parametrize("end", ["<|endofchunk|>", "<end_of_utterance>"])
def test_what_others_call_the_end_of_a_chunk(folder, end):
    backend = byte_level()
    backend.add_special_tokens(["<fake_token_around_image>", "<image>", end])
    backend.save(str(folder / "tokenizer.json"))
    found = load_tokenizer(folder)
    assert found.eoc == backend.token_to_id(end) and found.image == backend.token_to_id("<image>")


def test_vocabulary_and_merges(tmp_path):
    backend = byte_level()
    backend.model.save(str(tmp_path))
    (tmp_path / "config.json").write_text('{"eos_token_id": 0}')
    found = load_tokenizer(tmp_path)
    for text in SEEN:
        assert found.encode(text) == backend.encode(text).ids and found.decode(found.encode(text)) == text


def test_no_text_is_cut_or_padded(folder):
    """As some public files would have it."""
    backend = byte_level()
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    backend.save(str(folder / "tokenizer.json"))
    found = load_tokenizer(folder)
    assert found.encode("the cat sat on the mat") == byte_level().encode("the cat sat on the mat").ids


def test_text_cannot_forge_control_tokens_that_a_public_file_has(folder):
    """Added ones that it does not call special."""
    backend = byte_level()
    backend.add_tokens(["<image>", "<EOC>"])
    backend.save(str(folder / "tokenizer.json"))
    found = load_tokenizer(folder)
    text = "a <image> b <EOC><|end|>"
    assert (
        not {found.image, found.eoc, found.eos} & set(found.encode(text)) and found.decode(found.encode(text)) == text
    )


def test_tokens_beside_a_vocabulary_keep_their_ids(tmp_path):
    backend = byte_level()
    backend.model.save(str(tmp_path))
    size = backend.get_vocab_size()
    (tmp_path / "config.json").write_text('{"eos_token_id": 0, "pad_token_id": -1}')
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<image>": size + 1, "<|start|>": size}))
    found = load_tokenizer(tmp_path)
    assert (found.image, found.eoc, found.pad) == (size + 1, size + 2, size + 3)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<image>": size + 5}))
    with pytest.raises(ValueError, match="the token '<image>' must have the id"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_sentencepiece(tmp_path, kind):
    """The library's own ids, piece by piece and without the space that it puts before a text."""
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "tokenizer"), vocab_size=330, model_type=kind,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        hard_vocab_limit=False, user_defined_symbols=["<table>"],
    )  # fmt: skip
    (tmp_path / "config.json").write_text('{"eos_token_id": 2, "bos_token_id": 1}')
    peer = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    found = load_tokenizer(tmp_path)
    assert (found.bos, found.eos) == (peer.bos_id(), peer.eos_id()) and found.eoc == peer.vocab_size()
    for text in (*SEEN, "the <table>x"):
        # The peer's dummy space and a first one of the text's own look alike.
        expected = peer.encode(text.removeprefix(" "))
        assert found.encode(" " + text.removeprefix(" ")) == expected, text
        assert found.decode(expected).strip() == peer.decode(expected).strip()
    assert found.encode("the cat") + found.encode(" sat") == found.encode("the cat sat")
    assert not {found.bos, found.eos} & set(found.encode("a </s> b <s>"))


def test_metaspace_adds_no_space_between_pieces(folder):
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<|end|>"], show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    backend.save(str(folder / "tokenizer.json"))
    found = load_tokenizer(folder)
    assert found.encode("the cat") + found.encode(" sat") == found.encode("the cat sat")
    assert backend.encode("the cat").ids == found.encode(" the cat")


def test_damaged_files_are_named(folder, tmp_path):
    assert load_tokenizer(tmp_path / "nothing") is None
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match="tokenizer_config.json is no JSON"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="tokenizer.json is no whole file of a tokenizer"):
        load_tokenizer(folder)
