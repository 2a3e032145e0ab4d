"""Prompts are the training examples' sequences, cut before the answer."""

import numpy as np
import pytest

from flamingo_jax.config import EvaluationConfig, ExampleConfig
from flamingo_jax.data.document import Document
from flamingo_jax.data.example import make_example
from flamingo_jax.evaluation import prompts
from flamingo_jax.evaluation.tasks import Episode, Example

NEEDED = dict(tasks=(), benchmarks="", image_dataset="", clip_dataset="")
CONFIG = EvaluationConfig(**NEEDED)
EPISODE = Episode(
    (Example("a", "a.png", "red", "what colour is it?"), Example("b", "b.png", "blue", "what colour is it?")),
    Example("q", "q.png", "green", "what colour is it?"),
    candidates=("red", "green"),
)


@pytest.mark.parametrize("form", ["output", "question"])
def test_prompt_and_answer_are_the_training_sequence(form, vocabulary):
    template = prompts.template(CONFIG, form)
    examples = [*EPISODE.shots, EPISODE.query]
    # A page as it is prepared: media before paragraphs, white space between them.
    texts = [template.whole(example.question, example.answer) for example in examples]
    text, positions = "", []
    for part in texts:
        positions.append(len(text))
        text += f"{part}\n"
    page = Document("page", text, tuple(positions), ((b"",),) * 3, "page.html")
    config = ExampleConfig(length=64, media=3, size=8, p_next=0.0)
    example = make_example(page, np.random.default_rng(0), vocabulary, config)

    prompt = prompts.build(EPISODE, template, vocabulary)
    answer = prompts.candidate_tokens(EPISODE, template, vocabulary)[1]
    whole = [*prompt.tokens, *answer]
    assert example["tokens"][: len(whole) + 1].tolist() == [*whole, vocabulary.eos]
    assert example["media_index"][: len(prompt.tokens)].tolist() == prompt.media_index.tolist()
    assert prompt.media == ("a.png", "b.png", "q.png")
    assert vocabulary.decode(prompt.tokens).endswith({"output": "Output:", "question": "Answer:"}[form])


def test_text_only_shots_have_no_media(vocabulary):
    shots = tuple(Example(shot.id, None, shot.answer) for shot in EPISODE.shots)
    prompt = prompts.build(Episode(shots, EPISODE.query), prompts.template(CONFIG, "output"), vocabulary)
    tags = prompt.tokens == vocabulary.image
    assert tags.sum() == 1 and prompt.media == ("q.png",)
    assert (prompt.tokens[: tags.argmax()] == vocabulary.eoc).sum() == 2
    assert prompt.media_index.tolist() == np.cumsum(tags).tolist()


def test_templates():
    form = prompts.template(EvaluationConfig(**NEEDED, caption_template="it is {answer}."), "output")
    assert (form.head, form.gap, form.tail) == ("it is", " ", ".")
    assert form.whole("", "red") == "it is red." and form.answer("red") == " red."
    assert form.extract(" red. ") == "red"
    bare = prompts.template(EvaluationConfig(**NEEDED, caption_template="{answer}"), "output")
    assert bare.ask("") == "" and bare.answer("red") == "red" and bare.extract("red.") == "red."


@pytest.mark.parametrize("text", ["Output:", "{answer} {answer}", "{question}{answer}", "{answer", "{}"])
def test_bad_templates_are_named(text):
    with pytest.raises(ValueError, match="caption_template="):
        prompts.template(EvaluationConfig(**NEEDED, caption_template=text), "output")


def test_stack_pads_on_the_left(vocabulary):
    short, long = (prompts.Prompt(np.arange(5, 5 + n), np.ones(n, np.int32), ()) for n in (2, 4))
    batch = prompts.stack([short, long], vocabulary, 5)
    pad = vocabulary.pad
    assert batch["tokens"].tolist() == [[pad, pad, pad, 5, 6], [pad, 5, 6, 7, 8]]
    assert batch["mask"].tolist() == [[False] * 3 + [True] * 2, [False] + [True] * 4]
    assert batch["media_index"].tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]]
    assert prompts.padded_length([short, long]) == 32
