"""Public tokenizers: found in a folder, or built from its vocabulary files; ``<EOC>`` and ``<image>`` are added."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from flamingo_jax.convert import sentencepiece
from flamingo_jax.convert.public import read_json
from flamingo_jax.data.tokenizer import BOS, EOC, IMAGE, PAD, ROLES, SPECIALS, Tokenizer

# What whole models of others call what ends a chunk, or a document.
_ENDS = (EOC, "<|endofchunk|>", "<end_of_utterance>")


def load_tokenizer(folder: pathlib.Path, end: str = EOC) -> Tokenizer | None:
    """The tokenizer of a public folder, or of ours; None when it has none.

    Control tokens are those that ``tokenizer_config.json``, ``special_tokens_map.json`` or ``config.json`` name. What
    is missing of ``end``, ``<image>`` and a padding token of its own gets the ids after the last, in this order.
    Without a token that begins a text, the one that ends it stands there too.

    Raises ValueError for damaged files, and when no token ends a text.
    """
    backend = _backend(folder)
    if backend is None:
        return None
    names = {role: name for role, name in _names(folder, backend).items() if backend.token_to_id(name) is not None}
    if BOS in map(backend.id_to_token, range(len(SPECIALS))):  # ours
        return Tokenizer(backend, str(folder))
    if "eos" not in names:
        raise ValueError(f"{folder}: no file names the token that ends a text (eos_token in tokenizer_config.json).")
    names.setdefault("bos", names["eos"])
    names.setdefault("eoc", next((name for name in _ENDS if backend.token_to_id(name) is not None), end))
    names.setdefault("image", IMAGE)
    if names.get("pad") in (None, names["eos"], names["bos"]):
        names["pad"] = PAD
    first = _read(folder / "tokenizer_config.json").get("first_new_token")
    if first is not None and type(first) is not int:
        raise ValueError(f"{folder}/tokenizer_config.json: first_new_token must be an id, but is {first!r}.")
    first = backend.get_vocab_size() if first is None else first
    added = [name for name in (names["eoc"], names["image"], names["pad"]) if backend.token_to_id(name) is None]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in added])
    return Tokenizer(backend, str(folder), names, first)


def _backend(folder: pathlib.Path) -> tokenizers.Tokenizer | None:
    """The library's object of the first kind of files that the folder has."""
    for build, *names in _FILES:
        files = [folder / name for name in names]
        if all(file.exists() for file in files):
            try:
                return build(*files)
            except Exception as error:  # the libraries raise bare Exceptions
                raise ValueError(f"{files[0]} is no whole file of a tokenizer: {error}.") from None
    return None


def _with_added(backend: tokenizers.Tokenizer, folder: pathlib.Path) -> tokenizers.Tokenizer:
    """The tokens that stand beside a vocabulary. Raises ValueError when they cannot have the ids that they should."""
    given = _read(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
    added = {int(i): (token["content"], token.get("special", True)) for i, token in given.items()}
    added |= {i: (name, True) for name, i in _read(folder / "added_tokens.json").items() if i not in added}
    for i, (name, special) in sorted(added.items()):
        if backend.token_to_id(name) is None:
            backend.add_tokens([AddedToken(name, special=special, normalized=False)])
        if backend.token_to_id(name) != i:
            raise ValueError(f"the token {name!r} must have the id {i}, but gets {backend.token_to_id(name)}")
    return backend


def _from_json(file: pathlib.Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))


def _from_vocabulary(vocabulary: pathlib.Path, merges: pathlib.Path) -> tokenizers.Tokenizer:
    """GPT-2's byte-level pairs."""
    backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _with_added(backend, vocabulary.parent)


def _from_sentencepiece(file: pathlib.Path) -> tokenizers.Tokenizer:
    """sentencepiece's pairs (LLaMA) or unigrams."""
    proto = sentencepiece.parse(file.read_bytes())
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    unknown = next(i for i, piece in enumerate(proto.pieces) if piece.type == sentencepiece.UNKNOWN)
    fallback = proto.trainer_spec.byte_fallback
    if proto.trainer_spec.model_type == sentencepiece.BPE:
        vocabulary = {piece: i for i, (piece, _) in enumerate(pieces)}
        backend = tokenizers.Tokenizer(
            models.BPE(
                vocabulary,
                _merges(pieces, vocabulary),
                unk_token=pieces[unknown][0],
                fuse_unk=True,
                byte_fallback=fallback,
            )
        )
    else:
        backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=fallback))
    steps = []
    if proto.normalizer_spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap))
    if proto.normalizer_spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    if proto.normalizer_spec.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    own = [piece.piece for piece in proto.pieces if piece.type == sentencepiece.USER_DEFINED]
    backend.add_tokens([AddedToken(name, normalized=False) for name in own])
    control = [piece.piece for piece in proto.pieces if piece.type in (sentencepiece.CONTROL, sentencepiece.UNKNOWN)]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in control])
    return _with_added(backend, file.parent)


def _merges(pieces: list[tuple[str, float]], vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """The pairs that make every piece, the most probable piece first."""
    out = []
    for piece, score in pieces:
        splits = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        splits = [(left, right) for left, right in splits if left in vocabulary and right in vocabulary]
        splits.sort(key=lambda split: (vocabulary[split[0]], vocabulary[split[1]]))
        out += [(score, split) for split in splits]
    return [split for _, split in sorted(out, key=lambda item: -item[0])]


# How to build a tokenizer, and the files that it needs.
_FILES = (
    (_from_json, "tokenizer.json"),
    (_from_sentencepiece, "tokenizer.model"),
    (_from_vocabulary, "vocab.json", "merges.txt"),
)


def _read(file: pathlib.Path) -> dict[str, Any]:
    """A file's object, empty where there is no file."""
    return read_json(file) if file.exists() else {}


def _names(folder: pathlib.Path, backend: tokenizers.Tokenizer) -> dict[str, str]:
    """role -> control token, as the folder's files have it."""
    out = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        given = _read(folder / file)
        for role in ROLES:
            name = given.get(f"{role}_token")
            name = name.get("content") if isinstance(name, dict) else name
            if isinstance(name, str):
                out[role] = name
    config = _read(folder / "config.json")
    for role in ROLES:
        number = config.get(f"{role}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        known = type(number) is int and 0 <= number < 2**31 and backend.id_to_token(number) is not None
        if role not in out and known:
            out[role] = backend.id_to_token(number)
    return out
