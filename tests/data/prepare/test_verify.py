"""A dataset is checked and looked at."""

import json
import re
import subprocess
import sys
from unittest import mock

import pytest
from archives import picture
from written import write

from flamingo_jax.data import document, image, record
from flamingo_jax.data.document import Document
from flamingo_jax.data.prepare import verify as verify_lib
from flamingo_jax.data.prepare.verify import verify
from flamingo_jax.data.show.documents import render

FRAME = image.store(picture(0), 48)


def page(i):
    return Document(f"page <{i}>", f"before & {i}\nfirst\nsecond <image>", (11, 17), ((FRAME,), (FRAME, FRAME)), "raw")


def test_a_whole_dataset(tmp_path):
    write(tmp_path / "set", map(page, range(6)), 3)
    seen = []
    assert verify(tmp_path / "set", progress=lambda *at: seen.append(at)) == []
    assert len(seen) == 3 and seen[-1][0] == seen[-1][1]


def test_every_damage_is_told(tmp_path):
    broken = Document("broken", "text", (0,), ((FRAME[:200],),))
    write(tmp_path / "set", [page(0), broken, page(2), page(3), page(4), page(5)], 3)
    first, second, third = sorted((tmp_path / "set").glob("*.array_record"))
    second.write_bytes(second.read_bytes()[:-5])
    third.unlink()
    faults = verify(tmp_path / "set")
    assert "record 1 (broken), medium 0: Not a readable image" in faults[0]
    assert any(re.search("00001-of-00003.*content is not what was written", fault) for fault in faults)
    assert any(re.search("Cannot read the file .*00002-of-00003", fault) for fault in faults)
    with pytest.raises(ValueError, match="no dataset at"):
        verify(tmp_path / "nothing")


def test_a_dataset_without_files(tmp_path):
    write(tmp_path / "set", [], 0)
    assert verify(tmp_path / "set") == []


def test_errors_without_a_message_are_faults(tmp_path, monkeypatch):
    write(tmp_path / "set", [page(0)])
    (path,) = (tmp_path / "set").glob("*.array_record")
    entry = record.read_manifest(tmp_path / "set")["files"][path.name]
    monkeypatch.setattr(document, "decode", mock.Mock(side_effect=MemoryError()))
    assert verify_lib._faults(str(path), json.dumps(entry)) == [f"{path}, record 0: MemoryError()"]


def test_a_manifest_that_contradicts_itself(tmp_path):
    write(tmp_path / "set", map(page, range(6)), 3)
    path = tmp_path / "set" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"report": {"documents": 7}}))
    assert verify(tmp_path / "set") == [f"{path}: its report says 7, but count is 6"]
    path.write_text(json.dumps(manifest | {"count": 7}))
    assert verify(tmp_path / "set") == [f"{path}: count is 7, but its files say otherwise"]


def test_documents_are_shown(tmp_path):
    write(tmp_path / "set", map(page, range(6)), 2)
    html = render(tmp_path / "set", count=2)
    assert html.count("<article>") == 2 and html.count('<img src="data:image/jpeg;base64,') == 6
    assert "page &lt;" in html and "second &lt;image&gt;" in html and "before &amp;" in html
    assert re.findall(r"phi = (\d) \((\d)\)", html) == [("0", "1"), ("1", "2"), ("2", "0")] * 2
    assert html == render(tmp_path / "set", count=2) and render(tmp_path / "set", count=99).count("<article>") == 6


def test_the_command(tmp_path):
    def command(*options):
        arguments = [sys.executable, "-m", "flamingo_jax.prepare", *options]
        return subprocess.run(arguments, capture_output=True, text=True)

    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{\n')
    raw = ["--format=text", f"--source={tmp_path}/*.jsonl", f"--target={tmp_path}/set"]
    done = command(*raw)
    assert done.returncode == 0 and "1 documents with 0 media." in done.stdout, done.stderr
    assert "1  line not JSON (first: a.jsonl:2" in done.stdout and "1 of these are damaged" in done.stdout
    checked = command(f"--target={tmp_path}/set", "--verify")
    assert checked.returncode == 0 and "is whole: 1 documents in 1 files" in checked.stdout, checked.stderr
    shown = command(f"--target={tmp_path}/set", f"--show={tmp_path}/page.html")
    assert shown.returncode == 0 and "<article>" in (tmp_path / "page.html").read_text(), shown.stderr
    for options, said in (
        (["--run=a", "--set=media=1"], "--set has no meaning with --run"),
        (["--run=a", "--tokenizer=b"], "--tokenizer has no meaning with --run"),
        (["--set=media=1"], "--show needs --tokenizer as well"),
        (["--show="], "Give --show and --target; --show is missing"),
    ):
        wrong = command(f"--target={tmp_path}/set", f"--show={tmp_path}/page.html", *options)
        assert wrong.returncode == 1 and said in wrong.stderr, wrong.stderr
    wrong = command(*raw, "--set=sizo=3")
    assert wrong.returncode == 1 and "--set.sizo is unknown; did you mean 'size'?" in wrong.stderr
    for options, said in (
        (["--format=vqav2", "--runner=DirectRunner"], "--runner has no meaning with --format=vqav2"),
        (["--format=coco"], "needs the one that holds its public files|lack what coco is made of"),
        (["--format=coco", f"--source={tmp_path}/a.jsonl"], "a.jsonl is no readable JSON|a.jsonl"),
    ):
        wrong = command(f"--source={tmp_path}", f"--target={tmp_path}/other", *options)
        assert wrong.returncode == 1 and re.search(said, wrong.stderr) and "Traceback" not in wrong.stderr, wrong.stderr
    for path in (tmp_path / "set").glob("*.array_record"):
        path.write_bytes(path.read_bytes()[:100])
    checked = command(f"--target={tmp_path}/set", "--verify")
    assert checked.returncode == 1 and "set is damaged; prepare it anew." in checked.stderr
