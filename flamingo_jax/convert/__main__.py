"""``python -m flamingo_jax.convert --source=DIR_OR_HUB_ID --target=DIR``: public checkpoints in, ours out.

--source: a language model, a vision encoder, IDEFICS or OpenFlamingo as public libraries write them, a folder of ours,
or the workdir of a run. OpenFlamingo's released ``checkpoint.pt`` holds what was trained alone: --language and --vision
name the folders of its language model and of its CLIP tower.

--dry_run lists which tensors become which weights, and reads none.
"""

from __future__ import annotations

import sys

from absl import app, flags, logging

from flamingo_jax import errors

flags.adopt_module_key_flags(errors)

SOURCE = flags.DEFINE_string("source", None, "Folder, OpenFlamingo's checkpoint.pt, or hub id.")
TARGET = flags.DEFINE_string("target", None, "Folder to write; it must not exist, or be empty.")
EXPORT = flags.DEFINE_enum(
    "export",
    "orbax",
    ["orbax", "safetensors", "open_flamingo", "idefics"],
    "What to write: for this package, in Orbax or in safetensors; or what others read, where the architecture fits.",
)
DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16", "int8"], "Type of the weights; the source's if not given."
)
REVISION = flags.DEFINE_string("revision", None, "Branch, tag or commit of a hub id; the newest commit if not given.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "List the plan; read and write no weights.")
LANGUAGE = flags.DEFINE_string("language", None, "Of OpenFlamingo's checkpoint.pt: its language model's folder.")
VISION = flags.DEFINE_string("vision", None, "Of OpenFlamingo's checkpoint.pt: its CLIP tower's folder.")
EVERY = flags.DEFINE_integer("cross_attn_every_n_layers", None, "Of OpenFlamingo's checkpoint.pt, to be checked.")
EOC = flags.DEFINE_integer("eoc_token_id", None, "Of OpenFlamingo's checkpoint.pt: the id of <|endofchunk|>.")
MULTIHOST = flags.DEFINE_bool("multihost", False, "On every host of a pod: convert together, each its own part.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"flamingo_jax.convert: {argv[1]!r} is no option; options look like --source=DIR.")
    if not SOURCE.value:
        sys.exit("flamingo_jax.convert: Give --source=DIR_OR_HUB_ID.")
    if not (TARGET.value or DRY_RUN.value):
        sys.exit("flamingo_jax.convert: Give --target=DIR, or --dry_run to see the plan.")
    logging.set_verbosity(logging.WARNING if errors.TRACEBACK.value else logging.FATAL)
    parts = {"language": LANGUAGE.value, "vision": VISION.value, "every": EVERY.value, "eoc": EOC.value}
    with errors.as_sentences("flamingo_jax.convert", "Nothing was written."):
        import jax

        from flamingo_jax import sources
        from flamingo_jax.convert import run

        if MULTIHOST.value:
            jax.distributed.initialize()
        source = run.open_source(SOURCE.value, REVISION.value, parts, sources.find)
        if DRY_RUN.value:
            print(run.render(source, EXPORT.value, DTYPE.value))
        else:
            print(run.convert(source, TARGET.value, EXPORT.value, DTYPE.value))


if __name__ == "__main__":
    app.run(main)
