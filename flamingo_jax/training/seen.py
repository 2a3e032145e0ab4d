"""What a stage has read of its datasets: counted over all hosts, reported, and kept across restarts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from flamingo_jax.config import MixConfig

COUNTED = ("tokens", "media", "unreadable_documents", "unreadable_media")
# So many documents and media of a dataset have a share of unreadable ones that says something; after so many more it is
# taken anew, lest a shard that goes bad in a long run be lost among what was read before.
_FIRST_LOOK, _WINDOW = 1000, 100_000


def count(batch: Mapping[str, jax.Array]) -> jax.Array:
    """Of a global batch, int32 [4]: ``COUNTED``; tokens are those that count in the loss."""
    kept = [(batch["weights"] > 0).sum(dtype=jnp.int32), batch["media_mask"].sum(dtype=jnp.int32)]
    return jnp.concatenate([jnp.stack(kept), batch["unreadable"].sum(0, dtype=jnp.int32)])


class Seen:
    """Counts per dataset: documents, and ``COUNTED``."""

    def __init__(self, streams: Mapping[str, object], mixture: Mapping[str, MixConfig], max_unreadable: float):
        self._streams, self._mixture, self._most = streams, mixture, max_unreadable
        self._counts = {name: dict.fromkeys(("documents", *COUNTED), 0) for name in streams}
        self._since = {name: dict(counts) for name, counts in self._counts.items()}

    def add(self, metrics: dict[str, jax.Array]) -> dict[str, float]:
        """Takes each ``seen/NAME`` out of a step's metrics, and returns the others as floats, with all that was seen.

        Raises ValueError, naming shards, when too much of a dataset could not be read.
        """
        taken = {name: metrics.pop(f"seen/{name}") for name in self._counts if f"seen/{name}" in metrics}
        taken, values = jax.device_get((taken, metrics))
        values = dict(values)
        for name, counts in self._counts.items():
            if (new := taken.get(name)) is not None:
                counts["documents"] += self._mixture[name].batch_size
                for key, value in zip(COUNTED, new, strict=True):
                    counts[key] += int(value)
                self._check(name, counts)
            values |= {f"seen/{name}/{key}": value for key, value in counts.items()}
            values[f"seen/{name}/epoch"] = counts["documents"] / self._streams[name].count
        return {name: float(value) for name, value in values.items()}

    def _check(self, name: str, counts: dict[str, int]) -> None:
        new = {key: value - self._since[name][key] for key, value in counts.items()}
        unreadable = new["unreadable_documents"] + new["unreadable_media"]
        total = new["documents"] + new["media"] + new["unreadable_media"]
        if unreadable > self._most * total and total >= _FIRST_LOOK:
            raise ValueError(
                f"{unreadable:,} of the last {total:,} documents and media of {name} could not be read, more than "
                f"config.streams.max_unreadable={self._most}; shards, with how many records this host met since it "
                "started:\n"
                f"{self._streams[name].unreadable() or '  none on this host'}\n"
                "Prepare them anew (of a prepared dataset, python -m flamingo_jax.prepare --verify finds all that is "
                "damaged; files that are read in place are to be mended), or allow a larger share."
            )
        if total >= _WINDOW:
            self._since[name] = dict(counts)

    def state(self) -> dict[str, dict]:
        """All of it, and where the streams are: what a checkpoint keeps. Of numbers and strings alone."""
        return {
            name: {
                "position": stream.get_state(),
                "size": stream.count,
                "seen": dict(self._counts[name]),
                **dataclasses.asdict(self._mixture[name]),
            }
            for name, stream in self._streams.items()
        }

    def restore(self, saved: Mapping[str, dict], say: Callable[[str], None]) -> None:
        """Sets the streams to what ``state`` returned. Mixture and datasets may be other ones now; that is said."""
        for name, stream in self._streams.items():
            if name not in saved:
                say(f"{name} is new: it is read from its beginning")
                continue
            old, new = saved[name], self._mixture[name]
            stream.set_state(old["position"])
            self._counts[name].update(old["seen"])
            self._since[name] = dict(self._counts[name])
            if old["size"] != stream.count:
                say(
                    f"{name} has {stream.count:,} documents, and had {old['size']:,}: its order is another one from "
                    "here on, in which some may come again early or late"
                )
            for key, value in dataclasses.asdict(new).items():
                if old.get(key, value) != value:
                    say(f"{name}: {key} is {value} from here on, and was {old[key]}")
        for name in saved.keys() - self._streams.keys():
            say(f"{name} is read no more; it had come to document {saved[name]['position']:,}")

    def report(self) -> list[str]:
        """A line per dataset."""
        lines = []
        for name, counts in self._counts.items():
            epochs = counts["documents"] / self._streams[name].count
            line = f"{name}: {counts['documents']:,} documents ({epochs:.2f} epochs), {counts['tokens']:,} tokens"
            line += f", {counts['media']:,} media" if counts["media"] else ""
            if counts["unreadable_documents"] or counts["unreadable_media"]:
                line += (
                    f"; {counts['unreadable_documents']:,} documents and {counts['unreadable_media']:,} media could "
                    "not be read and counted for nothing"
                )
            lines.append(line)
        return lines
