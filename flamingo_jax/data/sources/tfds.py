"""Pairs that TensorFlow Datasets has prepared as ArrayRecord, read where they are (see ``formats.tfds``)."""

from __future__ import annotations

from collections.abc import Callable

from flamingo_jax.config import DatasetConfig
from flamingo_jax.data import record
from flamingo_jax.data.corpus import Corpus
from flamingo_jax.data.document import Document, Dropped, Raw
from flamingo_jax.data.formats import tfds
from flamingo_jax.data.prepare.make import MAX_IMAGE_BYTES, clean


class TfdsSource:
    """A record is a row; of its captions ``choice`` picks one. The document is that of ``prepare``, but for the image,
    which is the file as it is. See ``sources``."""

    def __init__(self, options: DatasetConfig):
        """Raises ValueError when there is no such dataset, split or feature, or it cannot be read in place."""
        self._options = options
        builder = tfds.open_builder(options.source)
        self._rows, self._features = tfds.open_rows(builder, options)
        if (media := self._features["media"]) not in tfds.images(builder):
            raise ValueError(
                f"The feature {media!r} of {options.source} is no image, and only images are read in place: name one "
                "(columns={'media': ...}), or prepare the dataset (in_place=False)."
            )
        self._files = builder.info.splits[options.split].file_instructions
        self._name = f"{builder.info.full_name}/{options.split}"

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int, choice: float = 0.0) -> Document:
        """See ``sources``; each of a row's captions that is not blank is as likely."""
        self._check(index)
        corpus = Corpus(self._options, "", lambda name: Dropped("medium missing", name))
        found = list(tfds.pairs(self._rows, index, self._features, corpus, self._name))
        pairs, dropped = [], [item for item in found if isinstance(item, Dropped)]
        for raw in found:
            if isinstance(raw, Raw):
                caption = clean(raw.text, raw.key)
                dropped.append(caption) if isinstance(caption, Dropped) else pairs.append((raw, caption))
        if pairs:
            raw, caption = pairs[min(int(choice * len(pairs)), len(pairs) - 1)]
            data = raw.media[0].read()
            if not isinstance(data, Dropped) and len(data) <= MAX_IMAGE_BYTES:
                return Document(raw.key, caption, (0,), ((data,),), raw.source)
            dropped = [data if isinstance(data, Dropped) else Dropped("image too large", f"{len(data)} bytes")]
        path, number = self.locate(index)
        raise ValueError(f"Cannot read record {number} of {path}: {dropped[0].reason} ({dropped[0].place}).")

    def locate(self, index: int) -> tuple[str, int]:
        """(file, number of the record in it)."""
        self._check(index)
        return record.locate(self._files, index)

    def __reduce__(self):
        return TfdsSource, (self._options,)

    def __repr__(self) -> str:
        return f"TfdsSource({self._name!r}, {len(self)} rows)"

    def _check(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"{self._name} has {len(self)} rows, none at {index}.")


def count(
    options: DatasetConfig, folder: str, *, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> dict:
    """The report of a dataset, none of whose rows is read. See ``sources.index``."""
    rows = len(TfdsSource(options))
    return {"documents": rows, "media": rows, "bad": 0, "drops": {}, "first_drops": {}}
