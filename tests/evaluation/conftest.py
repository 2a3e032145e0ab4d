"""A hand-made benchmark folder: one-colour pictures, so that what a medium shows can be read off a pixel."""

import io
import json

import av
import numpy as np
import pytest
from PIL import Image

from flamingo_jax.data import tokenizer

COLOURS = {
    "red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "yellow": (220, 220, 20),
    "cyan": (20, 220, 220), "pink": (240, 100, 240),
}  # fmt: skip
SHAPES = ("circle", "star", "cross")
WORDS = ("dax", "wug", "blicket", "toma", "zup", "fep")


def picture(colour, shade):
    pixels = np.clip(np.array(colour) + shade, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.broadcast_to(pixels, (24, 20, 3))).save(file, "PNG")
    return file.getvalue()


def clip(colour):
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for _ in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), colour, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def write(root, name, split, rows, suffix=".png"):
    """rows: (colour name, fields); every medium has its own shade."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (colour, fields) in enumerate(rows):
        path = f"{split}-{number}{suffix}"
        data = clip(COLOURS[colour]) if suffix == ".mp4" else picture(COLOURS[colour], number % 3)
        (folder / path).write_bytes(data)
        shape = SHAPES[number % 3]
        attributes = {"shape": shape, "colour": colour, "texture": "plain", "count": "two"}
        line = {"id": f"{name}/{split}/{number}", "media": [path], "attributes": attributes, "concept": colour}
        lines.append(json.dumps({**line, **{k: v.format(c=colour, s=shape) for k, v in fields.items()}}))
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def benchmarks(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmarks")
    names = list(COLOURS)
    for split, each in (("support", 4), ("query", 2)):
        write(root, "binding", split, [(name, {}) for name in names for _ in range(each)])
        write(root, "caption", split, [(name, {"caption": "two {c} plain {s}s."}) for name in names * each])
        question = {"question": "what colour is it?", "answer": "{c}"}
        write(root, "vqa", split, [(name, question) for name in names * each])
        write(root, "video_qa", split, [(name, question) for name in names], ".mp4")
        write(root, "induction", split, [(name, {}) for name in names * each])
    for split in ("support", "query"):
        rows = [json.loads(line) for line in (root / "caption" / f"{split}.jsonl").read_text().splitlines()]
        (root / "classification").mkdir(exist_ok=True)
        for row in rows:
            row.pop("caption")
            row |= {"media": [f"../caption/{row['media'][0]}"], "answer": row["attributes"]["shape"], "options": SHAPES}
        (root / "classification" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "words.json").write_text(json.dumps(WORDS))
    return root


@pytest.fixture(scope="session")
def vocabulary():
    words = [*COLOURS, *SHAPES, *WORDS, "plain", "two", "circles.", "stars."]
    texts = [f"Output: {a} {b} Question: what colour is it? Answer: {b}" for a in words for b in words]
    return tokenizer.train(texts, 400)
