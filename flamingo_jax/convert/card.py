"""The model card of an export, in Markdown: what the model is, what it was trained on, how it does, what it is not."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

import flax.traverse_util as traverse
import numpy as np

from flamingo_jax.config import PARTS, LanguageConfig, ModelConfig
from flamingo_jax.convert.pretrained import Pretrained
from flamingo_jax.models.parts import part_of

LIMITS = """\
- It continues text and can be wrong about what a picture shows, all the more when words suggest something else.
- It repeats what its training data hold, their biases and errors included. It was not examined for harm, nor tuned to
  follow instructions or to refuse them.
- What it was not evaluated on it may not do. Scores of few-shot prompting depend on the prompt, the choice of shots and
  their order.
- The licences of its parts and data hold for it too.
"""


def render(model: Pretrained, title: str, layout: str, has_text: bool = False) -> str:
    """The card of a model that is exported as ``layout``; has_text: together with the text tower of its CLIP."""
    kind = "image-text-to-text" if isinstance(model.config, ModelConfig) else "feature-extraction"
    kind = "text-generation" if isinstance(model.config, LanguageConfig) else kind
    head = ["---", "library_name: flamingo_jax", f"pipeline_tag: {kind}", "tags: [flamingo, jax]", "---", ""]
    sections = {
        title: _summary(model, has_text),
        "Use": _use(model, layout),
        "Sizes": _sizes(model),
        "Training data": _data(model.training),
        "Evaluation": model.training.get("evaluation") or "None is on record.",
        "Limits": LIMITS,
    }
    body = [f"{'##' if i else '#'} {name}\n\n{text.strip()}\n" for i, (name, text) in enumerate(sections.items())]
    return "\n".join([*head, *body])


def _summary(model: Pretrained, has_text: bool) -> str:
    config = model.config
    if not isinstance(config, ModelConfig):
        what = "language model" if isinstance(config, LanguageConfig) else "vision encoder"
        beside = "; `text/` holds the text tower of its CLIP, with the projections of both" if has_text else ""
        return f"A {what} in the layout of flamingo_jax{beside}."
    every = f"one of {config.gated.every} blocks" if config.gated.every > 1 else "every block"
    names = [f"{part} ({public['model_type']})" for part, public in model.public.items() if "model_type" in public]
    return (
        "A visual language model that learns a task from a few examples in its prompt, of the kind of Flamingo "
        "([Alayrac et al. 2022](https://arxiv.org/abs/2204.14198)): a vision encoder and a language model, bridged by "
        f"{'a resampler and ' if config.resampler else ''}gated cross-attention before {every} of the latter."
        + (f" Public parts: {', '.join(names)}." if names else "")
    )


def _use(model: Pretrained, layout: str) -> str:
    if layout in ("idefics", "open_flamingo"):
        return f"The weights have the names of {layout}. `flamingo_jax.load(DIR)` reads the folder too."
    use = {
        ModelConfig: "model.greedy(tokens, images=images, steps=20)",
        LanguageConfig: "model.greedy(tokens, steps=20)",
    }.get(type(model.config), "model.features(images)")
    return f'```python\nimport flamingo_jax\nmodel = flamingo_jax.load("DIR")\n{use}\n```'


def _sizes(model: Pretrained) -> str:
    whole = isinstance(model.config, ModelConfig)
    counts: collections.Counter = collections.Counter()
    trees = model.weights.items() if whole else [("params", model.weights)]
    for collection, tree in trees:
        for path, leaf in traverse.flatten_dict(tree).items():
            counts[part_of(path) if whole else "", collection] += int(np.prod(leaf.shape))
    if not whole:
        return f"{sum(counts.values()):,} parameters."
    lines = ["| part | trained with the bridge | frozen |", "|---|---|---|"]
    for part, name in PARTS.items():
        trained, frozen = counts[part, "params"], counts[part, "frozen"]
        if trained or frozen:
            lines.append(f"| {name} | {trained:,} | {frozen:,} |")
    sums = [sum(n for (_, kind), n in counts.items() if kind == collection) for collection in ("params", "frozen")]
    return "\n".join([*lines, f"| all | {sums[0]:,} | {sums[1]:,} |"])


def _data(training: Mapping[str, Any]) -> str:
    """What ``sources.finished`` knows of a run."""
    if not training:
        return "See the source that this model was converted from."
    lines = [f"{training['steps']:,} steps of stage `{training['stage']}` over", ""]
    lines += ["| dataset | format | documents | media | batch | weight |", "|---|---|---|---|---|---|"]
    for name, row in training["datasets"].items():
        cells = [name, row["format"], f"{row['documents']:,}", f"{row['media']:,}", f"{row['batch']:,}", row["weight"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
