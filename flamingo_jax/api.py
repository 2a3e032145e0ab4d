"""The Python API: ``flamingo_jax.load(DIR)`` gives a model that computes, whatever family it is of."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flamingo_jax.config import ClipTextConfig, LanguageConfig, ModelConfig, NFNetConfig, ViTConfig, suggest
from flamingo_jax.convert.hub import fetch
from flamingo_jax.data.tokenizer import Tokenizer
from flamingo_jax.inference.decoding import greedy
from flamingo_jax.models.decoder import Decoder
from flamingo_jax.models.encoder import ENCODERS
from flamingo_jax.models.flamingo import Flamingo
from flamingo_jax.models.gated import index_media
from flamingo_jax.sources import find


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A module with its weights.

    config: of the whole model, the language model or the vision encoder. variables: {"params"} and, of a whole model,
    {"frozen"}.
    image_token: id of ``<image>``; end_token: id that closes a document, where the family has such a rule.
    read_tokenizer: reads the tokenizer, where the folder has one.
    """

    config: ModelConfig | LanguageConfig | ViTConfig | NFNetConfig
    module: nn.Module
    variables: Mapping[str, Any]
    image_token: int | None = None
    end_token: int | None = None
    read_tokenizer: Callable[[], Tokenizer | None] = lambda: None

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Text to token ids and back: ``encode(text)``, ``decode(ids)``. ValueError when the folder has none."""
        if (found := self.read_tokenizer()) is None:
            raise ValueError("This model's folder has no tokenizer.")
        return found

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self.variables)
        count, kinds = sum(leaf.size for leaf in leaves), sorted({str(leaf.dtype) for leaf in leaves})
        return f"Model({type(self.module).__name__}, {count:,} weights, {', '.join(kinds)}, {self.config})"

    def logits(self, tokens, mask=None, images=None, media_index=None) -> jax.Array:
        """tokens int [B, L], mask [B, L] (0: padding) -> float32 logits [B, L, V].

        images: [B, N, H, W, 3] or, of several frames, [B, N, T, H, W, 3], uint8 or already normalised floats, rows with
        fewer images than others padded at the end; or a list of such images per row. media_index int [B, L] says which
        of them each token sees (from 1; 0 for none), or bool [B, L, N]; without it each sees that of the last
        ``<image>``. ValueError when images and ``<image>`` tokens do not match, and for more tokens than the model has
        positions.
        """
        return self._forward(tokens, mask, images, media_index)[0]

    def hidden(self, tokens, mask=None, images=None, media_index=None) -> jax.Array:
        """The last hidden states, after the final norm: [B, L, D]. Arguments as of ``logits``."""
        return self._forward(tokens, mask, images, media_index)[1]

    def greedy(self, tokens, mask=None, images=None, media_index=None, *, steps: int, stop: int = -1) -> jax.Array:
        """The most probable ``steps`` tokens after each prompt, int [B, steps], with a cache; prompts are left-padded.

        From the first ``stop`` on every entry is ``stop``. Arguments as of ``logits``.
        """
        if not isinstance(steps, int | np.integer):
            raise ValueError(f"steps must be a whole number, but is {steps!r}.")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, but is {steps}.")
        if not isinstance(stop, int | np.integer):
            raise ValueError(f"stop must be the id of a token, but is {stop!r}.")
        tokens, mask, images, media_index = self._inputs(tokens, mask, images, media_index)
        if not mask.any(1).all():
            raise ValueError("Every prompt needs a token, but mask has rows of zeros alone.")
        if not (mask[:, -1].all() and (mask[:, 1:] >= mask[:, :-1]).all()):
            raise ValueError("Prompts must be padded on the left, so that all continue at the same place.")
        latents = None if images is None else _encode(self.module, self.variables, images)
        length, language = tokens.shape[1] + steps, self._language()
        if language.max_positions and length > language.max_positions:
            raise ValueError(
                f"A prompt of {tokens.shape[1]} tokens and {steps} new ones do not fit the language model's context of "
                f"{language.max_positions}."
            )
        return greedy(
            self.module, self.variables, tokens, latents, media_index, mask, steps=steps, eoc=stop, room=steps
        )

    def features(self, images, mask=None, shapes=None) -> jax.Array:
        """Vision encoders: images [B, H, W, 3] -> tokens [B, P, D]. mask, shapes: NaFlex, see ``ViT``."""
        features = self._see(images, mask, shapes)
        features = features[0] if isinstance(features, tuple) else features
        return features.reshape(features.shape[0], -1, features.shape[-1])

    def pooled(self, images, mask=None, shapes=None) -> jax.Array:
        """Vision encoders: one vector per image, [B, D]: the pooling head's, or the mean of the cells (NFNet)."""
        features = self._see(images, mask, shapes)
        return features[1] if isinstance(features, tuple) else features.mean((1, 2))

    def _see(self, images, mask, shapes):
        if not isinstance(self.config, (ViTConfig, NFNetConfig)):
            raise ValueError("This model is no vision encoder; features and pooled need one.")
        if mask is None and shapes is None:
            images = _array("images", images, "[B, H, W, 3]")
            if images.ndim != 4 or images.shape[-1] != 3 or not images.shape[0]:
                raise ValueError(f"images must be [B, H, W, 3], one at least, but are {list(images.shape)}.")
        else:
            images, mask, shapes = self._patches(images, mask, shapes)
        if isinstance(self.config, NFNetConfig):
            return _apply(self.module, self.variables, images)
        return _apply(self.module, self.variables, images, mask, shapes, pool=True)

    def _patches(self, images, mask, shapes):
        """NaFlex's inputs, checked."""
        config = self.config
        if isinstance(config, NFNetConfig) or config.positions != "learned" or config.class_token:
            raise ValueError("This encoder takes images alone; mask and shapes are of SigLIP 2 NaFlex.")
        if mask is None or shapes is None:
            raise ValueError("NaFlex needs both mask and shapes.")
        images, mask, shapes = (_array("images", images, "[B, P, p p 3]"), np.asarray(mask), np.asarray(shapes))
        size = 3 * config.patch_size**2
        if not jnp.issubdtype(images.dtype, jnp.floating) or images.ndim != 3 or images.shape[-1] != size:
            raise ValueError(
                f"With mask and shapes, images must be normalised patches, floats [B, P, {size}], but are "
                f"{images.dtype} {list(images.shape)}."
            )
        batch, patches = images.shape[:2]
        if mask.shape != (batch, patches) or not np.isin(mask, (0, 1)).all():
            raise ValueError(f"mask must be [B, P] = {[batch, patches]}, 1 for patches and 0 for padding.")
        if shapes.shape != (batch, 2) or not np.issubdtype(shapes.dtype, np.integer) or not (shapes > 0).all():
            raise ValueError(f"shapes must be whole numbers [B, 2], rows and columns, but are {shapes.tolist()}.")
        if (shapes.prod(1) != mask.sum(1)).any():
            raise ValueError(
                f"shapes have {shapes.prod(1).tolist()} patches, but mask has {mask.sum(1).astype(int).tolist()}."
            )
        return images, mask, shapes

    def _language(self) -> LanguageConfig:
        return self.config if isinstance(self.config, LanguageConfig) else self.config.language

    def _forward(self, tokens, mask, images, media_index):
        tokens, mask, images, media_index = self._inputs(tokens, mask, images, media_index)
        media = () if images is None else (images, media_index)
        return _logits(self.module, self.variables, tokens, mask, *media)

    def _inputs(self, tokens, mask, images, media_index):
        """Inputs as arrays: tokens, mask bool [B, L], images [B, N, T, H, W, 3] and media_index, or None and None."""
        if isinstance(self.config, (ViTConfig, NFNetConfig)):
            raise ValueError("This model is a vision encoder and has no tokens; it has features and pooled.")
        tokens = _array("tokens", tokens, "[B, L]")
        mask = np.ones(tokens.shape, bool) if mask is None else _array("mask", mask, "[B, L]")
        if not np.isin(mask, (0, 1)).all():
            raise ValueError("mask must hold 1 for tokens and 0 for padding, and nothing else.")
        if tokens.ndim != 2 or mask.shape != tokens.shape:
            raise ValueError(
                f"tokens and mask must both be [B, L], but are {list(tokens.shape)} and {list(mask.shape)}."
            )
        if not tokens.size:
            raise ValueError(f"There are no tokens: they are {list(tokens.shape)}.")
        language = self._language()
        known = max(language.vocab_rows, *(token + 1 for token in self.module.new_tokens), 0)
        if not 0 <= int(tokens.min()) <= int(tokens.max()) < known:
            raise ValueError(
                f"Token ids must be 0 to {known - 1}, but go from {int(tokens.min())} to {int(tokens.max())}."
            )
        tokens, mask = jnp.asarray(tokens, jnp.int32), jnp.asarray(mask, bool)
        if isinstance(self.config, LanguageConfig):
            if images is not None or media_index is not None:
                raise ValueError("This model is a language model without a vision encoder; it takes no images.")
            return tokens, mask, None, None
        if images is None and media_index is not None and np.any(np.asarray(media_index) > 0):
            raise ValueError("media_index names media, but there are no images.")
        if images is None:
            images = [[]] * tokens.shape[0]
        counts = None  # of an array, in which rows with fewer images than others are padded
        if isinstance(images, Sequence):
            counts, images = [len(row) for row in images], _pad(images)
        images = jnp.zeros((tokens.shape[0], 1, 1, *_size(self.config), 3)) if images is None else images
        images = _array("images", images, "[B, N, H, W, 3]")
        images = images[:, :, None] if images.ndim == 5 else images
        if images.ndim != 6 or images.shape[-1] != 3 or images.shape[0] != tokens.shape[0]:
            raise ValueError(
                f"images are {list(images.shape)}, but must be [B, N, H, W, 3] or [B, N, T, H, W, 3] with "
                f"B={tokens.shape[0]}."
            )
        if media_index is None:
            return tokens, mask, images, self._index(tokens, counts, images.shape[1])
        media_index = _array("media_index", media_index, "[B, L] or [B, L, N]")
        if media_index.shape not in (tokens.shape, (*tokens.shape, images.shape[1])):
            raise ValueError(
                f"media_index is {list(media_index.shape)}, but must be [B, L] = {list(tokens.shape)} or [B, L, N], "
                f"N={images.shape[1]}."
            )
        if media_index.ndim == 2 and not 0 <= int(media_index.min()) <= int(media_index.max()) <= images.shape[1]:
            raise ValueError(
                f"media_index must be 0 to {images.shape[1]}, the number of media, but goes from "
                f"{int(media_index.min())} to {int(media_index.max())}."
            )
        if media_index.ndim == 3 and not np.isin(media_index, (0, 1)).all():
            raise ValueError("media_index [B, L, N] must hold 1 where a token sees a medium and 0 elsewhere.")
        kind = jnp.int32 if media_index.ndim == 2 else bool
        return tokens, mask, images, jnp.asarray(media_index, kind)

    def _index(self, tokens, counts, media: int):
        if self.image_token is None:
            raise ValueError("This model has no <image> token; give media_index.")
        seen = np.asarray((tokens == self.image_token).sum(1)).tolist()
        if max(seen) != media if counts is None else seen != counts:
            raise ValueError(
                f"The prompts have {seen} <image> tokens, but {media if counts is None else counts} media were given; "
                "give one medium per <image>."
            )
        return index_media(tokens, self.image_token, self.end_token)


# argument -> (its types, in words)
_TYPES = {
    "tokens": ((np.integer,), "integers"),
    "mask": ((np.bool_, np.number), "numbers"),
    "images": ((np.uint8, np.floating), "uint8, or floats that are normalised already"),
    "media_index": ((np.bool_, np.integer), "whole numbers or bool"),
}


def _array(name: str, value: Any, shape: str) -> np.ndarray | jax.Array:
    """An argument as an array. Raises ValueError for rows of different lengths and for a type that is none of its."""
    try:
        value = value if isinstance(value, jax.Array) else np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} must be {shape}, rows of one length.") from None
    types, words = _TYPES[name]
    if not any(jnp.issubdtype(value.dtype, kind) for kind in types):
        raise ValueError(f"{name} must be {shape} of {words}, but are of type {value.dtype}.")
    return value


@functools.partial(jax.jit, static_argnames=("module", "pool"))
def _apply(module, variables, *inputs, **options):
    return module.apply(variables, *inputs, **options)


@functools.partial(jax.jit, static_argnames=("module",))
def _encode(module, variables, images):
    return module.apply(variables, images, method="encode")


@functools.partial(jax.jit, static_argnames=("module",))
def _logits(module, variables, tokens, mask, images=None, media_index=None):
    inputs = (tokens, mask) if images is None else (tokens, images, media_index, mask)
    logits, state = module.apply(variables, *inputs, mutable=["intermediates"])
    hidden = jax.tree.leaves(state["intermediates"])[0]
    return logits, hidden


def _size(config: ModelConfig) -> tuple[int, int]:
    """A size of images that the encoder takes, for a prompt without any."""
    vision = config.vision
    return (32, 32) if isinstance(vision, NFNetConfig) else tuple(side * vision.patch_size for side in vision.grid)


def _pad(rows: Sequence[Sequence[Any]]) -> np.ndarray | None:
    """Lists of images per row -> [B, N, ..], short rows filled with zeros. None when there is no image at all."""
    first = next((np.asarray(image) for row in rows for image in row), None)
    if first is None:
        return None
    types = {np.asarray(image).dtype for row in rows for image in row}
    if len(types) > 1:
        raise ValueError(f"Images of one batch must have one type; got {', '.join(sorted(map(str, types)))}.")
    out = np.zeros((len(rows), max(map(len, rows)), *first.shape), first.dtype)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            if np.shape(image) != first.shape:
                raise ValueError(f"Images of one batch must have one shape; got {first.shape} and {np.shape(image)}.")
            out[i, j] = image
    return out


_DTYPES = {"float32": "float32", "bfloat16": "bfloat16", "int8": "bfloat16"}  # of weights -> what is computed in


def load(source: str | pathlib.Path, dtype: str | None = None) -> Model:
    """The model of a folder: a public language model, vision encoder, IDEFICS or OpenFlamingo, or a folder of ours.

    Args:
        source: a run's folder, for its last finished stage, or that of one of its checkpoints
            (``STAGE/checkpoints/ATTEMPT/STEP``); a folder that ``flamingo_jax.convert`` wrote; or a folder with
            ``config.json`` (or ``open_clip_config.json``) and weights as public libraries write it, or its hub id.
            OpenFlamingo's has ``params.safetensors`` or ``checkpoint.pt``, and a ``config.json`` with "lm", "vision",
            "cross_attn_every_n_layers", "eoc_token_id" and "media_token_id" (``convert/open_flamingo.py``).
        dtype: of weights, float32 | bfloat16 | int8 (matrices of the frozen parts, with a step for every output, the
            rest in bfloat16); None for the file's. Models of float32 (or float64) weights compute in float32, others,
            of float16 too, in bfloat16.

    Raises:
        ValueError: when there is nothing to load, the family or one of its options is not implemented, or config and
            weights do not fit each other (all that is missing, left over or of a wrong shape is listed).
    """
    if dtype not in (None, *_DTYPES):
        raise ValueError(f"dtype={dtype!r} is unknown; {suggest(dtype, _DTYPES)}.")
    found = find(fetch(str(source))[0])
    compute = jnp.dtype(_DTYPES[dtype]) if dtype else found.dtype()
    if isinstance(found.config, ClipTextConfig):
        raise ValueError(f"{source} is the text tower of a CLIP, which has no use alone; give the folder above it.")
    variables, ours = found.place(dtype=dtype), found.config
    if isinstance(ours, ModelConfig):
        ours = dataclasses.replace(ours, dtype=str(compute))
        module = Flamingo(ours, found.new_tokens)
    else:
        module = (Decoder if isinstance(ours, LanguageConfig) else ENCODERS[type(ours)])(ours, compute)
        variables = {"params": variables}
    return Model(ours, module, variables, found.image_token, found.end_token, found.tokenizer)
