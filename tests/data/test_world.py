"""The written world: its files, its determinism, and how it fails."""

import csv
import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import tarfile

import pytest

from flamingo_jax.config import WorldConfig
from flamingo_jax.data.world import benchmarks, clips, grammar, library, pages, pairs
from flamingo_jax.data.world.attributes import COLOURS, SHAPES, TEXTURES, Concept, split
from flamingo_jax.data.world.write import write

TINY = WorldConfig(
    seed=3,
    images_per_concept=1,
    pages=40,
    align=60,
    ltip=30,
    clips=6,
    texts=200,
    queries=6,
    supports=5,
    binding_images=3,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(the world's folder, {module: the concepts that it had drawn})."""
    folder = tmp_path_factory.mktemp("world") / "raw"
    calls, drawn = [], {}
    with pytest.MonkeyPatch.context() as patch:
        for module in (library, pairs, clips, benchmarks):
            for name in {"render", "render_clip"} & set(vars(module)):
                patch.setattr(module, name, recorder(getattr(module, name), drawn.setdefault(module, set())))
        write(folder, TINY, progress=lambda done, total: calls.append((done, total)), workers=1)
    assert calls[-1][0] == calls[-1][1] and calls == sorted(calls)
    return folder, drawn


def recorder(render, concepts):
    def record(scene, rng):
        concepts.add(scene.concept)
        return render(scene, rng)

    return record


@pytest.fixture(scope="module")
def world(written):
    return written[0]


def digests(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def training_texts(world):
    """All text of all training files, by kind."""
    found = {"text": [json.loads(line)["text"] for path in world.glob("text/*.jsonl") for line in open(path)]}
    found["pages"] = [path.read_text() for path in world.glob("pages/*.html")]
    for name in ("align", "ltip"):
        found[name] = []
        for path in world.glob(f"{name}/*.tar"):
            with tarfile.open(path) as tar:
                found[name] += [tar.extractfile(m).read().decode() for m in tar if m.name.endswith(".txt")]
    with open(world / "vtp" / "captions.csv", newline="") as file:
        found["vtp"] = [row["caption"] for row in csv.DictReader(file)]
    return found


def test_unseen_concepts_are_named_in_no_training_file(world):
    training, unseen = (set(part) for part in split(TINY.seed))
    either = "|".join
    singular = {grammar.noun(shape, count): shape for shape in SHAPES for count in ("one", "two")}
    colour, texture = f"({either(COLOURS)})", f"({either(TEXTURES)})"
    pattern = re.compile(rf"\b(?:{colour} {texture}|{texture} {colour}) ({either(singular)})\b")
    for kind, texts in training_texts(world).items():
        named = set()
        for text in texts:
            for colour, texture, texture_first, colour_last, shape in pattern.findall(text):
                named.add(Concept(singular[shape], colour or colour_last, texture or texture_first))
        assert named and named <= training and not named & unseen, kind


def test_unseen_concepts_are_drawn_for_no_training_file(written):
    training, unseen = (set(part) for part in split(TINY.seed))
    drawn = written[1]
    for module in (library, pairs, clips):
        assert drawn[module] and drawn[module] <= training, module
    assert unseen <= drawn[benchmarks]  # of which every one is asked about


def test_files_are_complete(world):
    texts = training_texts(world)
    assert {kind: len(found) for kind, found in texts.items()} == {
        "text": TINY.texts,
        "pages": TINY.pages,
        "align": TINY.align,
        "ltip": TINY.ltip,
        "vtp": TINY.clips,
    }
    assert len(list(world.glob("vtp/*.mp4"))) == TINY.clips
    assert len([*world.glob("pages/images/*/*.jpg"), *world.glob("pages/images/*/*.png")]) == 300
    with tarfile.open(world / "align" / "00000.tar") as tar:
        assert tar.getnames()[:3] == ["000000000.jpg", "000000000.txt", "000000000.json"]
    assert not [path for path in world.parent.iterdir() if path != world]


def test_pages_point_at_existing_pictures_and_carry_clutter(world):
    text = "\n".join(path.read_text() for path in sorted(world.glob("pages/*.html")))
    for mark in ("data-src=", "srcset=", "<base ", 'class="ad', "static/", "missing/"):
        assert mark in text, mark
    for path in world.glob("pages/*.html"):
        html = path.read_text()
        base = world / "pages" / ("images" if "<base " in html else "")
        for address in re.findall(r"(?:src|data-src)=[\"']((?!data:)[^\"']+)[\"']", html):
            assert (base / address).resolve().is_file() != address.startswith("missing/"), address


def test_binding_pages_are_bursty_and_draw_words_anew():
    training, _ = split(0)
    config = WorldConfig()
    by_path = {}
    for number in range(len(training) * config.images_per_concept):
        by_path[library.entry(config, training, number)[0]] = training[number // config.images_per_concept]
    assert len(by_path) == len(training) * config.images_per_concept
    bound = set()
    for number in range(60):
        html = pages.page(config, training, number)
        if "<base " in html or not any(re.search(rf"\b{word}\b", html) for word in grammar.MADE_UP_WORDS):
            continue
        words = re.findall(rf"\b({'|'.join(grammar.MADE_UP_WORDS)})\b", html)
        pictures = [
            path
            for path in re.findall(r"(?:data-src|src)=[\"'](?:\./)?(images/[^\"']+)[\"']", html)
            if not path.startswith("images/missing")
        ]
        assert len(words) == len(pictures) == len(set(pictures)) >= 8
        meanings = {}
        for word, picture in zip(words, pictures, strict=True):
            assert meanings.setdefault(word, by_path[picture]) == by_path[picture]
        assert 2 <= len(set(meanings.values())) == len(meanings) <= 4
        bound |= set(meanings.items())
    assert len({word for word, _ in bound}) > 20


def test_benchmarks(world):
    training, unseen = ({concept.name for concept in part} for part in split(TINY.seed))
    images = {hashlib.sha256(path.read_bytes()).hexdigest() for path in world.glob("pages/images/*/*")}
    assert json.loads((world / "benchmarks" / "words.json").read_text()) == grammar.MADE_UP_WORDS
    for task in benchmarks.TASKS:
        seen = set()
        for name in benchmarks.SPLITS:
            folder = world / "benchmarks" / task
            lines = [json.loads(line) for line in open(folder / f"{name}.jsonl")]
            assert len(lines) == benchmarks.size(TINY, task, name) > 0
            for line in lines:
                digest = hashlib.sha256((folder / line["media"][0]).read_bytes()).hexdigest()
                assert digest not in seen and digest not in images
                seen.add(digest)
                held_out = task == "binding" or task.endswith("_unseen")
                assert line["concept"] in (unseen if held_out else training)
                values = line["attributes"]
                assert line["concept"] == "/".join(values[key] for key in ("shape", "colour", "texture"))
                assert ("motion" in values) == (task == "video_qa")
                if "question" in line:
                    assert line["answer"] in values.values()
                if task == "classification":
                    assert line["answer"] == values["shape"] and line["options"] == list(SHAPES)
                if task.startswith("caption"):
                    assert all(word in line["caption"] for word in (values["colour"], values["texture"]))
    lines = [json.loads(line) for line in open(world / "benchmarks" / "vqa" / "query.jsonl")]
    assert {line["question"] for line in lines} == set(grammar.QUESTIONS.values())


def test_same_bytes_whatever_the_number_of_processes(world, tmp_path):
    write(tmp_path / "raw", TINY, workers=2)
    assert digests(tmp_path / "raw") == digests(world)


def test_another_seed_is_another_world(tmp_path):
    assert split(1) == split(1) != split(2)
    training, _ = split(0)
    first, second = (pages.page(WorldConfig(seed=seed), training, 0) for seed in (0, 1))
    assert first != second


def test_refuses_a_folder_in_use_and_sizes_that_make_no_world(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "mine").write_text("")
    with pytest.raises(OSError, match="raw exists already"):
        write(tmp_path / "raw", TINY, workers=1)
    with pytest.raises(ValueError, match="world.binding_images must be at least 2"):
        write(tmp_path / "other", dataclasses.replace(TINY, binding_images=1))
    assert (tmp_path / "raw" / "mine").exists() and not (tmp_path / "other").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Cannot write the world to .*file/raw: File exists"):
        write(tmp_path / "file" / "raw", TINY, workers=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_leaves_nothing(tmp_path, workers):
    # A limit on the size of files makes a write fail half way, as a full disk does.
    code = (
        "import resource, sys\n"
        "from flamingo_jax.config import WorldConfig\n"
        "from flamingo_jax.data.world.write import write\n"
        "if __name__ == '__main__':\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))\n"
        "    config = WorldConfig(0, 1, pages=9, align=50, ltip=50, clips=4, texts=50, queries=4, supports=4)\n"
        f"    write(sys.argv[1], config, workers={workers})\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    (tmp_path / "runs").mkdir()
    left_over = tmp_path / "runs" / ".raw.partial-1"
    left_over.mkdir()
    run = subprocess.run([sys.executable, script, tmp_path / "runs" / "raw"], capture_output=True, text=True)
    assert run.returncode != 0
    assert f"Cannot write the world to {tmp_path / 'runs' / 'raw'}: File too large" in run.stderr
    assert not list((tmp_path / "runs").iterdir())
