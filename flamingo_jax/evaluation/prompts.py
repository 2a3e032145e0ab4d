"""Prompts: an episode becomes tokens, laid out by the very function that lays out the training examples."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flamingo_jax.config import EvaluationConfig
from flamingo_jax.data.layout import Chunk, lay_out, media_index
from flamingo_jax.data.tokenizer import Tokenizer
from flamingo_jax.evaluation.tasks import Episode
from flamingo_jax.inference.decoding import bucket

# The form of a task -> the key of its template in the configuration, and the fields that it fills in.
_FORMS = {"output": ("caption_template", ["answer"]), "question": ("vqa_template", ["question", "answer"])}


class Template(NamedTuple):
    """``head`` ends where the answer begins, white space excluded; ``gap`` is that white space, ``tail`` the rest.

    A prompt is cut before the space: in the training text the space belongs to the word that follows it, so a prompt
    that ends in a space would be another sequence of tokens than any that the model has seen.
    """

    head: str
    gap: str
    tail: str

    def whole(self, question: str, answer: str) -> str:
        return self.ask(question) + self.answer(answer)

    def ask(self, question: str) -> str:
        return self.head.format(question=question)

    def answer(self, answer: str) -> str:
        return self.gap + answer + self.tail

    def extract(self, generated: str) -> str:
        """The answer in a continuation of ``ask``."""
        text = generated.strip()
        return text.removesuffix(self.tail.strip()).strip() if self.tail.strip() else text


class Prompt(NamedTuple):
    """tokens, media_index: int32 [M]. media: what the indices 1, 2, .. stand for, as the episode names them."""

    tokens: np.ndarray
    media_index: np.ndarray
    media: tuple[str, ...]


def template(config: EvaluationConfig, form: str) -> Template:
    """The template of a form, ``output`` or ``question``. Raises ValueError when it lacks or misnames a field."""
    key, fields = _FORMS[form]
    text = getattr(config, key)
    try:
        found = [field for _, field, _, _ in string.Formatter().parse(text) if field is not None]
    except ValueError as error:
        raise ValueError(f"config.evaluation.{key}={text!r} is no template: {error}.") from None
    if found != fields:
        wanted = " then ".join(f"{{{field}}}" for field in fields)
        raise ValueError(f"config.evaluation.{key}={text!r} must hold {wanted}, each once, and no other field.")
    before, tail = text.split("{answer}")
    head = before.rstrip()
    return Template(head, before[len(head) :], tail.format())


def build(episode: Episode, form: Template, tokenizer: Tokenizer) -> Prompt:
    """``<BOS><image>Output: a<EOC><image>Output: b<EOC><image>Output:``; text-only shots go without ``<image>``."""
    chunks = [Chunk(form.whole(shot.question, shot.answer), shot.medium is not None) for shot in episode.shots]
    chunks.append(Chunk(form.ask(episode.query.question), episode.query.medium is not None))
    tokens = lay_out(chunks, tokenizer, closed=False)
    media = tuple(example.medium for example in (*episode.shots, episode.query) if example.medium is not None)
    return Prompt(tokens, media_index(tokens, tokenizer.image), media)


def stack(prompts: Sequence[Prompt], tokenizer: Tokenizer, length: int) -> dict[str, np.ndarray]:
    """Left-padded to ``length``: tokens and media_index int32 [B, L], mask bool [B, L], False where padded."""
    shape = (len(prompts), length)
    out = {"tokens": np.full(shape, tokenizer.pad, np.int32), "media_index": np.zeros(shape, np.int32)}
    out["mask"] = np.zeros(shape, bool)
    for row, prompt in enumerate(prompts):
        start = length - len(prompt.tokens)
        out["tokens"][row, start:] = prompt.tokens
        out["media_index"][row, start:] = prompt.media_index
        out["mask"][row, start:] = True
    return out


def padded_length(prompts: Sequence[Prompt]) -> int:
    """The length that all ``prompts`` are padded to, so that few shapes compile."""
    return bucket(max(len(prompt.tokens) for prompt in prompts))


def candidate_tokens(episode: Episode, form: Template, tokenizer: Tokenizer) -> list[list[int]]:
    """Every candidate as it would follow the prompt, ``<EOC>`` included."""
    return [[*tokenizer.encode(form.answer(answer)), tokenizer.eoc] for answer in episode.candidates]
