"""Updates that were not made, because of what was not finite or a spike: counted, and when they are too many."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from flamingo_jax.training import ending

_WINDOW = 1000  # updates
_SHOWN = 20  # records of a dataset that an error names


class Skips:
    """Counts skipped updates, and ends the run when more than ``most`` of the last 1,000 were."""

    def __init__(self, streams: Mapping[str, object], most: int, say: Callable[[str], None]):
        self._streams, self._most, self._say = streams, most, say
        self._count, self._recent = 0, []

    def add(self, step: int, metrics: dict[str, float], starts: Mapping[str, int]) -> dict[str, float]:
        """Step ``step``'s metrics, of which ``skipped`` becomes the number of all that were until then.

        starts: where the streams of its datasets stood before it.

        Raises Ended, naming steps, datasets and records, when there were too many.
        """
        if skipped := metrics["skipped"]:
            self._count += 1
            wrong = {name: value for name, value in metrics.items() if name == "grad_norm" or name.startswith("loss/")}
            said = ", ".join(f"{name} {value:g}" for name, value in wrong.items())
            kind = "" if not all(map(math.isfinite, wrong.values())) else "a spike, "
            self._say(f"update {step} was not made: {kind}{said}")
            self._recent.append([step, dict(starts)])
        self._recent = [entry for entry in self._recent if entry[0] > step - _WINDOW]
        if skipped and len(self._recent) > self._most:
            raise ending.Ended(ending.DIVERGED, self._report(step))
        return metrics | {"skipped": float(self._count)}

    def _report(self, step: int) -> str:
        lines = [
            f"{len(self._recent)} of the last {min(step, _WINDOW):,} updates had a loss or gradients that were not "
            f"finite or spiked, more than max_skipped={self._most}. They read:"
        ]
        for number, starts in self._recent:
            for name, start in starts.items():
                records = [f"{shard}:{record}" for shard, record in self._streams[name].records(start)]
                more = f" and {len(records) - _SHOWN} more" if len(records) > _SHOWN else ""
                lines.append(f"  step {number}, {name}: {', '.join(records[:_SHOWN])}{more}")
        return "\n".join(
            [*lines, "None of these has changed the weights. Look at the records, or go on with a lower learning rate."]
        )

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps of it."""
        return {"count": self._count, "recent": self._recent}

    def restore(self, saved: Mapping[str, object]) -> None:
        """Sets it to what ``state`` returned."""
        self._count, self._recent = saved["count"], list(saved["recent"])
