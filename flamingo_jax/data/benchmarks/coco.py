"""Captions of images: COCO and Flickr30k, in the JSON files of Karpathy's splits.

{"images": [{"split": "train", "restval", "val" or "test", "filename", "filepath": "val2014" (COCO alone),
             "cocoid" (COCO alone), "sentences": [{"raw", ..}, ..]}, ..]}

COCO's support is "train" alone, as in OpenFlamingo: "restval" is left aside. Result files name images by ``cocoid``,
and those of Flickr30k by the file name without suffix.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from flamingo_jax.data.benchmarks.form import EvaluationSet, Source
from flamingo_jax.data.benchmarks.source import Bad, captions, each, identity, keep, load_rows, text
from flamingo_jax.data.document import Dropped

_KEYS = ("images", "split", "filename", "filepath", "cocoid", "sentences", "raw")  # and not the tokens


def read(source: Source, key: str = "") -> Iterator[dict | Dropped]:
    """The images of a split, in order, with all their captions. key: of their ids; without it, the file names are."""

    def make(row: dict) -> dict | None:
        if text(row, "split") != source.split:
            return None
        name = text(row, "filename")
        image = identity(row, key) if key else name.rsplit("/", 1)[-1].split(".")[0]
        folder = text(row, "filepath", "")
        sentences = row.get("sentences")
        if not isinstance(sentences, list) or not all(isinstance(sentence, dict) for sentence in sentences):
            raise Bad("sentences is no list of objects")
        found = captions({"sentences.raw": [sentence.get("raw") for sentence in sentences]}, "sentences.raw")
        media = (f"{folder}/{name}" if folder else name,)
        return {"id": image, "media": media, "captions": found, "attributes": {"image_id": image}}

    yield from each(load_rows(source.files["captions"], "images", hook=keep(*_KEYS)), make)


def _splits(*names: str) -> dict:
    return {split: ({"captions": names},) for split in ("train", "val", "test")}


_read_coco = functools.partial(read, key="cocoid")

COCO = EvaluationSet("image", "cider", _splits("dataset_coco.json", "coco.json"), _read_coco, ("test", "val"))
FLICKR30K = EvaluationSet("image", "cider", _splits("dataset_flickr30k.json", "flickr30k.json"), read, ("test", "val"))
