"""Damaged folders of every format, read in a process of their own, which a decoder may crash: see fuzz.py.

    FUZZ_SECONDS=3600 pytest -m slow -n 0 tests/data/test_fuzz.py

fuzzes for an hour; FUZZ_FIRST is the number of the first case, 0 if not given.
"""

import os
import signal
import subprocess
import sys
import time

import damage
import folders
import fuzz
import numpy as np
import public
import pytest
import valid

from flamingo_jax.data import image
from flamingo_jax.data.benchmarks import BENCHMARKS
from flamingo_jax.data.formats import FORMATS

HANGS = 60
"""Seconds after which a case has hung."""


def run(folder, *options, script=fuzz.__file__, hangs=HANGS):
    """Fuzzes; fails with the case and what was said of it."""
    folder.mkdir()
    now, log = folder / "now", folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, script, f"--folder={folder}", *options],
            stdout=file,
            stderr=file,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        while process.poll() is None:
            time.sleep(0.1)
            if now.exists() and time.time() - now.stat().st_mtime > hangs:
                process.send_signal(signal.SIGABRT)  # it then tells where it is
                process.wait(hangs)
    said = log.read_text(errors="replace")
    assert process.returncode == 0, f"{process.returncode}, at the case {now.read_text()} in {folder}:\n{said[-5000:]}"
    return said


def test_every_format_is_fuzzed():
    assert {name.split()[0] for name in valid.CORPORA} == set(FORMATS)
    assert {name.split()[0] for name in public.SETS} == set(BENCHMARKS)
    assert {name.split()[0] for name in folders.FOLDERS} == {"set", "dataset", "benchmark"}


@pytest.mark.parametrize("name", fuzz.CASES)
def test_whole_folders_are_read(name, tmp_path):
    found, bad = fuzz.try_case(name, -1, tmp_path).split(", ")
    assert int(found.split()[0]) >= (1 if name.startswith("set") else 2) and bad == "0 bad"


def test_damaged_folders_are_documents_or_drops(tmp_path):
    names = ",".join(name for name in fuzz.CASES if name != "tfds")  # which takes seconds to start
    assert "0 failures" in run(tmp_path / "f", f"--names={names}", "--count=6")


@pytest.mark.slow
def test_many_damaged_folders_are_documents_or_drops(tmp_path):
    seconds, first = os.environ.get("FUZZ_SECONDS", "60"), os.environ.get("FUZZ_FIRST", "0")
    print(run(tmp_path / "f", f"--seconds={seconds}", f"--first={first}"))


def test_what_must_not_be_is_noticed(tmp_path, monkeypatch):
    for wrong in (lambda *_: b"no JPEG", lambda *_: image.encode(np.zeros((90, 90, 3), np.uint8))):
        monkeypatch.setattr(image, "store", wrong)
        with pytest.raises((ValueError, AssertionError)):
            fuzz.try_case("tar", -1, tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("os.abort()", "Fatal Python error"), ("time.sleep(60)", "in <lambda>"), ("[][0]", "IndexError")],
)
def test_a_crash_a_hang_and_an_exception_are_reported(tmp_path, wrong, said):
    script = tmp_path / "script.py"
    script.write_text(f"import os, time, fuzz\nfuzz.CASES = {{'html': lambda: {wrong}}}\nfuzz.main()")
    with pytest.raises(AssertionError, match=rf"at the case html 7 in .*f:(?s:.*){said}"):
        run(tmp_path / "f", "--first=7", "--count=1", "--names=html", script=script, hangs=2)
    assert (tmp_path / "f" / "html-7").is_dir()


def test_a_case_is_the_same_again(tmp_path):
    files = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        fuzz.try_case("text", 3, folder)
        files.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert files[0] == files[1] != fuzz.valid("text")[0]


def test_checksums_are_made_right_again():
    for name, data in (("a.png", valid.images()["a.png"]), ("a.tar", valid.samples(False))):
        assert damage.repair(name, data) == data
        damaged = bytearray(data)
        damaged[20] ^= 1
        assert damage.repair(name, bytes(damaged)) not in (data, bytes(damaged))
