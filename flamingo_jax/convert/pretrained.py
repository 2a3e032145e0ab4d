"""A model in files: what it is, and where its weights are."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from flamingo_jax.config import ClipTextConfig, LanguageConfig, ModelConfig, NFNetConfig, ViTConfig
from flamingo_jax.convert.place import put
from flamingo_jax.convert.stored import Stored
from flamingo_jax.data.tokenizer import Tokenizer
from flamingo_jax.models.int8 import Int8, inputs_of, is_int8, quantise


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A model whose weights are read when they are placed.

    weights: of a whole model {"params", "frozen"}, else those of the bare decoder, encoder or text tower; a tree of
    ``Stored``, of arrays or, where ``orbax`` names the folder that holds it, of ``jax.ShapeDtypeStruct``.
    new_tokens: ids with rows of their own. image_token: id of ``<image>``; end_token: id that closes a document, where
    the family has such a rule. tokenizer: reads it; None where there is none. public: the public configs of the parts,
    {"language", "vision"}, where they are known. training: what a run knows of it (``sources.finished``).
    text: of a vision encoder that is a CLIP's, finds what the CLIP has beside it; None where there is nothing. int8:
    whether frozen matrices are placed as 8 bits unless another type is asked for, as of a run that trained with such.
    """

    config: ModelConfig | LanguageConfig | ViTConfig | NFNetConfig | ClipTextConfig
    weights: Mapping[str, Any]
    new_tokens: tuple[int, ...] = ()
    image_token: int | None = None
    end_token: int | None = None
    orbax: pathlib.Path | None = None
    tokenizer: Callable[[], Tokenizer | None] = lambda: None
    public: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    text: Callable[[], Pretrained | None] = lambda: None
    int8: bool = False

    def dtype(self) -> jnp.dtype:
        """What to compute in: float32 when any weight is as wide and none has 8 bits, else bfloat16."""
        widths = {leaf.dtype.itemsize for leaf in jax.tree.leaves(self.weights, is_leaf=is_int8)}
        return jnp.dtype("float32" if max(widths) >= 4 and 1 not in widths else "bfloat16")

    def here(self) -> Pretrained:
        """The same with weights that can be read one by one on the host, none of 8 bits."""
        if self.orbax is None and not self.int8:
            return self
        weights = jax.tree.map(
            lambda leaf: leaf.astype(jnp.bfloat16) if is_int8(leaf) else leaf, self.place(), is_leaf=is_int8
        )
        return dataclasses.replace(self, weights=weights, orbax=None, int8=False)

    def stored_as(self, path: Sequence[str], leaf: Any, dtype: str | None) -> str:
        """The type of a weight that is placed with ``dtype``; path: the names on the way to it."""
        if dtype != "int8" and (dtype or not self.int8):
            return str(dtype or leaf.dtype)
        if is_int8(leaf) or isinstance(self.config, ModelConfig) and path[0] == "params":
            return str(leaf.dtype)
        return "int8" if inputs_of(path, len(leaf.shape)) else "bfloat16" if dtype else str(leaf.dtype)

    def place(self, shardings: Any = None, dtype: str | None = None) -> dict:
        """The weights on devices: one sharding for all or a tree of them, None for the first device.

        dtype: of all weights; None for that of the files; "int8" for the matrices of what is not the bridge, whose
        other weights become bfloat16. One weight's layer at most is in memory beside the result, with "int8" one
        weight. Raises ValueError for damaged files.
        """
        if shardings is None:
            shardings = SingleDeviceSharding(jax.devices()[0])
        if not isinstance(shardings, Mapping):
            shardings = jax.tree.map(lambda _: shardings, self.weights)
        if self.orbax is None:
            return jax.tree_util.tree_map_with_path(
                lambda path, leaf, place: self._put(path, leaf, place, dtype), self.weights, shardings, is_leaf=is_int8
            )
        abstract = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), self.weights, shardings
        )
        try:
            loaded = from_plain(ocp.load(self.orbax, to_plain(abstract)))
        except Exception as error:  # the library raises many kinds, with the whole tree in the message
            raise ValueError(f"{self.orbax} cannot be read, it is damaged ({type(error).__name__}).") from error
        if dtype is None:
            return loaded
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: self._put(path, leaf, getattr(leaf, "sharding", None), dtype), loaded, is_leaf=is_int8
        )

    def _put(self, path, leaf: Any, sharding: Sharding, dtype: str | None) -> jax.Array | Int8:
        names = [entry.key for entry in path]
        kind = self.stored_as(names, leaf, dtype)
        if kind != "int8":
            return put_leaf(leaf, sharding, kind)
        if is_int8(leaf):
            return leaf if sharding is None else jax.device_put(leaf, sharding)
        return quantise(put_leaf(leaf, sharding), inputs_of(names, len(leaf.shape)))


_VALUES, _STEPS = "int8", "int8_step"  # how a folder names the two arrays of an ``Int8``


def to_plain(tree: Any) -> Any:
    """The tree with dictionaries in the place of every ``Int8``, as it is stored."""
    return jax.tree.map(
        lambda leaf: {_VALUES: leaf.values, _STEPS: leaf.steps} if is_int8(leaf) else leaf, tree, is_leaf=is_int8
    )


def from_plain(tree: Any) -> Any:
    """The inverse of ``to_plain``."""
    if not isinstance(tree, Mapping):
        return tree
    if tree.keys() == {_VALUES, _STEPS}:
        return Int8(tree[_VALUES], tree[_STEPS])
    return {name: from_plain(part) for name, part in tree.items()}


def put_like(leaf: Any, described: jax.ShapeDtypeStruct | Int8) -> jax.Array | Int8:
    """One weight on devices, as a description (of ``training.state.weights``) says."""
    if not is_int8(described):
        return put_leaf(leaf, described.sharding, described.dtype)
    inputs = tuple(axis for axis, size in enumerate(described.steps.shape) if size == 1)
    found = leaf if is_int8(leaf) else quantise(put_leaf(leaf, described.values.sharding), inputs)
    return jax.tree.map(lambda part, like: jax.device_put(part, like.sharding), found, described)


def put_leaf(leaf: Any, sharding: Sharding, dtype: str | None = None) -> jax.Array:
    """One weight on devices, ``Stored`` or an array, as ``dtype`` (None: as it is)."""
    if isinstance(leaf, Stored):
        return put(leaf.astype(dtype or leaf.dtype), sharding)
    if is_int8(leaf):
        sharding = sharding.values if is_int8(sharding) else sharding
        leaf = leaf.astype(dtype or jnp.bfloat16)
        return jax.device_put(leaf, sharding or leaf.sharding)
    leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    return jax.device_put(leaf.astype(dtype or leaf.dtype), sharding)
