"""A model in files: what it is, and where its weights are."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from flamingo_jax.config import LanguageConfig, ModelConfig, NFNetConfig, ViTConfig
from flamingo_jax.convert.place import put
from flamingo_jax.convert.stored import Stored
from flamingo_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A model whose weights are read when they are placed.

    weights: of a whole model {"params", "frozen"}, else those of the bare decoder or encoder; a tree of ``Stored``, of
    arrays or, where ``orbax`` names the folder that holds it, of ``jax.ShapeDtypeStruct``.
    new_tokens: ids with rows of their own. image_token: id of ``<image>``; end_token: id that closes a document, where
    the family has such a rule. tokenizer: reads it; None where there is none. public: the public configs of the parts,
    {"language", "vision"}, where they are known. training: what a run knows of it (``sources.finished``).
    """

    config: ModelConfig | LanguageConfig | ViTConfig | NFNetConfig
    weights: Mapping[str, Any]
    new_tokens: tuple[int, ...] = ()
    image_token: int | None = None
    end_token: int | None = None
    orbax: pathlib.Path | None = None
    tokenizer: Callable[[], Tokenizer | None] = lambda: None
    public: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def dtype(self) -> jnp.dtype:
        """What to compute in: float32 when any weight is as wide, else bfloat16."""
        wide = any(leaf.dtype.itemsize >= 4 for leaf in jax.tree.leaves(self.weights))
        return jnp.dtype("float32" if wide else "bfloat16")

    def here(self) -> Pretrained:
        """The same with weights that can be read one by one on the host."""
        return self if self.orbax is None else dataclasses.replace(self, weights=self.place(), orbax=None)

    def place(self, shardings: Any = None, dtype: str | None = None) -> dict:
        """The weights on devices: one sharding for all or a tree of them, None for the first device.

        dtype: of all weights; None for that of the files. One weight's layer at most is in memory beside the result.
        Raises ValueError for damaged files.
        """
        if shardings is None:
            shardings = SingleDeviceSharding(jax.devices()[0])
        if not isinstance(shardings, Mapping):
            shardings = jax.tree.map(lambda _: shardings, self.weights)
        if self.orbax:
            abstract = jax.tree.map(
                lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=place),
                self.weights,
                shardings,
            )
            try:
                return ocp.load(self.orbax, abstract)
            except Exception as error:  # the library raises many kinds, with the whole tree in the message
                raise ValueError(f"{self.orbax} cannot be read, it is damaged ({type(error).__name__}).") from error
        return jax.tree.map(lambda leaf, place: put_leaf(leaf, place, dtype), self.weights, shardings)


def put_leaf(leaf: Any, sharding: Sharding, dtype: str | None = None) -> jax.Array:
    """One weight on devices, ``Stored`` or an array, as ``dtype`` (None: as it is)."""
    if isinstance(leaf, Stored):
        return put(leaf.astype(dtype or leaf.dtype), sharding)
    leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    return jax.device_put(leaf.astype(dtype or leaf.dtype), sharding)
