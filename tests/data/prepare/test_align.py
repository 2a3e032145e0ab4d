"""Images of a prepared dataset are put before the sentences that a tiny CLIP finds most alike."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from archives import picture
from scipy.optimize import linear_sum_assignment
from written import write

from flamingo_jax import clip
from flamingo_jax.config import AlignConfig
from flamingo_jax.data import record
from flamingo_jax.data.document import Document
from flamingo_jax.data.filters.sentences import sentences
from flamingo_jax.data.prepare import align, shard, state
from flamingo_jax.data.prepare.align import realign

ROOT = pathlib.Path(__file__).parents[3]
CLIP = ROOT / "tests" / "golden" / "clip" / "clip_whole"


@pytest.fixture(scope="module")
def model():
    return clip.load(CLIP, batch=8)


def pages(count):
    """Pages of one to five sentences with none to five pictures, or clips of three frames."""
    rng = np.random.default_rng(0)
    words = "the cat dog and running on mat Things 12 grün".split()
    for number in range(count):
        text = "\n".join(
            " ".join(rng.choice(words, 5)) + ". The end." * int(n) for n in rng.integers(0, 2, 1 + number % 3)
        )
        positions = sorted(rng.integers(0, len(text) + 1, number % 6).tolist())
        frames = 3 if number % 4 == 3 else 1
        shots = [tuple(picture(100 * number + 10 * i + f, (30, 20), "JPEG") for f in range(frames)) for i in range(6)]
        yield Document(f"page {number}", text, tuple(positions), tuple(shots[: len(positions)]), "a.html")


@pytest.fixture
def source(tmp_path):
    write(tmp_path / "set", pages(24), shards=4, report={"format": "html"})
    return str(tmp_path / "set")


def read(directory):
    source = record.Source(directory)
    return {source[i].key: source[i] for i in range(len(source))}


def expect(document, model, floor):
    """The new positions and media, by numpy alone; None where it stays as it was."""
    spans = sentences(document.text)
    if not document.media:
        return document.positions, document.media
    shown = [model.picture(frames[len(frames) // 2]) for frames in document.media]
    alike = model.images(shown) @ model.texts([document.text[a:b] for a, b in spans]).T
    kept = [i for i in range(len(shown)) if not floor or alike[i].max() >= floor]
    chosen = {i: int(np.argmax(alike[i])) for i in kept}
    rows, columns = linear_sum_assignment(-alike[kept])
    chosen |= {kept[row]: int(column) for row, column in zip(rows, columns, strict=True)}
    order = sorted(kept, key=lambda i: (chosen[i], i))
    return tuple(spans[chosen[i]][0] for i in order), tuple(document.media[i] for i in order)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_the_new_dataset_is_what_numpy_finds(floor, source, model, tmp_path):
    seen = []
    options = AlignConfig(source=source, min_best=floor, batch=8)
    report = realign(options, tmp_path / "new", model, progress=lambda *at: seen.append(at))
    old, new = read(source), read(tmp_path / "new")
    expected = {key: expect(document, model, floor) for key, document in old.items()}
    left = {key for key, document in old.items() if not document.media or expected[key][1]}
    assert new.keys() == left and list(new) == [key for key in old if key in left]
    for key, document in new.items():
        assert (document.positions, document.media) == expected[key]
        assert (document.text, document.source) == (old[key].text, old[key].source)
    media, kept = (sum(len(document.media) for document in found.values()) for found in (old, new))
    assert (report["documents"], report["media"], report["placed"]) == (len(new), kept, kept)
    assert report["drops"].get("image unlike all sentences", 0) == media - kept
    assert report["drops"].get("page left without images", 0) == len(old) - len(new)
    assert (floor > 0) == (media > kept) == (len(old) > len(new)) and 0 < report["moved"] <= kept
    assert report["untouched"] == {"document without images": 4} and report["format"] == "html"
    assert -1 < report["similarity"] < 1
    assert seen[-1] == (24, 24) and len(seen) >= 4
    assert record.read_manifest(tmp_path / "new")["report"] == report


def test_what_is_damaged_is_counted(model, tmp_path):
    good = picture(1, (30, 20), "JPEG")
    documents = [
        Document("a", "One. Two.", (0, 0), ((good,), (good[:90],))),
        Document("b", "One. Two.", (3,), ((good,),)),
        Document("c", "12", (1,), ((good,),)),
    ]
    write(tmp_path / "set", documents, shards=3)
    report = realign(AlignConfig(source=str(tmp_path / "set"), batch=8), tmp_path / "new", model)
    assert report["untouched"] == {"image not readable": 1, "document without sentences": 1} and report["placed"] == 1
    assert {key: read(tmp_path / "new")[key] for key in "ac"} == {"a": documents[0], "c": documents[2]}

    class Broken:
        identity, picture, images = "broken", model.picture, model.images

        def texts(self, texts):
            return model.texts(texts) * np.nan

    report = realign(AlignConfig(source=str(tmp_path / "set"), batch=8), tmp_path / "broken", Broken())
    assert report["untouched"]["similarities not finite"] == 1 and report["placed"] == report["similarity"] == 0
    assert read(tmp_path / "broken") == {document.key: document for document in documents}


def test_a_damaged_record_is_counted(source, model, tmp_path, monkeypatch):
    def broken(self, number, get=record.Source.__getitem__):
        if number == 7:
            raise ValueError("Record 7 is damaged")
        return get(self, number)

    monkeypatch.setattr(record.Source, "__getitem__", broken)
    report = realign(AlignConfig(source=source, batch=8), tmp_path / "new", model)
    assert report["documents"] == 23 and report["bad"] == 1 and report["drops"] == {"record damaged": 1}
    assert "Record 7 is damaged" in (tmp_path / "new" / "00001-of-00004.bad.jsonl").read_text()


def test_an_interrupted_alignment_goes_on(source, model, tmp_path, monkeypatch):
    """With another batch too; files that are done are not touched again."""
    whole = realign(AlignConfig(source=source, batch=8), tmp_path / "a", model)

    def interrupt(target, name, *arguments, write=shard.write_outcomes):
        if name.startswith("00002"):
            raise KeyboardInterrupt
        write(target, name, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shard, "write_outcomes", interrupt)
        realign(AlignConfig(source=source, batch=8), tmp_path / "b", model)
    assert not state.is_prepared(tmp_path / "b")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").glob("*.array_record")}
    assert len(before) == 2
    with pytest.raises(ValueError, match="b was begun with other options, or from a dataset or a model that have"):
        realign(AlignConfig(source=source, batch=8, min_best=0.2), tmp_path / "b", model)
    seen = []
    again = realign(AlignConfig(source=source, batch=16), tmp_path / "b", model, progress=lambda *at: seen.append(at))
    assert again == whole and seen[0] == (12, 24) and seen[-1] == (24, 24)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    assert realign(AlignConfig(source=source, batch=8), tmp_path / "b", model) == whole  # nothing is done again


def test_mistakes_are_named(source, model, tmp_path):
    with pytest.raises(ValueError, match="There is no dataset at .*none"):
        realign(AlignConfig(source=str(tmp_path / "none")), tmp_path / "new", model)
    write(tmp_path / "pairs", pages(2), report={"format": "tar"})
    with pytest.raises(ValueError, match="pairs is no dataset of pages, but of the format tar"):
        realign(AlignConfig(source=str(tmp_path / "pairs")), tmp_path / "new", model)
    with pytest.raises(ValueError, match="No document came out of .*set': .* x image unlike all sentences"):
        write(tmp_path / "one" / "set", [page for page in pages(6) if page.media])
        realign(AlignConfig(source=str(tmp_path / "one" / "set"), min_best=0.99, batch=8), tmp_path / "new", model)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="set was prepared with other options"):
        realign(AlignConfig(source=source), source, model)


def test_the_next_group_is_read_while_one_is_computed(source, model, monkeypatch, tmp_path):
    """And what is held is bounded by groups, whose borders change nothing."""
    whole = realign(AlignConfig(source=source, batch=8), tmp_path / "a", model)
    sizes = []

    class Counting:
        identity, picture, texts = model.identity, model.picture, model.texts

        def images(self, pictures):
            sizes.append(len(pictures))
            return model.images(pictures)

    monkeypatch.setattr(align, "_BATCHES", 1)
    again = realign(AlignConfig(source=source, batch=2), tmp_path / "b", Counting())
    assert again == whole | {"similarity": pytest.approx(whole["similarity"], abs=1e-6)}
    assert record.read_manifest(tmp_path / "a")["files"] == record.read_manifest(tmp_path / "b")["files"]
    assert max(sizes) <= 6 and sum(sizes) == whole["placed"] and len(sizes) > 8


def run(*arguments):
    command = [sys.executable, "-m", "flamingo_jax.prepare", *arguments]
    environment = {"PATH": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "2"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_the_command(source, model, tmp_path):
    result = run(f"--align={CLIP}", f"--source={source}", f"--target={tmp_path / 'new'}", "--set=min_best=0.1")
    assert result.returncode == 0, result.stderr
    expected = realign(AlignConfig(source=source, min_best=0.1), tmp_path / "same", model)
    assert read(tmp_path / "new") == read(tmp_path / "same")
    lines = result.stdout.splitlines()
    assert lines[0] == f"{expected['documents']} documents with {expected['media']} media."
    assert f"{expected['placed']} images stand before the sentences that were found" in lines[1]
    assert "As they were: 4  document without images" in lines
    result = run(f"--align={CLIP}", f"--target={tmp_path / 'new'}")
    assert result.returncode == 1 and "Give --source and --target; --source is missing." in result.stderr
    result = run(f"--align={CLIP}", "--format=html", f"--source={source}", f"--target={tmp_path / 'new'}")
    assert "--format has no meaning with --align, which starts from a dataset." in result.stderr
    result = run(f"--align={CLIP}", f"--source={source}", f"--target={tmp_path / 'new'}", "--set=min_bet=0.1")
    assert "--set.min_bet is unknown; did you mean" in result.stderr
