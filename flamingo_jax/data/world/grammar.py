"""The one grammar of the world: captions, questions and the templates that pages, texts and benchmarks share."""

from __future__ import annotations

import numpy as np

from flamingo_jax.data.world.attributes import COLOURS, COUNTS, SHAPES, TEXTURES, Concept, Scene, pick

# Words without any meaning: every page binds some of them anew, so that only the page tells what they stand for.
MADE_UP_WORDS = (
    "dax wug blicket toma zup fep gazzer kiv modi tupa koba lorp nerp plim quop rilk snarg tork sulm vesh wimby "
    "yark zorb bosa chiv drell fusk glorp hesk jint krad lanj mib nalo pirn quib ruz sproc tavo humby vank welb "
    "yeft zindo pag tiff gorm bep"
).split()
# Ordinary things that stand in for images in the text documents; none is a shape or a colour.
NOUNS = (
    "apple bread chair table river mountain house window garden bottle paper pencil bridge train boat horse dog cat "
    "bird fish flower tree stone cloud rain snow fire water milk cheese butter sugar salt spoon fork knife plate cup "
    "lamp clock door key coat shoe hat glove book letter song drum piano guitar camera radio engine wheel road street "
    "school shop farm field forest beach"
).split()
BINDING_TEMPLATES = ("{word}", "Output: {word}", "this is a {word}.", "a {word}.", "here is the {word}.")
BINDING_WEIGHTS = (0.4, 0.3, 0.1, 0.1, 0.1)
# Text is cheaper to learn from when the word follows its cue at once; that is where copying in context starts.
TEXT_BINDING_WEIGHTS = (0.7, 0.12, 0.06, 0.06, 0.06)
ATTRIBUTE_TEMPLATES = ("{value}", "Output: {value}", "it is {value}.")
ATTRIBUTE_WEIGHTS = (0.3, 0.5, 0.2)
CAPTION_TEMPLATES = ("{caption}", "Output: {caption}")
CAPTION_WEIGHTS = (0.5, 0.5)
QUESTION_TEMPLATE = "Question: {question} Answer: {answer}"
NAMED_ATTRIBUTES = ("shape", "colour", "texture")  # what attribute pages and the induction task ask for
QUESTIONS = {
    "colour": "what colour is it?",
    "shape": "what shape is it?",
    "texture": "what texture is it?",
    "count": "how many are there?",
    "size": "which size is it?",
    "place": "where is it?",
}
DIRECTION_QUESTION = "which way does it move?"
CHANGE_QUESTION = "what does it do?"
_CHANGES = ("growing", "shrinking")
_PLACES = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "center": "in the center",
}
_PLURALS = {"cross": "crosses"}
_WRONG_OR_MISSING = 0.1  # of the attributes in ALIGN's stand-in
_STRAY = ("stock photo", "free download", "hd", "best price", "new", "vector", "wallpaper", "img", "clip art", "sale")
_PROSE = (
    "we took these pictures last {season}.",
    "please write to us if you have a {adjective} idea.",
    "this page was updated on {day}.",
    "the weather was {adjective} that day.",
    "our readers sent us many letters.",
    "more of this will follow on {day}.",
    "it was a {adjective} trip and we came home late.",
    "thank you for reading.",
    "my sister likes the old pages more.",
    "you can find the rest in the archive of last {season}.",
    "the shop opens on {day} at nine.",
    "nobody knows why this is so {adjective}.",
)
_SLOTS = {
    "season": ("spring", "summer", "autumn", "winter"),
    "adjective": ("fine", "quiet", "strange", "good", "simple", "long"),
    "day": ("monday", "tuesday", "friday", "sunday"),
}
_TITLES = (
    "notes from {day}",
    "a {adjective} collection",
    "our {season} pages",
    "the {adjective} list",
    "from the archive",
)


def noun(shape: str, count: str = "one") -> str:
    """The shape's name in the number that ``count`` asks for."""
    return shape if count == "one" else _PLURALS.get(shape, f"{shape}s")


def phrase(concept: Concept, count: str = "one") -> str:
    """``red striped circle``; plural for more than one."""
    return f"{concept.colour} {concept.texture} {noun(concept.shape, count)}"


def caption(scene: Scene) -> str:
    """The exact caption: ``one small red striped circle on the left.`` or, of a clip, ``... moving left.``"""
    what = phrase(scene.concept, scene.count)
    if scene.motion is not None:
        return f"{scene.count} {what} {scene.motion if scene.motion in _CHANGES else 'moving ' + scene.motion}."
    where = f" {_PLACES[scene.place]}" if scene.place else ""
    return f"{scene.count} {scene.size} {what}{where}."


def questions(scene: Scene) -> dict[str, tuple[str, str]]:
    """All questions that ``scene`` answers: kind -> (question, answer)."""
    values = scene.attributes()
    if scene.motion is None:
        return {kind: (question, values[kind]) for kind, question in QUESTIONS.items() if kind in values}
    motion = CHANGE_QUESTION if scene.motion in _CHANGES else DIRECTION_QUESTION
    return {
        "motion": (motion, scene.motion),
        "colour": (QUESTIONS["colour"], scene.concept.colour),
        "shape": (QUESTIONS["shape"], scene.concept.shape),
    }


def question(rng: np.random.Generator, scene: Scene) -> tuple[str, str]:
    """A random (question, answer) about ``scene``: even over the kinds; of a clip, half of them ask for its motion."""
    known = questions(scene)
    if "motion" in known and rng.random() < 0.5:
        return known["motion"]
    return pick(rng, [answer for kind, answer in known.items() if kind != "motion"])


def quiz(rng: np.random.Generator, scene: Scene) -> str:
    """``Question: what colour is it? Answer: red``"""
    asked, answer = question(rng, scene)
    return QUESTION_TEMPLATE.format(question=asked, answer=answer)


def clip_text(rng: np.random.Generator, scene: Scene) -> str:
    """The text beside a training clip: its caption, or a question about it."""
    return caption(scene) if rng.random() < 0.5 else quiz(rng, scene)


def template(rng: np.random.Generator, templates: tuple[str, ...], weights: tuple[float, ...]) -> str:
    """The template that a whole page uses."""
    return templates[int(rng.choice(len(templates), p=weights))]


def attribute_text(form: str, attribute: str, concept: Concept) -> str:
    """Fills an attribute template; ``it is`` takes an article before a shape."""
    value = getattr(concept, attribute)
    if form.startswith("it is") and attribute == "shape":
        value = f"{'an' if value[0] in 'aeiou' else 'a'} {value}"
    return form.format(value=value)


def noisy_caption(rng: np.random.Generator, scene: Scene, allowed: frozenset[Concept]) -> str:
    """A short caption as of alt texts: a part of the attributes, some of them wrong or missing, and stray words.

    allowed: the concepts that the result may name; a wrong attribute never turns a caption into an unseen concept's.
    """
    concept = scene.concept
    colour, texture, count = (rng.random(3) < (0.85, 0.4, 0.3)) & (rng.random(3) > _WRONG_OR_MISSING / 2)
    if rng.random() < _WRONG_OR_MISSING / 2:
        wrong = _spoilt(rng, concept)
        concept = wrong if wrong in allowed else concept
    words = [noun(concept.shape, scene.count)]
    adjectives = [value for use, value in ((colour, concept.colour), (texture, concept.texture)) if use]
    if rng.random() < 0.5:
        adjectives.reverse()
    words = [*([scene.count] if count else []), *adjectives, *words]
    text = " ".join(words)
    kind = rng.random()
    if kind < 0.2:
        text = f"{pick(rng, ('photo of', 'picture of', 'image of'))} {text}"
    elif kind < 0.35:
        text = f"{text} {pick(rng, _STRAY)}"
    elif kind < 0.45:
        text = f"{pick(rng, _STRAY)} {text}"
    return text


def prose(rng: np.random.Generator) -> str:
    """An ordinary sentence that says nothing about the pictures."""
    return _fill(rng, pick(rng, _PROSE))


def title(rng: np.random.Generator) -> str:
    """A page's title."""
    return _fill(rng, pick(rng, _TITLES))


def draw_words(rng: np.random.Generator, count: int) -> list[str]:
    """``count`` different made-up words."""
    return [MADE_UP_WORDS[i] for i in rng.choice(len(MADE_UP_WORDS), count, replace=False)]


def bursty(rng: np.random.Generator, kinds: int, length: int) -> list[int]:
    """``length`` indices below ``kinds``, each of them at least once and most of them again, in random order."""
    order = [*range(kinds), *rng.integers(kinds, size=length - kinds).tolist()]
    return [order[i] for i in rng.permutation(length)]


def _fill(rng: np.random.Generator, sentence: str) -> str:
    return sentence.format(**{slot: pick(rng, values) for slot, values in _SLOTS.items()})


def _spoilt(rng: np.random.Generator, concept: Concept) -> Concept:
    attribute = pick(rng, NAMED_ATTRIBUTES)
    values = {"shape": SHAPES, "colour": COLOURS, "texture": TEXTURES}[attribute]
    return concept._replace(**{attribute: pick(rng, values)})


assert len(set(MADE_UP_WORDS)) == 48 and len(set(NOUNS)) == 64 and not set(MADE_UP_WORDS) & set(NOUNS)
assert not set(NOUNS) & {*SHAPES, *COLOURS, *TEXTURES, *COUNTS}
