"""The whole evaluation, with a reader in the model's place (is everything wired right?) and with a tiny real model."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax import config as configs
from flamingo_jax.config import DatasetConfig, EvaluationConfig, ExampleConfig
from flamingo_jax.evaluation import evaluate, media
from flamingo_jax.models.flamingo import Flamingo

IMAGE = ExampleConfig(length=0, size=16, fill=(120, 120, 120))
CLIP = DatasetConfig(
    format="table", source="", size=16, example=ExampleConfig(length=0, frames=2, size=16, fill=(120, 120, 120))
)
COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "yellow": (220, 220, 20),
           "cyan": (20, 220, 220), "pink": (240, 100, 240)}  # fmt: skip


class Reader:
    """In the model's place: a medium's latent is its middle's colour, and answers are read off the prompt's tokens."""

    def __init__(self, vocabulary):
        self.words, self.steps = vocabulary, []

    def encode(self, model, variables, pixels):
        self.shape = pixels.shape
        return pixels[:, :, -1, 8, 8, None, :].astype(np.float32)  # the middle of the last frame

    def _chunks(self, tokens, latents, index, mask):
        """Per row [(colour seen, text)], checking that a chunk's tokens all see one medium."""
        assert (tokens[~mask] == self.words.pad).all() and (index[~mask] == 0).all()
        for row in range(len(tokens)):
            chunks, start = [], 0
            kept, seen = tokens[row][mask[row]], index[row][mask[row]]
            assert kept[0] == self.words.bos and (np.diff(mask[row].astype(int)) >= 0).all()
            for end in [*np.flatnonzero(kept == self.words.eoc), len(kept)]:
                part = slice(start, end)
                text = self.words.decode(kept[part])
                owner = set(seen[part][kept[part] != self.words.bos].tolist())
                assert len(owner) == 1
                owner = owner.pop()
                chunks.append((tuple(latents[row, owner - 1, 0]) if owner else None, text))
                start = end + 1
            yield chunks

    def read(self, chunks):
        """The answer of the shot whose colour is nearest to the query's, or the query's colour if it is a question."""
        *shots, (colour, text) = chunks
        if "Question" in text:
            name, value = min(COLOURS.items(), key=lambda pair: np.abs(np.subtract(pair[1], colour)).sum())
            return name if np.abs(np.subtract(value, colour)).sum() < 60 else "?"
        near = [np.abs(np.subtract(colour, other)).sum() for other, _ in shots if other is not None]
        if not near or min(near) > 60:
            return ""
        return shots[int(np.argmin(near))][1].removeprefix("Output:").strip()

    def greedy(self, model, variables, tokens, latents, index, mask, *, steps, eoc):
        out = np.full((len(tokens), steps), eoc)
        for row, chunks in enumerate(self._chunks(tokens, latents, index, mask)):
            answer = self.words.encode(" " + self.read(chunks))[:steps]
            out[row, : len(answer)] = answer
        return out

    def score(self, model, variables, tokens, latents, index, mask, candidates, candidate_mask):
        out = np.zeros(candidates.shape[:2])
        for row, chunks in enumerate(self._chunks(tokens, latents, index, mask)):
            answer = self.read(chunks)
            for column, ids in enumerate(candidates[row]):
                ids = ids[candidate_mask[row, column]]
                assert ids[-1] == self.words.eoc
                out[row, column] = self.words.decode(ids[:-1]) == " " + answer
        return out


@pytest.fixture
def reader(monkeypatch, vocabulary):
    reader = Reader(vocabulary)
    monkeypatch.setattr(media, "_encode", reader.encode)
    monkeypatch.setattr(evaluate, "greedy", reader.greedy)
    monkeypatch.setattr(evaluate, "score", reader.score)
    return reader


def run(benchmarks, output, vocabulary, tasks, model=None, variables=None, **more):
    settings = {"shots": (0, 4), "queries": 12, "batch_size": 5, **more}
    settings = EvaluationConfig(tasks=tasks, benchmarks="", image_dataset="", clip_dataset="", **settings)
    seen = []
    results = evaluate.run(
        model, variables, vocabulary, benchmarks, output, settings, image=IMAGE, clip=CLIP,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]
    return {(row["task"], row["measure"], row["shots"]): row for row in results["results"]}


def test_a_reader_binds_and_its_controls_fail(benchmarks, tmp_path, vocabulary, reader):
    rows = run(benchmarks, tmp_path, vocabulary, ("binding",))
    assert reader.shape == (5, 1, 1, 16, 16, 3)
    for task in ("binding_2way", "binding_4way"):
        assert rows[task, "closed", 4]["accuracy"] == rows[task, "open", 4]["accuracy"] == 1
        assert rows[task, "open", 0]["accuracy"] == 0
        assert rows[task, "closed", 4]["chance"] == {"binding_2way": 0.5, "binding_4way": 0.25}[task]
        assert rows[task, "closed", 4]["n"] == 12 and rows[task, "open", 4]["chance"] is None
    assert rows["binding_4way_swapped", "closed", 4]["accuracy"] == 1
    assert rows["binding_4way_swapped", "closed, original", 4]["accuracy"] == 0
    assert rows["binding_4way_shuffled", "closed", 4]["accuracy"] < 0.7
    assert rows["binding_4way_blanked", "open", 4]["accuracy"] == 0


def test_questions_need_their_media(benchmarks, tmp_path, vocabulary, reader):
    rows = run(benchmarks, tmp_path, vocabulary, ("vqa",))
    for shots in (0, 4):
        assert rows["vqa", "open", shots]["accuracy"] == 1
        assert rows["vqa", "open", shots]["by_question"] == {"what colour is it?": 1.0}
        assert rows["vqa_blanked", "open", shots]["accuracy"] == 0


def test_videos_have_their_frames(benchmarks, tmp_path, vocabulary, reader):
    rows = run(benchmarks, tmp_path, vocabulary, ("video_qa",))
    assert reader.shape == (5, 1, 2, 16, 16, 3)
    assert rows["video_qa", "open", 4]["accuracy"] == 1


def test_captions_are_judged_by_attributes(benchmarks, tmp_path, vocabulary, reader):
    rows = run(benchmarks, tmp_path, vocabulary, ("caption",), shots=(8,))
    assert {key[1] for key in rows} == {"shape", "colour", "count"}
    assert rows["caption", "count", 8]["accuracy"] > 0.5  # whenever a shot has the query's colour


def test_results_do_not_depend_on_the_batch_size(benchmarks, tmp_path, vocabulary, reader):
    for size in (5, 7):
        run(benchmarks, tmp_path / str(size), vocabulary, ("binding_4way", "classification"), batch_size=size)
    assert (tmp_path / "5" / "results.json").read_bytes() == (tmp_path / "7" / "results.json").read_bytes()
    assert (tmp_path / "5" / "predictions.jsonl").read_bytes() == (tmp_path / "7" / "predictions.jsonl").read_bytes()


def test_files(benchmarks, tmp_path, vocabulary, reader):
    run(benchmarks, tmp_path, vocabulary, ("binding_4way", "vqa"))
    assert {p.name for p in tmp_path.iterdir()} == {"results.json", "results.md", "predictions.jsonl", "score.png"}
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["protocol"]["shots"] == [0, 4] and len(results["results"]) == 2 * (2 + 1 + 1)
    record = json.loads((tmp_path / "predictions.jsonl").read_text().splitlines()[-1])
    assert record["task"] == "binding_4way" and len(record["support"]) == 4 and len(record["closed"]) == 4
    assert "| binding, 4-way | closed | 25 | 12 |" in (tmp_path / "results.md").read_text()


def test_a_damaged_medium_is_named(tmp_path, vocabulary, reader):
    folder = tmp_path / "vqa"
    folder.mkdir()
    line = {"id": "a", "media": ["a.png"], "attributes": {"shape": "star"}, "question": "what?", "answer": "star"}
    for split in ("support", "query"):
        (folder / f"{split}.jsonl").write_text(json.dumps(line))
    with pytest.raises(ValueError, match="Cannot read the medium .*a.png"):
        run(tmp_path, tmp_path / "out", vocabulary, ("vqa",))
    (folder / "a.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(ValueError, match="Cannot decode the medium .*a.png"):
        run(tmp_path, tmp_path / "out", vocabulary, ("vqa",))
    assert not (tmp_path / "out").exists()


def test_a_tiny_model_answers(benchmarks, tmp_path, vocabulary):
    config = configs.ModelConfig(
        language=configs.LanguageConfig(vocabulary.vocab_size, width=16, depth=1, heads=1),
        vision=configs.NFNetConfig(widths=(8,), depths=(1,), strides=(1,), stem=(4, 8), group_size=4),
        resampler=configs.ResamplerConfig(width=16, depth=1, heads=1, head_size=8, latents=2, frames=2),
        gated=configs.GatedConfig(every=1, heads=1, head_size=8, gate_init=1.0),
        text_tower=configs.TextTowerConfig(width=8, depth=1, heads=1, embedding=8),
        dtype="float32",
        remat="none",
    )
    model = Flamingo(config, (vocabulary.eoc,))
    tokens, pixels = jnp.zeros((1, 4), jnp.int32), jnp.zeros((1, 1, 2, 16, 16, 3), jnp.uint8)
    shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), tokens, pixels, tokens))
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype), shapes)
    variables = {"params": weights["params"], "frozen": weights["frozen"]}
    rows = run(benchmarks, tmp_path, vocabulary, ("binding_4way",), model, variables, shots=(0, 1), max_new_tokens=4)
    assert 0 <= rows["binding_4way", "closed", 1]["accuracy"] <= 1
    records = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(records) == 24 and all(np.isfinite(list(r["closed"].values())).all() for r in records)
    library = media.encode(model, variables, [str(benchmarks / "video_qa/query-0.mp4")], IMAGE, CLIP, batch=2)
    assert library.gather([[str(benchmarks / "video_qa/query-0.mp4")], [media.BLANK]], 3).shape == (2, 3, 2, 16)
