"""Where a run stands, read from its folder: what ``python -m flamingo_jax.train --status=DIR`` prints.

Nothing is written, and no JAX is needed, so it may be asked for on any machine that sees the folder.
"""

from __future__ import annotations

import fcntl
import json
import pathlib
import time

from flamingo_jax.data.file import read_lines
from flamingo_jax.training import attempts, goodput
from flamingo_jax.training.clock import clock_time

LOCK = ".lock"  # in the folder: locked while a process is at work there


def status(workdir: pathlib.Path, now: float | None = None) -> str:
    """A text of a few lines per stage.

    now: seconds since the epoch, from which ages count; None: now.

    Raises ValueError when the folder is absent or is no run.
    """
    if not workdir.is_dir():
        raise ValueError(f"There is no folder {workdir}; give the --workdir of a run.")
    now, config = time.time() if now is None else now, _read_config(workdir)
    ledger = goodput.read(workdir / goodput.FILE)
    lines = [f"{workdir}: {_work(workdir, ledger, now)}"]
    width = max(map(len, [*config["order"], "evaluation"]))
    parts = {name: _stage(workdir / name, config["stages"][name]["steps"], ledger, now) for name in config["order"]} | {
        "evaluation": [_evaluation(workdir, config)]
    }
    for name, (first, *rest) in parts.items():
        lines += [f"{name:{width}}  {first}", *(f"{'':{width}}  {line}" for line in rest)]
    if seconds := goodput.summary(workdir / goodput.FILE):
        lines.append(goodput.sentence(seconds))
    return "\n".join(lines)


def is_at_work(workdir: pathlib.Path) -> bool:
    """Whether a process has the folder's lock. Where a network's disk does not pass locks on, it must be one of this
    machine's."""
    try:
        with (workdir / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go when the file is closed
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _read_config(workdir: pathlib.Path) -> dict:
    try:
        config = json.loads((workdir / "config.json").read_text())
        return {"order": config["order"], "stages": config["stages"]}
    except FileNotFoundError:
        raise ValueError(f"{workdir} is no run: it has no config.json; give the --workdir of one.") from None
    except (ValueError, KeyError):
        raise ValueError(f"{workdir} is no run: its config.json has no stages; give the --workdir of one.") from None


def _work(workdir: pathlib.Path, ledger: list[dict], now: float) -> str:
    work = "a process is at work in it" if is_at_work(workdir) else "no process is at work in it"
    if not ledger:
        return work
    last = ledger[-1]
    doing = next((end for end in ("complete", "ended") if end in last), last["now"])
    return f"{work}, last heard of {_ago(last['time'], now)} (start {last['start']}: {doing})"


def _stage(directory: pathlib.Path, steps: int, ledger: list[dict], now: float) -> list[str]:
    """What is told of a stage."""
    result = directory / "result.json"
    if result.exists():
        done = json.loads(result.read_text())
        return [f"complete, {done['steps']:,} steps: {_values(done['metrics'])}"]
    log = directory / "metrics.jsonl"
    if not log.exists():
        return ["not begun"]
    metrics, speed = _last(log), _last(directory / "speed.jsonl")
    step = [line["step"] for line in ledger if line.get("stage") == directory.name]
    step = max([metrics.get("step", 0), *step[-1:]])  # of a start that was killed the last line may be older
    left = f", {clock_time((steps - step) * speed['seconds_per_step'])} left at its last speed" if speed else ""
    lines = [f"step {step:,} of {steps:,} ({100 * step / steps:.1f} %){left}"]
    if metrics:
        written = _ago(log.stat().st_mtime, now)
        lines.append(f"at step {metrics['step']:,}, written {written}: {_values(metrics)}")
    lines += [_rates(speed)] if speed else []
    return [*lines, _checkpoint(directory / attempts.FOLDER, now)]


def _last(path: pathlib.Path) -> dict:
    """The last line, or {} where there is none."""
    return ([{}] + (read_lines(path) if path.exists() else []))[-1]


def _values(metrics: dict) -> str:
    losses = [f"{key.removeprefix('loss/')} {value:.3f}" for key, value in metrics.items() if key.startswith("loss/")]
    told = f"loss {' '.join(losses)}, grad norm {metrics.get('grad_norm', 0.0):.3g}"
    return told + f", skipped updates: {metrics.get('skipped', 0):,.0f}"


def _rates(speed: dict) -> str:
    told = [
        f"{speed[key]:,.0f} {key.split('_')[0]}/s" for key in ("tokens_per_second", "images_per_second") if key in speed
    ]
    told += [f"MFU {100 * speed['mfu']:.1f} %"] if "mfu" in speed else []
    return ", ".join([*told, f"waited {100 * speed['data_wait']:.1f} % of its time for data"])


def _checkpoint(directory: pathlib.Path, now: float) -> str:
    try:
        newest = attempts.find(directory)[0]
        return f"newest checkpoint: step {newest.step:,}, {_ago(newest.path.stat().st_mtime, now)}"
    except IndexError:
        return "no checkpoint yet"
    except OSError:  # it has just made room for a newer one
        return "newest checkpoint: being replaced"
    except ValueError as error:
        return str(error)


def _evaluation(workdir: pathlib.Path, config: dict) -> str:
    last = [name for name in config["order"] if config["stages"][name]["objective"] == "flamingo"][-1:]
    if not last:
        return "nothing to evaluate"
    done, trained = workdir / "evaluation" / "results.json", workdir / last[0] / "result.json"
    if not done.exists():
        return "not complete"
    same = (
        trained.exists() and json.loads(done.read_text()).get("weights") == json.loads(trained.read_text())["weights"]
    )
    return "complete" if same else f"of older weights than {last[0]}'s; it starts anew"


def _ago(then: float, now: float) -> str:
    return f"{clock_time(max(now - then, 0.0))} ago"
