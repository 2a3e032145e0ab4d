"""ImageNet-1k: folders of images per class (torchvision's ImageFolder), and a file of what the classes are called.

train/n01440764/*.JPEG, val/n01440764/*.JPEG. The class names are one of
- a text file of one name a line, in the order of the sorted folders' names (the list that CLIP's authors published),
- a text file of lines "n01440764 tench, Tinca tinca" (Kaggle's ``LOC_synset_mapping.txt``): the first of the names,
- JSON, {"0": ["n01440764", "tench"], ..} (Keras' and torchvision's ``imagenet_class_index.json``).
Where folders are named in the file, there may be fewer folders than names. Two names occur twice in the first list, so
a class is told by its folder's name (``concept``), and by its number ``class_id`` among the sorted folders of train.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from flamingo_jax.data.benchmarks.form import EvaluationSet, Source
from flamingo_jax.data.benchmarks.source import clean, expect, load, read_text
from flamingo_jax.data.document import Dropped

_IMAGES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")


def read(source: Source) -> Iterator[dict | Dropped]:
    """The images of a split, class by class, in the order of their names."""
    names = class_names(source)
    numbers = {folder: number for number, folder in enumerate(names)}
    root = source.files["folder"]
    place = os.path.relpath(root, source.images).replace(os.sep, "/")
    unknown = [folder for folder in _folders(root) if folder not in names]
    if unknown:
        raise ValueError(f"{root} has folders of no class, like {unknown[0]!r}; a class is a folder of train.")
    for folder in _folders(root):
        for file in sorted(os.listdir(os.path.join(root, folder))):
            if file.lower().endswith(_IMAGES) and not file.startswith("."):
                yield {
                    "id": f"{folder}/{file}",
                    "media": (f"{place}/{folder}/{file}",),
                    "answers": [names[folder]],
                    "concept": folder,
                    "attributes": {"class_id": str(numbers[folder])},
                }


def class_names(source: Source) -> dict[str, str]:
    """The name of each class by its folder of train, sorted. Raises ValueError when names and folders do not agree."""
    path, train = source.files["classes"], source.files["train"]
    folders = _folders(train)
    if not folders:
        raise ValueError(f"{train} holds no folders, but one per class is expected, like n01440764.")
    names = _names(path)
    if isinstance(names, list):
        if len(names) != len(folders):
            raise ValueError(f"{path} has {len(names)} names, but {train} has {len(folders)} folders.")
        return dict(zip(folders, names, strict=True))
    if missing := [folder for folder in folders if folder not in names]:
        raise ValueError(f"{path} names no class {missing[0]!r}, which is a folder of {train}.")
    return {folder: names[folder] for folder in folders}


def _folders(root: str) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _names(path: str) -> list[str] | dict[str, str]:
    """Names in order, or by folder."""
    try:
        if path.endswith(".json"):
            pairs = [expect(pair, list, path) for pair in expect(load(path), dict, path).values()]
            return {clean(folder, "a folder"): clean(name, "a name").replace("_", " ") for folder, name in pairs}
        lines = [clean(line, "a line") for line in read_text(path).splitlines() if line.strip()]
    except ValueError as error:  # Bad among them; of pairs that are none, what unpacking says
        raise ValueError(f"{path} is no list of class names: {error}.") from None
    if lines and all(re.match(r"n\d{8} \S", line) for line in lines):
        return {line[:9]: line[10:].split(",")[0].strip() for line in lines}
    return lines


_NAMES = ("classnames.txt", "imagenet_classnames.txt", "imagenet_classes.txt", "LOC_synset_mapping.txt")


def _files(folder: str) -> tuple[dict, ...]:
    inner = "ILSVRC/Data/CLS-LOC/"  # as Kaggle packs it
    train = ("train/", f"{inner}train/")
    return ({"folder": (f"{folder}/", f"{inner}{folder}/"), "train": train, "classes": (*_NAMES, _INDEX)},)


_INDEX = "imagenet_class_index.json"

IMAGENET = EvaluationSet(
    kind="image",
    metric="top1",
    splits={"train": _files("train"), "val": _files("val")},
    read=read,
    query=("val",),
    classes=lambda source: list(class_names(source).values()),
)
