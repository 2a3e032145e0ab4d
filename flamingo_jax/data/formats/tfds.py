"""Datasets that TensorFlow Datasets has prepared as ArrayRecord: a row is a pair. TensorFlow is not needed.

``source`` is the folder of a prepared version (``DATA_DIR/NAME/[CONFIG/]VERSION``), or NAME[/CONFIG][:VERSION] for one
in the library's own data folder; ``split`` is in the library's syntax, such as ``train[:10%]``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data.corpus import Corpus, Task
from flamingo_jax.data.document import Dropped, Raw
from flamingo_jax.data.formats import column, parquet

TASK_BYTES = 16_000_000

_MAX_NAME = 4096  # bytes; what is longer is no file's name
_OWN = "tensorflow_datasets."
_CLASSES = ("pythonClassName", "python_class_name", "type")  # keys of features.json, the last one until TFDS 4.4


def tasks(source: str, options: CorpusConfig) -> Iterator[Task]:
    """Ranges of rows. Raises ValueError when there is no such dataset, split or feature, or it cannot be read."""
    builder = open_builder(source)
    rows, _ = open_rows(builder, options)
    known = sum(split.num_examples for split in builder.info.splits.values())
    size = max(1, int(builder.info.dataset_size) // max(known, 1))
    step = max(1, TASK_BYTES // size)
    path = builder.data_dir if "://" in builder.data_dir else os.path.abspath(builder.data_dir)
    for start in range(0, len(rows), step):
        stop = min(start + step, len(rows))
        yield Task(path, start, stop, (stop - start) * size)


def read(task: Task, corpus: Corpus) -> Iterator[Raw | Dropped]:
    """A pair per caption of a row; a Dropped for each row that cannot be read."""
    builder = open_builder(task.path)
    rows, features = open_rows(builder, corpus.options)
    source = f"{builder.info.full_name}/{corpus.options.split}"
    for number in range(task.start, task.stop):
        yield from pairs(rows, number, features, corpus, source)


def pairs(rows: Any, number: int, features: dict[str, str], corpus: Corpus, source: str) -> Iterator[Raw | Dropped]:
    """The pairs of one row of what ``open_rows`` returned. source: the dataset's name, version and split."""
    place = f"{source}:{number}"
    try:
        row = rows[number]
    except Exception as error:  # damage shows in the types of several libraries
        yield Dropped("record damaged", f"{place}: {error}", bad=True)
        return
    cells = {role: _cell(row, name) for role, name in features.items()}
    cells["media"] = _name_or_content(cells["media"])
    yield from parquet.pairs(place, cells, "", corpus, source)


def open_builder(source: str):
    """The library's reader of a dataset's files, which needs none of the code that made them."""
    import tensorflow_datasets as tfds  # takes half a second

    path = epath.Path(source).expanduser()
    if not (path / "dataset_info.json").exists():
        if path.exists():
            raise ValueError(f"source={source!r} holds no dataset_info.json; name the folder of one version.")
        try:
            path = epath.Path(tfds.core.read_only_builder.builder_from_files(source).data_dir)
        except tfds.core.registered.DatasetNotFoundError as error:
            raise ValueError(f"source={source!r} is no folder of a dataset, and none has that name: {error}") from None
    try:
        _check_features(json.loads((path / "features.json").read_text()))
        return tfds.builder_from_directory(path)
    except ModuleNotFoundError as error:
        raise ValueError(f"{path} has features that need {error.name}, as tfds.features.Video does.") from None
    except Exception as error:  # of the JSON, of the protocol buffers in it, of the library's checks
        raise ValueError(f"{path} cannot be read as a dataset of TensorFlow Datasets: {error}") from None


def _check_features(node: Any) -> None:
    """Raises ValueError for a class of features that is not the library's own: it would import its module."""
    if isinstance(node, str) and node.startswith("{"):
        node = json.loads(node)
    for key, value in node.items() if isinstance(node, dict) else enumerate(node if isinstance(node, list) else ()):
        if key in _CLASSES and isinstance(value, str) and not value.startswith(_OWN):
            raise ValueError(f"a feature is of the class {value}, and no code from elsewhere than {_OWN}* is run")
        _check_features(value)


def open_rows(builder, options: CorpusConfig) -> tuple[Any, dict[str, str]]:
    """The rows of a split, with images as files, and {role: feature}."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    try:
        for part in builder.info.splits[options.split].file_instructions:
            if os.path.dirname(part.filename) != str(builder.data_dir):
                raise ValueError(f"it names {part.filename}, which is not in its folder")
        rows = builder.as_data_source(
            split=options.split,
            decoders={name: tfds.decode.SkipDecoding() for name in images(builder)},
            file_format="array_record",
        )
    except NotImplementedError:
        raise ValueError(
            f"{builder.data_dir} is stored as {builder.info.file_format}; prepare it anew with "
            "file_format='array_record', or convert it: python -m tensorflow_datasets.scripts.convert_format."
        ) from None
    except Exception as error:  # of the library's checks; a KeyError puts its message in quotation marks
        raise ValueError(f"{builder.data_dir}, split={options.split!r}: {str(error).strip(chr(34))}") from None
    names = [
        path
        for name, feature in features.items()
        for path in (name, *(f"{name}/{part}" for part in getattr(feature, "keys", tuple)()))
    ]
    return rows, column.choose(parquet.ROLES, options.columns, names, str(builder.data_dir))


def images(builder) -> list[str]:
    """The features that are images."""
    import tensorflow_datasets as tfds

    return [name for name, feature in builder.info.features.items() if isinstance(feature, tfds.features.Image)]


def _cell(row: dict[str, Any], name: str) -> Any:
    """A feature of a row; "a/b" is a part b of a, unless there is a feature of that name."""
    if name in row:
        return row[name]
    feature, _, part = name.partition("/")
    return row[feature][part]


def _name_or_content(cell: Any) -> Any:
    """A file's content as it is; its name, which the library hands out as bytes too, as a text."""
    if isinstance(cell, bytes) and len(cell) < _MAX_NAME:
        try:
            name = cell.decode()
        except UnicodeDecodeError:
            return cell
        return name if name.isprintable() else cell
    return cell
