"""The few-shot tasks: what a prompt shows, what it asks and which answers are right.

A task draws one *episode* per query item: support examples picked at random and in random order, anew for every query
(the paper's protocol, 3.1 and B.1.5), as a pure function of (seed, task, shots, query id). Batch sizes, hosts and the
other tasks have no part in it, and a task's controls see the very episodes that they control.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterable

import numpy as np

from flamingo_jax.config import suggest
from flamingo_jax.evaluation.benchmark import Benchmark, Item

BLANK = "<blank>"  # in place of a medium's path: a medium that shows nothing but the fill colour
INDUCED = ("shape", "colour", "texture")  # what the shots of an induction episode may ask for


@dataclasses.dataclass(frozen=True)
class Example:
    """A medium with its question (or none) and answer. medium: a path, BLANK, or None for text alone."""

    id: str
    medium: str | None
    answer: str
    question: str = ""


@dataclasses.dataclass(frozen=True)
class Episode:
    """One prompt: the shots, in order, and the query, whose answer is to be found.

    candidates: the answers to choose from, or none when the answer is open-ended only. original: what the answer was
    before a control changed it. spare: media of the episode's classes that no shot shows (for the shuffled control).
    """

    shots: tuple[Example, ...]
    query: Example
    candidates: tuple[str, ...] = ()
    original: str = ""
    spare: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Task:
    """One way to use a benchmark.

    form: which prompt template: ``output`` or ``question``. open_ended: generate and compare. close_ended: rank
    candidates. attributes: judge a generated caption by these. text_shots: at 0 shots show text-only examples, as the
    paper does for open-ended tasks; not where these would give away what the episode is about. ways: classes per
    episode. control: what is destroyed on purpose, of the task named by ``controls`` (see ``_CONTROLS``).
    """

    name: str
    benchmark: str
    title: str
    draw: Callable[[Task, Benchmark, Item, int, np.random.Generator], Episode]
    form: str = "output"
    open_ended: bool = True
    close_ended: bool = False
    attributes: tuple[str, ...] = ()
    text_shots: bool = False
    ways: int = 0
    control: str = ""
    controls: str = ""

    @property
    def family(self) -> str:
        """The task whose episodes these are: itself, or the one that it controls."""
        return self.controls or self.name


def episodes(task: Task, benchmark: Benchmark, shots: int, queries: int, seed: int, text_shots: int) -> list[Episode]:
    """One episode per query item, ``queries`` at most.

    text_shots: how many text-only examples stand in for shots at 0 shots, in tasks that allow it (2 in the paper).
    Raises ValueError when the benchmark has too few support items.
    """
    found = []
    for item in _spread(benchmark.query, queries):
        rng = np.random.default_rng([seed, zlib.crc32(task.family.encode()), shots, zlib.crc32(item.id.encode())])
        if shots == 0 and task.text_shots:
            episode = task.draw(task, benchmark, item, text_shots, rng)
            text_only = tuple(dataclasses.replace(shot, medium=None) for shot in episode.shots)
            episode = dataclasses.replace(episode, shots=text_only)
        else:
            episode = task.draw(task, benchmark, item, shots, rng)
        found.append(_CONTROLS[task.control](episode, rng) if task.control else episode)
    return found


def select(names: Iterable[str]) -> list[Task]:
    """The tasks of these benchmarks, or with these names; all tasks when there are no names. Raises ValueError."""
    names = tuple(names)
    known = [task.name for task in TASKS] + [task.benchmark for task in TASKS]
    for name in names:
        if name not in known:
            raise ValueError(f"There is no evaluation task {name!r}; {suggest(name, set(known))}.")
    return [task for task in TASKS if not names or {task.name, task.benchmark} & set(names)]


def _spread(items: tuple[Item, ...], count: int) -> list[Item]:
    """``count`` items evenly over the file, in which neighbours may be alike (two pictures of one class)."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def _pick(rng: np.random.Generator, items, count: int, what: str) -> list:
    if len(items) < count:
        raise ValueError(f"{what} has {len(items)} support items, but an episode needs {count}; lower the shots.")
    return [items[i] for i in rng.permutation(len(items))[:count]]


def _without(support: Iterable[Item], query: Item) -> list[Item]:
    """A query's own medium is never shown with its answer, whatever the files hold."""
    return [item for item in support if item.medium != query.medium]


def _pick_support(rng: np.random.Generator, benchmark: Benchmark, query: Item, count: int) -> list[Item]:
    return _pick(rng, _without(benchmark.support, query), count, f"Benchmark {benchmark.name}")


def _draw_answers(task: Task, benchmark: Benchmark, item: Item, shots: int, rng: np.random.Generator) -> Episode:
    """Captions, questions, class names: the answer stands in the file."""

    def example(item: Item) -> Example:
        if not (item.caption or item.answer):
            raise ValueError(f"Item {item.id} of benchmark {benchmark.name} has neither caption nor answer.")
        return Example(item.id, item.medium, item.caption or item.answer, item.question)

    support = tuple(example(shot) for shot in _pick_support(rng, benchmark, item, shots))
    return Episode(support, example(item), item.options)


def _draw_induction(task: Task, benchmark: Benchmark, item: Item, shots: int, rng: np.random.Generator) -> Episode:
    """One attribute is asked for, and only the shots' answers tell which."""
    attribute = INDUCED[rng.integers(len(INDUCED))]

    def example(item: Item) -> Example:
        return Example(item.id, item.medium, item.value(attribute))

    support = tuple(example(shot) for shot in _pick_support(rng, benchmark, item, shots))
    return Episode(support, example(item))


def _draw_binding(task: Task, benchmark: Benchmark, item: Item, shots: int, rng: np.random.Generator) -> Episode:
    """Made-up words, drawn for this episode, name ``ways`` classes, one of which is the query's.

    ``shots`` counts support items in all: every class has equally many, and where the number of ways does not divide
    them, a random choice of classes has one more. So at 0 shots every candidate is equally likely, at 1 shot a model
    that excludes the word of another class is right in 2 of ``ways`` cases, and open-ended answers are bounded by
    shots / ways.
    """
    pools: dict[str, list[Item]] = {}
    for support in _without(benchmark.support, item):
        pools.setdefault(support.concept, []).append(support)
    others = [concept for concept in pools if concept != item.concept]
    concepts = [item.concept, *_pick(rng, others, task.ways - 1, f"Benchmark {benchmark.name}, for other classes,")]
    words = dict(zip(concepts, _pick(rng, benchmark.words, task.ways, "words.json"), strict=True))
    least, more = divmod(shots, task.ways)
    favoured = set(rng.permutation(task.ways)[:more].tolist())
    shown, spare = [], []
    for way, concept in enumerate(concepts):
        drawn = _pick(rng, pools.get(concept, []), least + bool(more), f"Class {concept}")
        count = least + (way in favoured)
        shown += [Example(shot.id, shot.medium, words[concept]) for shot in drawn[:count]]
        spare += [shot.medium for shot in drawn[count:]]
    support = tuple(shown[i] for i in rng.permutation(len(shown)))
    candidates = tuple(words[concepts[i]] for i in rng.permutation(task.ways))
    return Episode(support, Example(item.id, item.medium, words[item.concept]), candidates, spare=tuple(spare))


def _shuffled(episode: Episode, rng: np.random.Generator) -> Episode:
    """Gives the support texts the support media in random order, so that media tell nothing about words.

    Where classes are shown unequally often, media of the others take part (``spare``): how often a class is shown must
    not tell its word either. Any model is then at chance, unless something leaks.
    """
    media = [*(shot.medium for shot in episode.shots), *episode.spare]
    order = rng.permutation(len(media))
    return _replace_media(episode, [media[i] for i in order[: len(episode.shots)]])


def _blanked(episode: Episode, rng: np.random.Generator) -> Episode:
    """Blanks the support media; the query keeps its own."""
    return _replace_media(episode, [BLANK] * len(episode.shots))


def _all_blanked(episode: Episode, rng: np.random.Generator) -> Episode:
    """Blanks all media: what remains is what the text alone can answer."""
    blank = [None if shot.medium is None else BLANK for shot in episode.shots]
    episode = _replace_media(episode, blank)
    return dataclasses.replace(episode, query=dataclasses.replace(episode.query, medium=BLANK))


def _swapped(episode: Episode, rng: np.random.Generator) -> Episode:
    """Exchanges the words of all classes (a cycle): an answer that reads the prompt follows, a memorised one cannot."""
    words = episode.candidates
    swap = {word: words[(i + 1) % len(words)] for i, word in enumerate(words)}
    shots = tuple(dataclasses.replace(shot, answer=swap[shot.answer]) for shot in episode.shots)
    answer = episode.query.answer
    query = dataclasses.replace(episode.query, answer=swap[answer])
    return dataclasses.replace(episode, shots=shots, query=query, original=answer)


def _replace_media(episode: Episode, media: list[str | None]) -> Episode:
    pairs = zip(episode.shots, media, strict=True)
    return dataclasses.replace(episode, shots=tuple(dataclasses.replace(shot, medium=m) for shot, m in pairs))


_CONTROLS = {"shuffled": _shuffled, "blanked": _blanked, "all blanked": _all_blanked, "swapped": _swapped}

_CAPTION = dict(draw=_draw_answers, text_shots=True, attributes=("shape", "colour", "count"))
_QUESTION = dict(draw=_draw_answers, text_shots=True, form="question")
_BINDING = dict(benchmark="binding", draw=_draw_binding, close_ended=True)
_CONTROL = dict(_BINDING, ways=4, controls="binding_4way")

TASKS = (
    Task("caption", "caption", "captions", **_CAPTION),
    Task("caption_unseen", "caption_unseen", "captions, unseen concepts", **_CAPTION),
    Task("vqa", "vqa", "questions", **_QUESTION),
    Task("vqa_blanked", "vqa", "questions, media blanked", **_QUESTION, control="all blanked", controls="vqa"),
    Task("vqa_unseen", "vqa_unseen", "questions, unseen concepts", **_QUESTION),
    Task(
        "classification", "classification", "classification by log-likelihood",
        draw=_draw_answers, open_ended=False, close_ended=True,
    ),
    Task("video_qa", "video_qa", "video questions", **_QUESTION),
    Task("induction", "induction", "task induction", draw=_draw_induction),
    Task("binding_2way", title="binding, 2-way", **_BINDING, ways=2),
    Task("binding_4way", title="binding, 4-way", **_BINDING, ways=4),
    Task("binding_4way_shuffled", title="binding, 4-way, support media shuffled", **_CONTROL, control="shuffled"),
    Task("binding_4way_blanked", title="binding, 4-way, support media blanked", **_CONTROL, control="blanked"),
    Task("binding_4way_swapped", title="binding, 4-way, words swapped", **_CONTROL, control="swapped"),
)  # fmt: skip
