"""``python -m flamingo_jax.prepare --format=FORMAT --source=GLOB --target=DIR``: raw files of the web become a dataset.

With the name of an evaluation set for a format (``flamingo_jax/data/benchmarks``), --source is the folder of its public
files, which become the benchmark DIR/FORMAT. The options are then max_bad and query, the split: --set=query=test-dev

Interrupted and started again, it goes on where it stopped. All other options are keys of ``CorpusConfig``
(``flamingo_jax/config/corpus.py``, which explains them): --set=size=224 --set=text.min_words=20

``--align=CLIP_DIR --source=DATASET --target=DIR``: a dataset that is prepared already becomes one whose images stand
before the sentences that they fit best. Its options are keys of ``AlignConfig`` (``flamingo_jax/config/align.py``).

``--show=PAGE.html --target=DATASET`` shows documents as they are stored; with ``--run=DIR`` rows as a run reads them;
with ``--tokenizer=PATH`` examples, whose keys (``flamingo_jax/config/example.py``) ``--set`` gives: --set=flip=0.5
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import tqdm
from absl import app, flags, logging

from flamingo_jax import config as configs
from flamingo_jax import errors
from flamingo_jax.config import AlignConfig, CorpusConfig
from flamingo_jax.config.assignments import parse_options

flags.adopt_module_key_flags(errors)
FORMAT = flags.DEFINE_string("format", None, "The raw files' format.")
SOURCE = flags.DEFINE_string("source", None, "Glob of the raw files; ** stands for any folders. Of --align: a dataset.")
TARGET = flags.DEFINE_string("target", None, "Folder of the dataset.")
IMAGES = flags.DEFINE_string(
    "images", "", "Where images and clips are that the raw files name: a folder, or a glob of tars or url,file tables."
)
WORKERS = flags.DEFINE_integer("workers", 0, "Processes; as many as there are cores if 0.", lower_bound=0)
VERIFY = flags.DEFINE_bool("verify", False, "Check the dataset at --target: every file, document and picture.")
SHOW = flags.DEFINE_string("show", None, "Write documents of the dataset at --target into this HTML file, to look at.")
RUN = flags.DEFINE_string(
    "run", None, "Folder of a run: --show shows the rows that its last stage reads first of its dataset --target."
)
TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "A tokenizer: --show shows examples, whose keys (flamingo_jax/config/example.py) --set gives."
)
COUNT = flags.DEFINE_integer(
    "documents", 20, "How many documents --show shows, or rows, of a run a batch at most.", lower_bound=1
)
ALIGN = flags.DEFINE_string(
    "align", None, "Folder of a CLIP, public or converted: put the images of the dataset --source at their sentences."
)
RUNNER = flags.DEFINE_string(
    "runner", None, "Apache Beam's runner, to work on many machines; its own options stand at the end, after --"
)
SET = flags.DEFINE_multi_string(
    "set", [], "Any other option, by its key in flamingo_jax/config/corpus.py: --set=size=224 --set=text.min_words=20"
)


def main(argv: list[str]) -> None:
    if len(argv) > 1 and not RUNNER.value:
        sys.exit(f"flamingo_jax.prepare: {argv[1]!r} is no option; options look like --source=GLOB.")
    needed = (SOURCE, TARGET) if ALIGN.value else (FORMAT, SOURCE, TARGET)
    needed = (TARGET,) if VERIFY.value else (SHOW, TARGET) if SHOW.value is not None else needed
    for flag in needed:
        if not flag.value:
            sys.exit(
                f"flamingo_jax.prepare: Give {' and '.join('--' + f.name for f in needed)}; --{flag.name} is missing."
            )
    logging.set_verbosity(logging.WARNING)
    with errors.as_sentences("flamingo_jax.prepare", "The same command goes on where it stopped."):
        from flamingo_jax.data.benchmarks import BENCHMARKS
        from flamingo_jax.data.file import check_place
        from flamingo_jax.data.formats import FORMATS

        for flag in (SOURCE, TARGET, IMAGES):
            check_place(f"--{flag.name}", flag.value or "")
        if VERIFY.value and SHOW.value:
            raise ValueError("--verify and --show are two commands; give one of them.")
        if VERIFY.value:
            _verify()
        elif SHOW.value:
            _show()
        elif ALIGN.value:
            _align()
        # COCO's captions are both: a folder has a benchmark, a file pairs to train on.
        elif FORMAT.value in BENCHMARKS and (FORMAT.value not in FORMATS or os.path.isdir(SOURCE.value)):
            _convert()
        elif FORMAT.value in FORMATS:
            _prepare(argv[1:])
        else:
            known = tuple(dict.fromkeys((*FORMATS, *BENCHMARKS)))
            raise ValueError(f"--format={FORMAT.value} is unknown; {configs.suggest(FORMAT.value, known)}.")


def _prepare(beam_arguments: list[str]) -> None:
    from flamingo_jax.data.prepare import beam, prepare

    driver = None
    if RUNNER.value:
        driver = functools.partial(beam.run, arguments=[f"--runner={RUNNER.value}", *beam_arguments])
    given = {"format": FORMAT.value, "source": SOURCE.value, "images": IMAGES.value}
    options = configs.build(given | parse_options(SET.value), CorpusConfig, "--set")
    with tqdm.tqdm(unit="B", unit_scale=True, disable=None) as bar:
        report = prepare(options, TARGET.value, workers=_workers(), driver=driver, progress=_follow(bar))
    print(describe(report))


def _align() -> None:
    if given := [flag.name for flag in (FORMAT, IMAGES, RUNNER) if flag.value]:
        raise ValueError(f"--{given[0]} has no meaning with --align, which starts from a dataset.")
    options = configs.build({"source": SOURCE.value} | parse_options(SET.value), AlignConfig, "--set")
    from flamingo_jax import clip
    from flamingo_jax.data.prepare.align import realign

    model = clip.load(ALIGN.value, options.batch)
    with tqdm.tqdm(unit=" documents", unit_scale=True, disable=None) as bar:
        report = realign(options, TARGET.value, model, threads=_workers(), progress=_follow(bar))
    print(describe(report))


def _verify() -> None:
    from flamingo_jax.data import record
    from flamingo_jax.data.prepare.verify import verify

    with tqdm.tqdm(unit="B", unit_scale=True, disable=None) as bar:
        faults = verify(TARGET.value, _workers(), _follow(bar))
    if faults:
        sys.exit("\n".join([f"flamingo_jax.prepare: {TARGET.value} is damaged; prepare it anew.", *faults]))
    manifest = record.read_manifest(TARGET.value)
    print(f"{TARGET.value} is whole: {manifest['count']:,} documents in {len(manifest['files'])} files.")


def _show() -> None:
    from flamingo_jax.data.file import write_whole
    from flamingo_jax.data.show import documents

    if RUN.value and (TOKENIZER.value or SET.value):
        other = "--tokenizer" if TOKENIZER.value else "--set"
        raise ValueError(f"{other} has no meaning with --run, whose config says how its rows are made.")
    if SET.value and not TOKENIZER.value:
        raise ValueError("--set says how examples are made, for which --show needs --tokenizer as well.")
    if RUN.value or TOKENIZER.value:
        from flamingo_jax import streams  # takes seconds, for it knows of models

    if RUN.value:
        page = streams.show_run(RUN.value, TARGET.value, COUNT.value)
    elif TOKENIZER.value:
        page = streams.show_dataset(TARGET.value, TOKENIZER.value, parse_options(SET.value), COUNT.value)
    else:
        page = documents.render(TARGET.value, COUNT.value)
    write_whole(SHOW.value, page)
    print(f"{SHOW.value}: open it in a browser.")


def _workers() -> int:
    return WORKERS.value or os.cpu_count() or 1


def _convert() -> None:
    from flamingo_jax.data.benchmarks import convert, describe

    if RUNNER.value:
        raise ValueError(
            f"--runner has no meaning with --format={FORMAT.value}: evaluation sets are converted at once."
        )
    options = parse_options(SET.value)
    if unknown := options.keys() - {"query", "max_bad"}:
        hint = configs.suggest(min(unknown), ("query", "max_bad"))
        raise ValueError(f"--set={min(unknown)} is no option of evaluation sets; {hint}.")
    report = convert(FORMAT.value, SOURCE.value, TARGET.value, IMAGES.value, **options)
    print(describe(report))


def _follow(bar: tqdm.tqdm) -> Callable[[int, int], None]:
    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return update


def describe(report: Mapping[str, Any]) -> str:
    """What was kept and what was left out, with the first case of each reason."""
    lines = [f"{report['documents']:,} documents with {report['media']:,} media."]
    if "placed" in report:
        lines.append(
            f"{report['placed']:,} images stand before the sentences that were found for them (mean similarity "
            f"{report['similarity']:.3f}), {report['moved']:,} of them elsewhere than before."
        )
    for reason, count in report.get("untouched", {}).items():
        lines.append(f"As they were: {count:,}  {reason}")
    if report["drops"]:
        lines.append("Left out:")
    for reason, count in sorted(report["drops"].items(), key=lambda item: -item[1]):
        lines.append(f"  {count:>9,}  {reason} (first: {report['first_drops'][reason]})")
    if report["bad"]:
        lines.append(f"{report['bad']:,} of these are damaged; the .bad.jsonl files beside the dataset list them all.")
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main)
