"""A plan as a table for people, and as numbers for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flamingo_jax.planning.compile import Compiled
from flamingo_jax.training.chips import Chip

_GIB = 2**30


def numbers(found: Compiled, chip: Chip, about: Mapping[str, Any], devices: int) -> dict[str, Any]:
    """All of a plan, as JSON has it. about: which config, stage, topology and mesh it is of."""
    seconds = found.estimate.seconds
    peak = devices * chip.flops * seconds
    return {
        **about,
        "devices": devices,
        "memory_bytes": {**found.memory, "chip": int(chip.memory)},
        "collectives": [{"kind": kind, "where": where, **entry} for (kind, where), entry in found.collectives.items()],
        "flops": {"needed": found.flops, "naive_6n": found.naive},
        "work": found.work,
        "estimate": {
            "seconds": seconds,
            "busy_seconds": dict(found.estimate.busy),
            "waited_seconds": dict(found.estimate.waited),
            "tokens_per_second": found.work["tokens"] / seconds,
            "images_per_second": found.work["images"] / seconds,
            "mfu": found.flops / peak,
            "mfu_naive_6n": found.naive / peak,
        },
        "compile_seconds": found.seconds,
    }


def markdown(plan: Mapping[str, Any]) -> str:
    """``numbers`` to read."""
    memory, estimate, work = plan["memory_bytes"], plan["estimate"], plan["work"]
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan["mesh"].items())
    lines = [
        f"# {plan['config']}, stage {plan['stage']}, on {plan['slices']} x {plan['topology']}",
        "",
        f"{plan['devices']:,} devices, {mesh}; a step of {work['tokens']:,} tokens and {work['images']:,} images.",
        f"Frozen weights {plan['frozen']}, int8 {plan['int8']}; remat {plan['remat']}; microbatches "
        + ", ".join(f"{key} {count}" for key, count in plan["microbatches"].items())
        + ".",
        "",
        "| memory of a device | GiB |",
        "|---|---|",
        *(f"| {name} | {memory[name] / _GIB:.2f} |" for name in ("arguments", "temporary", "peak", "chip")),
        *([f"| of the host, for each | {memory['host'] / _GIB:.2f} |"] if memory["host"] else []),
        "",
        "| collectives, a device and step | where | times | MB | ms alone | ms waited for |",
        "|---|---|---|---|---|---|",
    ]
    for entry in plan["collectives"]:
        waited = estimate["waited_seconds"].get(entry["kind"], 0.0)
        lines.append(
            f"| {entry['kind']} | {entry['where']} | {entry['times']:,} | {entry['bytes'] / 1e6:,.1f} | "
            f"{1000 * entry['seconds']:.2f} | {1000 * waited:.2f} (of the kind) |"
        )
    busy = estimate["busy_seconds"]
    lines += [
        "",
        f"Needed: {plan['flops']['needed']:.3e} floating-point operations a step (by the rule of 6 per weight and "
        f"token: {plan['flops']['naive_6n']:.3e}).",
        "",
        "**Estimated, not measured**, by the compiler's schedule: "
        f"{estimate['seconds']:.4g} s a step ({busy.get('matrix', 0):.3g} s matrix units, "
        f"{busy.get('memory', 0):.3g} s memory, {sum(estimate['waited_seconds'].values()):.3g} s waiting), "
        f"{estimate['tokens_per_second']:,.0f} tokens/s, {estimate['images_per_second']:,.0f} images/s, "
        f"MFU {estimate['mfu']:.1%} (by that rule {estimate['mfu_naive_6n']:.1%}).",
        f"Compiled in {plan['compile_seconds']:.0f} s.",
    ]
    return "\n".join(lines) + "\n"


def ranking(plans: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """A table of plans, each with the options that it was made by, the fastest first."""
    lines = ["| options | estimated s a step | estimated MFU | peak GiB |", "|---|---|---|---|"]
    for text, plan in sorted(plans, key=lambda pair: pair[1]["estimate"]["seconds"]):
        lines.append(
            f"| `{text}` | {plan['estimate']['seconds']:.3g} | {plan['estimate']['mfu']:.1%} | "
            f"{plan['memory_bytes']['peak'] / _GIB:.1f} |"
        )
    return "\n".join(lines)
