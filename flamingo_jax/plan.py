"""``python -m flamingo_jax.plan --config=configs/flamingo_9b.py --params``: what a run needs, before it is rented.

--params prints a table of parameters by part, trainable and frozen. Nothing is allocated: shapes alone are computed.
"""

from __future__ import annotations

import collections
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import app, flags, logging

from flamingo_jax import command, errors
from flamingo_jax import config as configs
from flamingo_jax.command import CONFIG, make_parser
from flamingo_jax.models.flamingo import Flamingo
from flamingo_jax.models.parts import part_of

flags.adopt_module_key_flags(command)
flags.adopt_module_key_flags(errors)
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


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"flamingo_jax.plan: {argv[1]!r} is no option; options look like --params.")
    if CONFIG.value is None:
        sys.exit("flamingo_jax.plan: Give a config: --config=configs/flamingo_9b.py.")
    if not _PARAMS.value:
        sys.exit("flamingo_jax.plan: Say what to print: --params.")
    logging.set_verbosity(logging.WARNING)
    jax.config.update("jax_platforms", "cpu")  # nothing is computed; the devices here do not matter
    with errors.as_sentences("flamingo_jax.plan"):
        config = configs.build(CONFIG.value)
        print(render(count(config.model)))


if __name__ == "__main__":
    app.run(main, flags_parser=make_parser("flamingo_jax.plan"))
