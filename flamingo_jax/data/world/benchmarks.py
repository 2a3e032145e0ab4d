"""Held-out benchmarks: fresh scenes that no training file shows, as JSON lines beside their media."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from flamingo_jax.config import WorldConfig
from flamingo_jax.data.world import grammar
from flamingo_jax.data.world.attributes import (
    COUNTS,
    SHAPES,
    Concept,
    Scene,
    draw_clip,
    draw_scene,
    generator,
    pick,
    split,
)
from flamingo_jax.data.world.clips import encode as encode_clip
from flamingo_jax.data.world.scene import draw_suffix, encode, render, render_clip

TASKS = ("caption", "vqa", "classification", "video_qa", "induction", "caption_unseen", "vqa_unseen", "binding")
SPLITS = ("support", "query")
_QUERY_FRACTION = 0.25  # of a concept's pictures in ``binding``


def write(root: Path, config: WorldConfig, task: str, name: str) -> None:
    """Writes ``root``/benchmarks/``task``/``name``.jsonl and its media; ``name`` is support or query.

    Lines: id, media (paths beside the file), attributes, concept, and what the task adds: caption, question and answer,
    options. A picture belongs to one line only, so that a query never stands among its own support items.
    """
    folder = root / "benchmarks" / task
    (folder / "media").mkdir(parents=True, exist_ok=True)
    lines = []
    for index, concept in enumerate(_concepts(config, task, name)):
        rng = generator(config.seed, f"{task}/{name}", index)
        concept = concept or pick(rng, _pool(config, task))
        scene, more = _line(rng, task, concept, index)
        path = f"media/{name}-{index:05d}{'.mp4' if scene.motion else draw_suffix(rng)}"
        if scene.motion:
            data = encode_clip(render_clip(scene, rng))
        else:
            data = encode(render(scene, rng), Path(path).suffix, rng)
        (folder / path).write_bytes(data)
        line = {"id": f"{task}/{name}/{index:05d}", "media": [path], "attributes": scene.attributes()}
        lines.append({**line, "concept": concept.name, **more})
    with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def write_words(root: Path) -> None:
    """Writes ``root``/benchmarks/words.json: the list of the made-up words."""
    folder = root / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "words.json").write_text(json.dumps(grammar.MADE_UP_WORDS) + "\n", encoding="utf-8")


def size(config: WorldConfig, task: str, name: str) -> int:
    """The number of lines of a task's split."""
    return len(_concepts(config, task, name))


def _pool(config: WorldConfig, task: str) -> tuple[Concept, ...]:
    training, unseen = split(config.seed)
    return unseen if task == "binding" or task.endswith("_unseen") else training


def _concepts(config: WorldConfig, task: str, name: str) -> list[Concept | None]:
    """One entry per line: its concept, or None where it is drawn."""
    if task != "binding":
        return [None] * (config.queries if name == "query" else config.supports)
    queries = max(1, round(_QUERY_FRACTION * config.binding_images))
    each = queries if name == "query" else config.binding_images - queries
    return [concept for concept in _pool(config, task) for _ in range(each)]


def _line(rng: np.random.Generator, task: str, concept: Concept, index: int) -> tuple[Scene, dict]:
    """A line's scene, and the fields that its task adds."""
    if task == "video_qa":
        scene = draw_clip(rng, concept)
        question, answer = grammar.question(rng, scene)
        return scene, {"question": question, "answer": answer}
    if task.startswith("vqa"):
        return _asked(rng, concept, tuple(grammar.QUESTIONS)[index % len(grammar.QUESTIONS)])
    scene = draw_scene(rng, concept)
    if task.startswith("caption"):
        return scene, {"caption": grammar.caption(scene)}
    if task == "classification":
        return scene, {"answer": concept.shape, "options": list(SHAPES)}
    return scene, {}


def _asked(rng: np.random.Generator, concept: Concept, kind: str) -> tuple[Scene, dict]:
    """A scene that has an answer to the question of this kind; the answers are even where the scenes alone are not."""
    count = {"place": "one", "count": pick(rng, COUNTS)}.get(kind)
    scene = draw_scene(rng, concept, count)
    question, answer = grammar.questions(scene)[kind]
    return scene, {"question": question, "answer": answer}
