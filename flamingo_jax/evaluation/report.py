"""The report on disk: ``results.json``, a Markdown table, every single answer, and the plots."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from flamingo_jax.data.file import write_whole
from flamingo_jax.evaluation import plots


def write(
    directory: pathlib.Path, results: dict, predictions: Sequence[dict], stages: Mapping[str, pathlib.Path]
) -> None:
    """Writes the evaluation's files.

    predictions.jsonl holds every prompt's support, answer and scores (enough to judge again without the model),
    results.md the table; score.png, training.png and gates.png are the plots (the latter two from the ``stages``'
    metrics, as far as there are any). Last comes results.json: when it is there, so are the others.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / "predictions.jsonl", "".join(json.dumps(row) + "\n" for row in predictions))
    write_whole(directory / "results.md", table(results))
    plots.scores(results, directory / "score.png")
    plots.training(stages, directory / "training.png")
    plots.gates(stages, directory / "gates.png")
    write_whole(directory / "results.json", json.dumps(results, indent=1) + "\n")


def table(results: dict) -> str:
    """A Markdown table: one line per task and measure, one column per number of shots."""
    shots = results["protocol"]["shots"]
    names = ["1 shot" if count == 1 else f"{count} shots" for count in shots]
    lines = [f"| task | measure | chance | n | {' | '.join(names)} |", "|---|---|---|---|" + "---|" * len(shots)]
    for rows in _by(results["results"], "task", "measure"):
        cells = {row["shots"]: f"{100 * row['accuracy']:.1f} ± {100 * row['standard_error']:.1f}" for row in rows}
        first = rows[0]
        chance = "" if first["chance"] is None else f"{100 * first['chance']:.0f}"
        scores = " | ".join(cells.get(count, "") for count in shots)
        lines.append(f"| {first['title']} | {first['measure']} | {chance} | {first['n']} | {scores} |")
    protocol = results["protocol"]
    notes = [
        f"Percent of right answers ± binomial standard error; seed {protocol['seed']}, support {protocol['support']}.",
        f"Open-ended: {protocol['open-ended']}. Closed-ended: {protocol['close-ended']}.",
        "Words swapped: right means following the swap; `original` counts answers by the words before it. "
        f"At 0 shots, captions and questions are preceded by {protocol['text_shots']} text-only examples.",
    ]
    return "\n".join([*lines, "", *notes, ""])


def _by(rows: Iterable[dict], *keys: str) -> list[list[dict]]:
    """Groups rows by some of their values, in the order of first appearance."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return list(groups.values())
