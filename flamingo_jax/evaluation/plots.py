"""The plots: score against shots, training curves, gates over time, goodput. Drawn to PNG files, without a window."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterable, Mapping

import matplotlib
from matplotlib.figure import Figure  # without pyplot, which would choose a window system for the whole process

from flamingo_jax.data.file import write_whole
from flamingo_jax.training import metrics
from flamingo_jax.training.clock import clock_time
from flamingo_jax.training.goodput import starts, summary

_COLOURS = matplotlib.colormaps["tab10"].colors
_GREY = "0.45"
_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "font.size": 9,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.dpi": 150,
}


def scores(results: dict, path: pathlib.Path) -> None:
    """Score against shots: fast binding with its controls on the left, the other tasks on the right."""
    lines: dict[tuple[str, str], list[dict]] = {}
    for row in results["results"]:
        lines.setdefault((row["task"], row["measure"]), []).append(row)
    ticks = results["protocol"]["shots"]
    panels = [
        (draw, some)
        for draw, binding in ((_plot_binding, True), (_plot_tasks, False))
        if (some := {key: rows for key, rows in lines.items() if key[0].startswith("binding") == binding})
    ]
    with matplotlib.rc_context(_STYLE):
        figure = Figure((0.3 + 5.6 * len(panels), 3.8), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (draw, some) in zip(axes, panels, strict=True):
            draw(axis, some, ticks)
            axis.set(xlabel="shots", ylim=(-3, 103), xticks=range(len(ticks)), xticklabels=ticks)
            axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=2.8, labelspacing=0.7)
        axes[0].set_ylabel("right answers, %")
        _save(figure, path)


def _plot_binding(axis, lines: dict, ticks: list[int]) -> None:
    axis.set_title("fast binding: made-up words for unseen concepts")
    styles = {
        ("binding_4way", "closed"): dict(label="4-way, closed-ended", color=_COLOURS[3], lw=3, zorder=5),
        ("binding_4way", "open"): dict(label="4-way, open-ended", color=_COLOURS[1], lw=1.6),
        ("binding_2way", "closed"): dict(label="2-way, closed-ended", color=_COLOURS[0], lw=1.6),
        ("binding_4way_shuffled", "closed"): dict(label="4-way, support shuffled", color=_GREY, ls="--"),
        ("binding_4way_blanked", "closed"): dict(label="4-way, support blanked", color="0.65", ls="--"),
        ("binding_4way_swapped", "closed"): dict(
            label="4-way, words swapped:\nthe new words", color=_COLOURS[2], ls="--"
        ),
        ("binding_4way_swapped", "closed, original"): dict(
            label="4-way, words swapped:\nthe old words", color=_COLOURS[5], ls="--"
        ),
    }
    for key, style in styles.items():
        if key in lines:
            _line(axis, lines[key], ticks, **style)
    for name, colour in (("binding_4way", _COLOURS[3]), ("binding_2way", _COLOURS[0])):
        rows = lines.get((name, "closed"))
        if rows:
            axis.axhline(100 * rows[0]["chance"], color=colour, ls=":", lw=1)
            axis.text(len(ticks) - 1, 100 * rows[0]["chance"] + 1, "chance", color=colour, ha="right", fontsize=7)


def _plot_tasks(axis, lines: dict, ticks: list[int]) -> None:
    axis.set_title("other tasks")
    tasks: dict[str, list[list[dict]]] = {}
    for (name, _), rows in lines.items():
        tasks.setdefault(name, []).append(rows)
    for number, measures in enumerate(tasks.values()):
        first = measures[0][0]
        label = first["title"] + (f"\n(mean of {', '.join(m[0]['measure'] for m in measures)})" if measures[1:] else "")
        # Measures of one task come from the same answers: their mean's error is at most the largest of theirs.
        mean = [
            {
                "shots": rows[0]["shots"],
                "accuracy": sum(row["accuracy"] for row in rows) / len(rows),
                "standard_error": max(row["standard_error"] for row in rows),
            }
            for rows in zip(*measures, strict=True)
        ]
        colour = _COLOURS[number % len(_COLOURS)]
        _line(axis, mean, ticks, label=label, color=colour, lw=1.6, ls="--" if first["control"] else "-")
        if first["chance"] is not None:
            axis.axhline(100 * first["chance"], color=colour, ls=":", lw=1)
            axis.text(len(ticks) - 1, 100 * first["chance"] + 1, "chance", color=colour, ha="right", fontsize=7)


def _line(axis, rows: list[dict], ticks: list[int], **style) -> None:
    """Accuracy with its standard error; numbers of shots are evenly spaced, so that 0, 1 and 2 stay apart."""
    x = [ticks.index(row["shots"]) for row in rows]
    y, error = ([100 * row[key] for row in rows] for key in ("accuracy", "standard_error"))
    axis.errorbar(x, y, yerr=error, fmt="none", ecolor=style["color"], capsize=2, elinewidth=0.8)
    axis.plot(x, y, marker="o", ms=3.5, **style)


def training(stages: Mapping[str, pathlib.Path], path: pathlib.Path) -> bool:
    """Draws each stage's losses over steps; ``stages``: name -> ``metrics.jsonl``. False when there is none to draw."""
    curves = {stage: _rows(source) for stage, source in stages.items()}
    curves = {stage: rows for stage, rows in curves.items() if _keys(rows, "loss/")}
    if not curves:
        return False
    with matplotlib.rc_context(_STYLE):
        figure = Figure((3.6 * len(curves), 3.2), layout="constrained")
        axes = figure.subplots(1, len(curves), squeeze=False)
        for axis, (stage, rows) in zip(axes[0], curves.items(), strict=True):
            for key in _keys(rows, "loss/"):
                axis.plot(*_series(rows, key), label=key.removeprefix("loss/"), lw=1.2)
            axis.set(title=stage, xlabel="step", ylim=(0, None))
            axis.legend()
        axes[0][0].set_ylabel("loss")
        _save(figure, path)
    return True


def gates(stages: Mapping[str, pathlib.Path], path: pathlib.Path) -> bool:
    """Draws |tanh gate| of every gated layer over steps (paper, figure 6). False when there is none to draw.

    Takes the last of ``stages`` (as in ``training``) that has keys ``gate/KIND/LAYER``; one panel per kind.
    """
    found = [rows for rows in map(_rows, stages.values()) if _keys(rows, "gate/")]
    if not found:
        return False
    rows = found[-1]
    kinds = sorted({key.split("/")[1] for key in _keys(rows, "gate/")})
    with matplotlib.rc_context(_STYLE):
        figure = Figure((0.6 + 3.5 * len(kinds), 3.2), layout="constrained")
        axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)
        for axis, kind in zip(axes[0], kinds, strict=True):
            keys = _keys(rows, f"gate/{kind}/")
            for number, key in enumerate(keys):
                steps, values = _series(rows, key)
                colour = matplotlib.colormaps["viridis"](number / max(1, len(keys) - 1) * 0.9)
                axis.plot(steps, [abs(value) for value in values], color=colour, lw=1.4, label=key.rsplit("/", 1)[1])
            axis.set(title=f"{kind} gates", xlabel="step", ylim=(0, 1.02))
            if len(keys) <= 12:
                axis.legend(title="layer", ncols=2)
        axes[0][0].set_ylabel("|tanh(gate)|")
        _save(figure, path)
    return True


# Of a start, about as they come.
_BUCKETS = {
    "start": "0.55", "restore": "#17becf", "compile": "#9467bd", "train": "#2ca02c", "data": "#ff7f0e",
    "save": "#8c564b", "lost": "#d62728", "evaluation": "#1f77b4", "down": "0.85",
}  # fmt: skip


def goodput(source: pathlib.Path, path: pathlib.Path) -> bool:
    """Draws where the time of a run went, of ``goodput.jsonl``: all of it, and below every start, with the time until
    the next one. False when there is none."""
    whole, rows = summary(source), [start["seconds"] for start in starts(source)]
    if not whole:
        return False
    total = sum(whole.values())
    # Down was the run between two starts; it is drawn behind the one that ended.
    rows = [row | {"down": after["down"]} for row, after in zip(rows, [*rows[1:], {"down": 0.0}], strict=True)]
    longest = max(sum(row.values()) for row in rows)
    units = ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
    unit, name = next((size, name) for size, name in units if longest >= 2 * size or size == 1)
    height = 0.5 + min(0.22 * len(rows), 4.5)
    with matplotlib.rc_context(_STYLE):
        figure = Figure((8.0, 1.5 + height), layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=(0.8, height))
        shown = {bucket: f"{bucket} {100 * whole[bucket] / total:.1f} %" for bucket in _BUCKETS if whole[bucket]}
        _stack(above, 0, whole, 100 / total, shown)
        above.set(xlim=(0, 100), yticks=[], xlabel="% of the time")
        above.set_title(f"{100 * whole['train'] / total:.1f} % of {clock_time(total)} trained")
        for number, row in enumerate(rows):
            _stack(below, number, row, 1 / unit, {})
        below.set(xlim=(0, longest / unit), xlabel=name, ylabel="start", ylim=(len(rows) - 0.4, -0.6))
        ticks = range(0, len(rows), 1 + len(rows) // 12)
        below.set_yticks(ticks, [number + 1 for number in ticks])
        figure.legend(loc="outside right upper")
        _save(figure, path)
    return True


def _stack(axis, row: int, seconds: Mapping[str, float], scale: float, labels: Mapping[str, str]) -> None:
    """A bar of all buckets, one behind the other."""
    left = 0.0
    for bucket, colour in _BUCKETS.items():
        axis.barh(row, seconds[bucket] * scale, left=left, color=colour, height=0.8, label=labels.get(bucket))
        left += seconds[bucket] * scale


def _rows(path: pathlib.Path) -> list[dict]:
    return metrics.read(path.parent) if path.exists() else []


def _keys(rows: Iterable[dict], prefix: str) -> list[str]:
    """Keys that begin with ``prefix``; numbers at their end sort as numbers."""
    found = {key for row in rows for key in row if key.startswith(prefix)}
    return sorted(found, key=lambda key: (0, int(tail), "") if (tail := key[len(prefix) :]).isdigit() else (1, 0, tail))


def _series(rows: Iterable[dict], key: str) -> tuple[list[int], list[float]]:
    pairs = [(row["step"], row[key]) for row in rows if key in row]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _save(figure, path: pathlib.Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_whole(path, buffer.getvalue())
