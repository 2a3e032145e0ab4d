"""``python -m flamingo_jax.train --config=configs/base.py --workdir=DIR``: all stages of a run, one after another.

A stage that is complete in DIR is skipped, one that was interrupted is resumed:

    DIR/config.json          what this folder was made with
    DIR/world/               raw files (only when the config has a world)
    DIR/data/NAME/           prepared records of each dataset
    DIR/tokenizer.json
    DIR/STAGE/               metrics.jsonl, TensorBoard events, checkpoints while it trains, result.json when complete
    DIR/weights/             finished weights, addressed by content
    DIR/evaluation/          results.json, results.md, plots
"""

from __future__ import annotations

import difflib
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from flamingo_jax import config as configs
from flamingo_jax.config import RunConfig

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The run's configuration; override keys with --config.key=value."
)
_WORKDIR = flags.DEFINE_string("workdir", "runs/base", "Folder of this run.")
_ACCEPT = flags.DEFINE_bool("accept_changed_config", False, "Continue a workdir that another config made.")
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error arose.")


def check_workdir(config: RunConfig, workdir: pathlib.Path, accept_changed: bool) -> None:
    """Records the config in a new workdir; in an old one raises ValueError when it was made by another config."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"--workdir={workdir} is a file; give a folder.") from None
    path, text = workdir / "config.json", configs.to_json(config)
    if path.exists() and not accept_changed:
        old, new = path.read_text().splitlines(), text.splitlines()
        change = "\n".join(difflib.unified_diff(old, new, "the workdir's config", "this config", n=2, lineterm=""))
        if change:
            raise ValueError(
                f"{workdir} was made by another config:\n{change}\n"
                "Use another --workdir, or --accept_changed_config to continue with this one's unfinished stages."
            )
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)  # whole or not at all


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments {argv[1:]}; options look like --config.seed=1.")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # the checkpoint library tells every detail at the default level
    try:
        config = configs.build(_CONFIG.value)
        workdir = pathlib.Path(_WORKDIR.value).absolute()
        check_workdir(config, workdir, _ACCEPT.value)
        # Imported here: worker processes import this module anew, and need neither JAX nor the two seconds it takes.
        from flamingo_jax import pipeline

        pipeline.run(config, workdir)
    except (ValueError, OSError) as error:
        if _TRACEBACK.value:
            raise
        sys.exit(f"flamingo_jax.train: {error}\n(--traceback shows where this arose)")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
