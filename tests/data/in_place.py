"""Datasets of tar files that are read in place, for tests."""

import json

from prepared import pack, picture

from flamingo_jax.config import DatasetConfig, ExampleConfig
from flamingo_jax.data.sources import index, open_source


def sample(key, caption="a caption", level=50, kind="jpg"):
    data = picture(level, {"jpg": "JPEG", "png": "PNG"}[kind])
    fields = json.dumps({"caption": caption, "key": key}).encode()
    return (f"{key}.{kind}", data), (f"{key}.txt", caption.encode()), (f"{key}.json", fields)


def options(folder, **changes):
    given = {"format": "tar", "source": f"{folder}/*.tar", "max_bad": 1.0, "in_place": True} | changes
    return DatasetConfig(example=ExampleConfig(length=16), **given)


def write(folder, **shards):
    folder.mkdir(exist_ok=True)
    for name, data in shards.items():
        (folder / f"{name}.tar").write_bytes(data)
    return options(folder)


def opened(dataset, folder, **arguments):
    report = index(dataset, folder, **arguments)
    return report, open_source(dataset, folder)


def documents(source):
    return [source.read(i) for i in range(len(source))]


def texts(source):
    return [(document.key, document.text) for document in documents(source)]


GOOD = pack(*sample("good", "good", 90))

MEMBERS = [*sample("000", " one\n two "), *sample("001", "three", 60, "png"), ("002.jpg", picture(70))]
MEMBERS += [("003.txt", b"x"), ("004.jpg", picture(80)), ("004.txt", b" \n"), ("004.json", b'{"caption": "from json"}')]
MEMBERS += [
    ("005.cls", b"3"),
    ("006.jpg", b"no image"),
    ("006.txt", b"six"),
    *sample("a/b.c/007", "\u00e9\u4e2d\U0001f600"),
]
