"""The tokenizer: one of the `tokenizers` library, plus the five control tokens of Flamingo. Ours are byte-level BPE;
those of public language models come from ``convert/tokenizer.py``.

Control tokens stand for themselves only where this package places them: a literal ``<image>`` in a page's text is
encoded as ordinary characters, so that no web page can forge a medium or an end of chunk.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from flamingo_jax.data.file import write_whole

# <EOC> and the way <BOS> and <EOS> are placed are the paper's (2.2, A.3); the first five ids, in this order.
PAD, BOS, EOS, EOC, IMAGE = SPECIALS = ("<PAD>", "<BOS>", "<EOS>", "<EOC>", "<image>")

ROLES = ("pad", "bos", "eos", "eoc", "image")
_CONFIG = "tokenizer_config.json"  # beside a public tokenizer's file: which of its tokens have these roles

# GPT-2's pattern (Radford et al. 2019) with digits split one by one. A space belongs to the word that follows it, so
# encode("Output:") + encode(" red") == encode("Output: red"): prompts can be cut before a space without a seam.
_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Captions and the short segments of pages recur, at the latest in the next epoch; long ones are not worth the memory
# (at most some 60 MB with these limits).
_CACHED_CHARACTERS = 512
_CACHED_SEGMENTS = 16384


class Tokenizer:
    """Text to token ids and back. Picklable; equal tokenizers encode equally in every process.

    Attributes:
        pad, bos, eos, eoc, image: ids of the control tokens.
        vocab_size: number of ids V; every id is below it, unless the vocabulary has gaps.
        new_tokens: consecutive ids whose rows the bridge trains: <EOC> and, where a language model knows none of them,
            all control tokens that were added to its own.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        place: str = "this tokenizer",
        names: Mapping[str, str] | None = None,
        first_new: int | None = None,
    ):
        """Wraps a `tokenizers.Tokenizer`.

        names: role -> control token, ours when not given. first_new: the id from which on tokens are new to the
        language model; None when it was trained with all of them.

        Raises ValueError, naming ``place``, if a control token is missing.
        """
        self.names = dict(names or zip(ROLES, SPECIALS, strict=True))
        missing = [self.names[role] for role in ROLES if backend.token_to_id(self.names[role]) is None]
        if missing:
            raise ValueError(f"{place} lacks the control tokens {', '.join(missing)}; train it with tokenizer.train.")
        backend.encode_special_tokens = True  # i.e. treat a control token's name inside a text as plain characters
        backend.no_truncation()
        backend.no_padding()
        self._backend, self._plain = backend, _without_prefix(backend)
        control = {i: token.content for i, token in backend.get_added_tokens_decoder().items() if token.special}
        control |= {backend.token_to_id(name): name for name in self.names.values()}
        self._control = frozenset(control)
        # Between the first character of a control token's name and the others.
        inside = (f"(?<={re.escape(name[0])})(?={re.escape(name[1:])})" for name in control.values() if len(name) > 1)
        self._inside = re.compile("|".join(inside))
        self._first_new = first_new
        self._cache: dict[str, list[int]] = {}
        self.pad, self.bos, self.eos, self.eoc, self.image = (backend.token_to_id(self.names[role]) for role in ROLES)
        self.vocab_size: int = backend.get_vocab_size()
        new = {self.eoc} | {i for i in (self.image, self.pad) if first_new is not None and i >= first_new}
        self.new_tokens: tuple[int, ...] = tuple(sorted(new))

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; no control token is added or recognised. Never raises on any ``str``.

        The list may be shared with other calls: do not change it in place.
        """
        ids = self._cache.get(text)
        if ids is None:
            try:
                ids = self._encode(text)
            except (TypeError, UnicodeError):  # a lone surrogate, which UTF-8 cannot hold
                ids = self._encode(text.encode("utf-8", "replace").decode())
            if len(text) <= _CACHED_CHARACTERS:
                if len(self._cache) >= _CACHED_SEGMENTS:
                    self._cache.clear()
                self._cache[text] = ids
        return ids

    def _encode(self, text: str) -> list[int]:
        ids = self._plain.encode(text, add_special_tokens=False).ids
        if self._control.isdisjoint(ids):
            return ids
        # A vocabulary may hold a control token's name as a piece of text: such names are encoded in two.
        pieces = [self._plain.encode(piece, add_special_tokens=False).ids for piece in self._inside.split(text)]
        return [i for piece in pieces for i in piece]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids`` without control tokens; bytes that form no UTF-8 become U+FFFD."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def text(self) -> str:
        """All of it, for a hash."""
        return f"{self._backend.to_str()} {sorted(self.names.items())} {self._first_new}"

    def save(self, path: str | os.PathLike) -> None:
        """Writes one ``tokenizer.json`` of the `tokenizers` library, whole or not at all, and beside it, unless all
        control tokens are ours, which they are. Raises OSError."""
        write_whole(path, self._backend.to_str(pretty=True))
        if self.names != dict(zip(ROLES, SPECIALS, strict=True)) or self._first_new is not None:
            roles = {f"{role}_token": name for role, name in self.names.items()}
            text = json.dumps({**roles, "first_new_token": self._first_new}, indent=2)
            write_whole(Path(path).with_name(_CONFIG), text)

    def __reduce__(self):
        return _from_string, (self._backend.to_str(), self.names, self._first_new)


def _without_prefix(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same without the space that sentencepiece puts before every text: ours are encoded in pieces."""
    described = json.loads(backend.to_str())

    def strip(part):
        kind = (part or {}).get("type")
        if kind == "Sequence":
            for key in ("normalizers", "pretokenizers"):
                if key in part:
                    part[key] = [new for one in part[key] if (new := strip(one)) is not None]
        if kind == "Metaspace":
            part["prepend_scheme"] = "never"
        if kind == "ByteLevel":
            part["add_prefix_space"] = False
        return None if kind in ("Prepend", "Strip") else part

    before = json.dumps(described)
    for key in ("normalizer", "pre_tokenizer"):
        described[key] = strip(described[key])
    if (text := json.dumps(described)) == before:
        return backend
    plain = tokenizers.Tokenizer.from_str(text)
    plain.encode_special_tokens = True
    return plain


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a byte-level BPE tokenizer on ``texts``.

    Args:
        texts: the training text, read once; it may be a generator.
        vocab_size: wanted V. A small corpus may have too few recurring pairs to reach it: read the result's
            ``vocab_size``.

    Raises:
        ValueError: ``vocab_size`` cannot hold the control tokens and the 256 bytes, or ``texts`` is empty.
    """
    smallest = len(SPECIALS) + len(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < smallest:
        raise ValueError(f"vocab_size is {vocab_size}, but control tokens and single bytes alone need {smallest}.")
    seen = 0

    def counted():
        nonlocal seen
        for text in texts:
            seen += len(text)
            yield text.encode("utf-8", "replace").decode()

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        counted(),
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=list(SPECIALS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    if not seen:
        raise ValueError("The tokenizer was given no text to train on; check the datasets named in its config.")
    return Tokenizer(backend)


def load(path: str | os.PathLike) -> Tokenizer:
    """Reads a ``tokenizer.json``. Raises ValueError that names the file when it is missing, damaged or unsuitable."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ValueError(f"Cannot read the tokenizer {path}: {error}.") from None
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exceptions
        raise ValueError(f"{path} is not a tokenizer.json of the tokenizers library: {error}.") from None
    if backend.token_to_id(BOS) is None:
        raise ValueError(f"{path} is a public tokenizer; give its folder, whose other files name its control tokens.")
    return Tokenizer(backend, place=str(path))


def _from_string(text: str, names: Mapping[str, str], first_new: int | None) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(text), names=names, first_new=first_new)
