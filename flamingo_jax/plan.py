"""``python -m flamingo_jax.plan --config=configs/flamingo_9b.py ...``: what a run needs, before it is rented.

--params prints a table of parameters by part, trainable and frozen. Nothing is allocated: shapes alone are computed.

--topology=v5p:8x8x8 [--slices=2] [--mesh=1x64x8] [--stage=flamingo] compiles the whole train step for such TPUs with
their own compiler (``pip install -e '.[tpu]'``; no TPU is needed), prints what a device holds, what is sent and
how long a step may take, and keeps it in --output as JSON and Markdown. --search=4 ranks all meshes, rematerialisations
and microbatches that divide by rough sums, compiles the best four, and prints them by the compiler's estimate.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import app, flags, logging
from ml_collections import config_flags

from flamingo_jax import command, errors
from flamingo_jax import config as configs
from flamingo_jax.command import CONFIG, make_parser
from flamingo_jax.data.file import write_whole
from flamingo_jax.models.flamingo import Flamingo
from flamingo_jax.models.parts import part_of

flags.adopt_module_key_flags(command)
flags.adopt_module_key_flags(errors)
_TOPOLOGY = flags.DEFINE_string("topology", None, "Compile the train step for these TPUs, such as v5p:8x8x8.")
_SLICES = flags.DEFINE_integer("slices", 1, "How many of them, joined by the data center's network.", lower_bound=1)
_MESH = flags.DEFINE_string("mesh", None, "data x fsdp x tensor, such as 1x64x8; config.mesh if not given.")
_STAGE = flags.DEFINE_string("stage", None, "Which stage's step; that of the last stage if not given.")
_SEARCH = flags.DEFINE_integer("search", 0, "Rank what divides, and compile so many of the best.", lower_bound=0)
_OUTPUT = flags.DEFINE_string("output", "plans", "Folder of the plan's files.")
_PARAMS = flags.DEFINE_bool("params", False, "Print the table of parameters by part.")


def count(config: configs.ModelConfig) -> dict[str, dict[str, int]]:
    """{part: {"params": n, "frozen": n}}: how many weights of every part train and how many do not."""
    model = Flamingo(config, (config.language.vocab_size,))
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    media = jax.ShapeDtypeStruct((1, 1, 1, 320, 320, 3), jnp.uint8)
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens, media, tokens)
    table: dict[str, dict[str, int]] = {part: collections.Counter() for part in configs.PARTS}
    for collection in ("params", "frozen"):
        leaves = jax.tree_util.tree_flatten_with_path(nn.meta.unbox(variables.get(collection, {})))[0]
        for path, leaf in leaves:
            table[part_of([entry.key for entry in path])][collection] += leaf.size
    return table


def render(table: dict[str, dict[str, int]]) -> str:
    """The table as aligned text, with sums: the language model with its embeddings, and everything."""
    rows = [(configs.PARTS[part], row["params"], row["frozen"]) for part, row in table.items() if sum(row.values())]
    sums = {"language model (blocks and embeddings)": ("language", "embeddings"), "all": table}
    for name, parts in sums.items():
        rows.append((name, *(sum(table[part][key] for part in parts) for key in ("params", "frozen"))))
    cells = [("part", "trainable", "frozen", "total")]
    cells += [(name, *(f"{number:,}" for number in (a, b, a + b))) for name, a, b in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    lines = [f"{row[0]:<{widths[0]}}" + "".join(f"  {row[i]:>{widths[i]}}" for i in (1, 2, 3)) for row in cells]
    return "\n".join(lines)


def make(config: configs.RunConfig, name: str, stage: str, devices: list) -> dict:
    """The plan of a stage's step on ``devices``. name: the config's. Raises ValueError when something does not fit."""
    from flamingo_jax.planning import report, topology
    from flamingo_jax.planning.compile import TooLarge, compile_step
    from flamingo_jax.training import chips, sharding

    chip, mesh = chips.find(_TOPOLOGY.value), sharding.make_mesh(config.mesh, devices)
    about = {"config": name, "stage": stage, "topology": _TOPOLOGY.value, "slices": _SLICES.value}
    choice = {
        "mesh": dict(mesh.shape),
        "frozen": config.mesh.frozen,
        "int8": config.model.int8,
        "remat": config.model.remat,
        "microbatches": {key: mix.microbatches for key, mix in config.stages[stage].mixture.items()},
    }
    print(
        f"Compiling the step of {stage} for {len(devices)} devices, which takes minutes.", file=sys.stderr, flush=True
    )
    try:
        found = compile_step(config, stage, mesh, topology.links(_TOPOLOGY.value, mesh))
    except TooLarge as error:
        error.plan = about | choice | {"memory_bytes": {"peak": error.bytes, "chip": int(chip.memory)}}
        raise
    return report.numbers(found, chip, about | choice, len(devices))


def search(config: configs.RunConfig, name: str, stage: str, devices: list) -> None:
    """Keeps the plans of the best choices, and prints them ranked. Raises ValueError when none fits a chip's memory."""
    from flamingo_jax.planning import compile, report, topology
    from flamingo_jax.planning import search as searching
    from flamingo_jax.training import chips

    chip = chips.find(_TOPOLOGY.value)
    links = functools.partial(topology.links, _TOPOLOGY.value)
    ranked = searching.choices(config, stage, devices, links, compile.needed(config, stage))
    if not ranked:
        raise ValueError("No mesh of these devices divides the model and its batches.")
    count, plans, tried = _SEARCH.value, [], {}
    print(f"{len(ranked)} choices divide; the best {count} that fit are looked for.", flush=True)
    while len(plans) < count and len(tried) < 3 * count:
        choice = searching.best(ranked, chip.memory, tried)
        if choice is None:
            break
        print(f"{choice.text}: roughly {choice.seconds:.3g} s, {choice.bytes / 2**30:.1f} GiB", flush=True)
        try:
            plan = make(searching.apply(config, stage, choice), name, stage, devices)
            tried[choice] = plan["memory_bytes"]["peak"]
            keep(plan, _OUTPUT.value)
        except compile.TooLarge as error:
            tried[choice] = max(error.bytes, int(chip.memory) + 1)
        if tried[choice] <= chip.memory:
            plans.append((choice, plan))
        else:
            needed, there = tried[choice] / 2**30, chip.memory / 2**30
            print(f"  It needs {needed:.1f} GiB, of {there:.1f} that there are.", flush=True)
    if not plans:
        least = min(ranked, key=lambda choice: choice.bytes)
        raise ValueError(
            f"Nothing was found that fits into {chip.memory / 2**30:.0f} GiB: {least.text} needs least, roughly "
            f"{least.bytes / 2**30:.0f} GiB. Take more devices, or smaller batches."
        )
    print(report.ranking([(choice.text, plan) for choice, plan in plans]))


def make_folder(folder: str) -> None:
    """Makes the folder of the plan's files. Raises OSError naming it."""
    try:
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"Cannot make the folder --output={folder}: {error.strerror}.") from None


def keep(plan: dict, folder: str) -> None:
    """Writes the plan's two files, and prints it."""
    from flamingo_jax.planning import report

    shape = "x".join(map(str, plan["mesh"].values()))
    config = pathlib.Path(plan["config"]).name.replace(".py", "")
    parts = (config, plan["stage"], plan["topology"], str(plan["slices"]), shape)
    parts += (plan["remat"],) + (("replicated",) if plan["frozen"] == "replicated" else ())
    parts += (("int8",) if plan["int8"] else ()) + tuple(f"{k}{n}" for k, n in plan["microbatches"].items() if n > 1)
    path = pathlib.Path(folder) / "-".join(parts).replace(":", "-")
    write_whole(f"{path}.json", json.dumps(plan, indent=2))
    write_whole(f"{path}.md", text := report.markdown(plan))
    print(f"{text}\n{path}.json, {path}.md", flush=True)


def check(plan: dict, config: configs.RunConfig, devices: list) -> None:
    """Raises ValueError when the step does not fit into a chip's memory: by how much, and what would fit."""
    from flamingo_jax.planning import compile, topology
    from flamingo_jax.planning import search as searching

    peak, most = plan["memory_bytes"]["peak"], plan["memory_bytes"]["chip"]
    if peak <= most:
        return
    stage = plan["stage"]
    links = functools.partial(topology.links, _TOPOLOGY.value)
    ranked = searching.choices(config, stage, devices, links, compile.needed(config, stage))
    near = searching.nearest(ranked, plan)
    raise ValueError(
        f"The step needs {peak / 2**30:.1f} GiB a device, {(peak - most) / 2**30:.1f} more than there are. "
        + (f"The nearest that should fit: {near.text}" if near else "No mesh of these devices should fit: take more")
        + ", or fewer documents a batch."
    )


def chosen(config: configs.RunConfig) -> tuple[configs.RunConfig, str]:
    """The config with the mesh of the command line, and the stage. Raises ValueError when one is none."""
    stage = _STAGE.value or config.order[-1]
    if stage not in config.stages:
        raise ValueError(f"--stage={stage} is no stage of the config; {configs.suggest(stage, config.stages)}.")
    if not _MESH.value:
        return config, stage
    sizes = _MESH.value.split("x")
    if len(sizes) != 3 or not all(size.isdigit() for size in sizes):
        raise ValueError(f"--mesh={_MESH.value} must be three sizes, data x fsdp x tensor, such as 1x64x8.")
    data, fsdp, tensor = map(int, sizes)
    return dataclasses.replace(
        config, mesh=dataclasses.replace(config.mesh, data=data, fsdp=fsdp, tensor=tensor)
    ), stage


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"flamingo_jax.plan: {argv[1]!r} is no option; options look like --params.")
    if CONFIG.value is None:
        sys.exit("flamingo_jax.plan: Give a config: --config=configs/flamingo_9b.py.")
    if _SEARCH.value and not _TOPOLOGY.value:
        sys.exit("flamingo_jax.plan: --search needs the TPUs to search for: --topology=v5p:8x8x8.")
    if _SEARCH.value and _MESH.value:
        sys.exit("flamingo_jax.plan: --search chooses the mesh; leave --mesh out.")
    if not (_PARAMS.value or _TOPOLOGY.value):
        sys.exit("flamingo_jax.plan: Say what to plan: --params, or --topology=v5p:8x8x8.")
    logging.set_verbosity(logging.WARNING)
    jax.config.update("jax_platforms", "cpu")  # nothing is computed; the devices here do not matter
    with errors.as_sentences("flamingo_jax.plan"):
        config = configs.build(CONFIG.value)
        if _PARAMS.value:
            print(render(count(config.model)))
        if _TOPOLOGY.value:
            from flamingo_jax.planning import topology

            make_folder(_OUTPUT.value)  # before the minutes that it takes to compile
            config, stage = chosen(config)
            name = config_flags.get_config_filename(flags.FLAGS["config"])
            devices = topology.devices(_TOPOLOGY.value, _SLICES.value)
            if _SEARCH.value:
                search(config, name, stage, devices)
            else:
                from flamingo_jax.planning.compile import TooLarge

                try:
                    plan = make(config, name, stage, devices)
                    keep(plan, _OUTPUT.value)
                except TooLarge as error:  # the compiler made no program, of which there would be more to say
                    plan = error.plan
                    if plan["memory_bytes"]["peak"] <= plan["memory_bytes"]["chip"]:  # nor said how much it needs
                        raise
                check(plan, config, devices)


if __name__ == "__main__":
    app.run(main, flags_parser=make_parser("flamingo_jax.plan"))
