"""A fuzzer of the readers: damages small valid folders of every format, reads them, and checks what comes out.

Corpora of every format are prepared, evaluation sets are converted, datasets and benchmarks are read.

    python tests/data/fuzz.py --folder=DIR [--names=html,tar] [--first=0] [--count=1000000] [--seconds=60]

A case is a name of ``CASES`` and a number, which decide everything. The case that is being tried is in DIR/now,
and its files are in DIR/NAME-NUMBER, where they stay if it fails; so a crash of the process leaves it there.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import json
import os
import pathlib
import re
import shutil
import sys
import time
import traceback
import zlib
from collections.abc import Iterator

import numpy as np
from damage import damage, pick
from folders import FOLDERS, TRIES
from valid import CORPORA, Corpora, Files

from flamingo_jax.config import CorpusConfig, DuplicateRules, ImageRules, TextRules
from flamingo_jax.data import image, media
from flamingo_jax.data.corpus import Corpus, Task
from flamingo_jax.data.document import Document, Dropped, Raw, decode, encode
from flamingo_jax.data.filters import duplicates
from flamingo_jax.data.formats import FORMATS
from flamingo_jax.data.prepare.make import Maker
from flamingo_jax.data.prepare.plan import make_plan

SECONDS = 5.0
"""Of processor time that one case may take."""

BYTES = 3 << 29
"""That the process may hold at its peak: 1.5 GiB."""

SIZE = 48

CASES = CORPORA | FOLDERS


def prepare(options: CorpusConfig, folder: pathlib.Path) -> Iterator[Document | Dropped]:
    """What the preparation makes of a corpus, in this process; the files of the index go to ``folder``."""
    plan = make_plan(options)
    if options.images and not os.path.isdir(options.images):
        media.write_index(options.images, f"{folder}/index")
        find = media.Index(f"{folder}/index", plan.root)
    else:
        find = media.in_folder(options.images or plan.root)
    tasks = [task for tasks in plan.shards for task in tasks]
    corpus, rules = Corpus(options, plan.root, find), options.duplicates
    rows = (
        (key, number)
        for number, item in (read(tasks, corpus) if duplicates.needs_census(rules) else ())
        if isinstance(item, Raw)
        for key in duplicates.census(item, rules)
    )
    found = duplicates.repeated(duplicates.count(rows), rules)
    make = Maker(options, duplicates.Duplicates(found, np.empty(0, np.uint64), 0))
    for number, item in read(tasks, corpus):
        yield from [item] if isinstance(item, Dropped) else make(item, number)


def read(tasks: list[Task], corpus: Corpus) -> Iterator[tuple[int, Raw | Dropped]]:
    """(number of the task, item) for all items. An error may come in place of a task's first item only."""
    for number, task in enumerate(tasks):
        started = False
        try:
            for item in FORMATS[corpus.options.format].read(task, corpus):
                started = True
                yield number, item
        except (ValueError, OSError):
            assert not started, "An error after the first item."
            raise


def check(outcome: Document | Dropped, options: CorpusConfig) -> None:
    """That an outcome is one that can be written, trained on and reported."""
    if isinstance(outcome, Dropped):
        assert 5 < len(outcome.reason) < 50 and outcome.reason.replace(" ", "").isalpha(), outcome.reason
        assert 0 < len(outcome.place) < 5_000, f"{outcome.reason}: a place of {len(outcome.place)} characters"
        json.dumps([outcome.reason, outcome.place, outcome.bad])
        return
    again = decode(encode(outcome))
    assert (again.positions, again.media) == (outcome.positions, outcome.media)
    assert len(again.text) == len(outcome.text) and again.text.strip()
    assert FORMATS[options.format].kind == "text" or again.media
    for frames in again.media:
        assert len(frames) <= options.max_frames
        for frame in frames:
            assert max(image.decode(frame).shape) <= options.size


def try_case(name: str, number: int, folder: pathlib.Path) -> str:
    """Runs one case; raises for what must not be. Number -1 leaves the files whole. Returns what came out."""
    files, options = valid(name)
    rng = np.random.default_rng([number + 1, zlib.crc32(name.encode())])
    if number >= 0:
        target = choose(rng, files)
        damaged = damage(rng, target, files[target], files[choose(rng, files)])
        files = {name: data for name, data in files.items() if "/" not in name or rng.random() < 0.2}  # some media
        files[target] = damaged
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    attempt = TRIES.get(name.split()[0], try_corpus)
    try:
        return attempt(folder, options, number)
    except (ValueError, OSError) as error:
        assert type(error) in (ValueError, OSError) and str(folder) in str(error), repr(error)
        return "refused"


def try_corpus(folder: pathlib.Path, options: dict, number: int) -> str:
    """Prepares a corpus, which may raise; a quarter of the cases look for repetitions."""
    options = options | {key: f"{folder}/{options[key]}" for key in ("source", "images") if key in options}
    repeats = number % 4 == 0
    rules = DuplicateRules(pages=repeats, image_copies=repeats, paragraph_copies=repeats, in_page=repeats)
    config = CorpusConfig(
        size=SIZE,
        max_frames=3,
        image=ImageRules(8),
        text=TextRules(formats=()),
        duplicates=rules,
        **options,
    )
    documents = drops = 0
    for outcome in prepare(config, folder):
        check(outcome, config)
        documents += isinstance(outcome, Document)
        drops += isinstance(outcome, Dropped) and outcome.bad
    return f"{documents} documents, {drops} bad"


@functools.cache
def valid(name: str) -> Corpora:
    return CASES[name]()


def choose(rng: np.random.Generator, files: Files) -> str:
    """A file: half the time one of those that are not media."""
    names = [name for name in files if "/" not in name] if rng.random() < 0.5 else list(files)
    return pick(rng, names)


def peak() -> int:
    """The most bytes that this process has held. (``ru_maxrss`` begins with those of the process that started it.)"""
    return 1024 * int(re.search(r"VmHWM:\s*(\d+)", pathlib.Path("/proc/self/status").read_text())[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--names", default=",".join(CASES))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=10**9)
    options = parser.parse_args()
    faulthandler.enable()
    start, cases, failures, outcomes = time.monotonic(), 0, 0, {}
    for number in range(options.first, options.first + options.count):
        for name in options.names.split(","):
            if time.monotonic() - start > options.seconds:
                break
            case = options.folder / f"{name}-{number}".replace(" ", "_")
            (options.folder / "now").write_text(f"{name} {number}")
            case.mkdir(parents=True)
            begun = time.process_time()
            try:
                word = try_case(name, number, case)
                took, held = time.process_time() - begun, peak()
                assert took < SECONDS, f"{took:.1f} seconds"
                assert held < BYTES, f"{held / 1e9:.1f} GB"
            except BaseException:
                failures += 1
                print(f"--- {name}, case {number}, in {case}:\n{traceback.format_exc()}", flush=True)
            else:
                shutil.rmtree(case)
                outcomes[word.partition(",")[0]] = outcomes.get(word.partition(",")[0], 0) + 1
            cases += 1
        else:
            continue
        break
    print(f"{cases} cases, {failures} failures; {outcomes}")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
