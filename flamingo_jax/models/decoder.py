"""The causal decoder, bare or with gated cross-attention between its blocks (paper 2.2)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from flamingo_jax.config import PRETRAINED, GatedConfig, LanguageConfig
from flamingo_jax.models.axes import named
from flamingo_jax.models.embedding import Embedding
from flamingo_jax.models.freeze import freeze
from flamingo_jax.models.gated import GatedCrossAttention, media_visibility
from flamingo_jax.models.language import STACKED, Stack, make_norm
from flamingo_jax.models.layers import Einsum, Norm
from flamingo_jax.models.positions import place
from flamingo_jax.models.remat import GROUP, rematerialise


class Group(nn.Module):
    """One gated cross-attention and the language blocks after it, one per entry of ``kinds``. Returns (x, None).

    number: as ``Stack``'s ``group``.
    """

    config: LanguageConfig
    gated: GatedConfig
    dtype: jnp.dtype
    remat: str
    frozen: bool

    @nn.compact
    def __call__(self, x, kinds, latents, seen, where, number=None):
        x = checkpoint_name(x, GROUP)
        gated = rematerialise(GatedCrossAttention, self.remat, "gated")
        x = gated(self.gated, self.dtype, name="gated")(x, latents, seen)
        stack = freeze(Stack) if self.frozen else Stack
        return stack(self.config, self.dtype, self.remat, name="language")(x, kinds, where, number), None


class Decoder(nn.Module):
    """Tokens -> logits.

    gated: None for the bare language model; then every weight is in ``params``. Else the parts named by ``frozen``
    (of "language" and "embeddings") are in ``frozen``, and the bridge in ``params``.
    new_tokens: consecutive ids that have trainable rows of their own beside the table, in and out (``<EOC>``).
    kernels: as ``ModelConfig``'s.
    """

    config: LanguageConfig
    dtype: jnp.dtype
    remat: str = "none"
    gated: GatedConfig | None = None
    new_tokens: tuple[int, ...] = ()
    frozen: tuple[str, ...] = PRETRAINED
    kernels: bool = True

    @nn.compact
    def __call__(self, tokens, mask=None, latents=None, media_index=None) -> jax.Array:
        """tokens int [B, L], mask bool [B, L] (False: padding), latents [B, N, R, D'], media_index as ``Flamingo``'s.

        mask may also be int, the segments of rows that pack several documents: each token's document, numbered 1, 2, ..
        along the row, 0 for padding. Each document then gives what it gives in a row of its own.

        Returns float32 logits [B, L, V]; the last hidden states are sown as ``intermediates/hidden``. Positions count
        unmasked tokens, so padding on either side changes nothing. When a ``cache`` collection is passed (mutable), the
        tokens continue what it holds. ValueError for rows of more tokens than the model has positions, and for segments
        with a cache.
        """
        config = self.config
        if mask is None:
            mask = jnp.ones(tokens.shape, bool)
        known, slot = self._known(mask)
        if config.max_positions and known.shape[1] > config.max_positions:
            raise ValueError(
                f"{known.shape[1]} tokens are longer than the language model's context, {config.max_positions}."
            )
        positions, where = place(config, known, slot, tokens.shape[1], kernels=self.kernels)
        embedding_class, norm_class = Embedding, Norm
        if self.gated is not None and "embeddings" in self.frozen:
            embedding_class = freeze(Embedding, methods=["encode", "project", "decode"])
        if self.gated is not None and "language" in self.frozen:
            norm_class = freeze(Norm)
        embedding = embedding_class(config, self.dtype, name="embedding")
        rows_in, rows_out = self._new_rows()
        kinds = jnp.asarray(config.kinds(), jnp.int32)

        x = embedding.encode(tokens, positions, rows_in)
        if self.gated is None:
            x = Stack(config, self.dtype, self.remat, name="language")(x, kinds, where)
        else:
            x = self._bridged(x, kinds, latents, media_index, where)
        if config.final_norm:
            x = make_norm(config, self.dtype, "norm", norm_class)(x)
        x = embedding.project(x)
        self.sow("intermediates", "hidden", x)
        return embedding.decode(x, rows_out)

    def decode(self, tokens, latents=None, media_index=None, mask=None) -> jax.Array:
        """The same with ``Flamingo.decode``'s order of arguments, by which ``inference`` knows a model."""
        return self(tokens, mask, latents, media_index)

    def cache(self, batch: int, length: int) -> dict:
        """The ``cache`` that ``decode`` of the bare model continues."""
        return empty_cache(self, batch, length, None)

    def _new_rows(self):
        """(first id, rows) of the new tokens for input and for output: the same where the table is tied."""
        if not self.new_tokens:
            return None, None
        first, width = self.new_tokens[0], self.config.embedding_width
        if self.new_tokens != tuple(range(first, first + len(self.new_tokens))) or first > self.config.vocab_rows:
            raise ValueError(
                f"new_tokens={self.new_tokens} must be consecutive ids, none beyond the first after the table's "
                f"{self.config.vocab_rows} rows."
            )
        init = named(nn.initializers.normal(self.config.width**-0.5), None, "vector")

        def rows(name):
            return first, self.param(name, init, (len(self.new_tokens), width), jnp.float32)

        rows_in = rows("new_rows")
        return rows_in, rows_in if self.config.tied else rows("new_head_rows")

    def _bridged(self, x, kinds, latents, media_index, where):
        """Blocks below the first gated layer, whole groups, a shorter last one; or a graft on top of all blocks."""
        gated, frozen = self.gated, "language" in self.frozen
        known = where["known"]
        segments = None if known.dtype == bool else known
        seen = media_visibility(media_index, latents.shape[1], gated.visible, segments)
        if gated.media_width:
            shape = (latents.shape[-1], gated.media_width)
            project = Einsum(shape, ("features", "embed"), shape[0], self.dtype, name="media_projection")
            latents = project("BNRC,CD->BNRD", latents)
        below, groups, remainder = gated.groups(self.config.depth)
        split = below + groups * gated.every
        if below:
            stack = freeze(Stack) if frozen else Stack
            x = stack(self.config, self.dtype, self.remat, name="below")(x, kinds[:below], where)
        if groups:
            x = self._scan(x, "groups", kinds[below:split].reshape(groups, gated.every), frozen, latents, seen, where)
        if remainder:
            arguments = (self.config, gated, self.dtype, self.remat, frozen)
            group = rematerialise(Group, self.remat, "group")(*arguments, name="remainder")
            x, _ = group(x, kinds[split:], latents, seen, where)
        if gated.graft:
            x = self._scan(x, "graft", kinds[-1:].repeat(gated.graft)[:, None], False, latents, seen, where)
        return x

    def _scan(self, x, name: str, kinds: jax.Array, frozen: bool, latents, seen, where):
        """Groups, one per row of ``kinds``, as one scan."""
        count, number, axes = kinds.shape[0], None, {"variable_axes": STACKED}
        # Without rematerialisation the backward pass would keep every layer's slice of the weights, which is all again.
        if frozen and self.remat != "none" and not self.is_initializing():
            number = jnp.arange(count)
            axes = {"variable_axes": {"params": 0, "cache": 0}, "variable_broadcast": "frozen"}
        scan = nn.scan(
            rematerialise(Group, self.remat, "group"),
            **axes,
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast, 0),
            length=count,
            metadata_params={nn.PARTITION_NAME: "groups"},
        )
        groups = scan(self.config, self.gated, self.dtype, self.remat, frozen, name=name)
        return groups(x, kinds, latents, seen, where, number)[0]

    def _known(self, mask: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Keys [B, M] that are no padding and, with a cache, the column of the first query. Without one M = L."""
        if not (self.has_variable("cache", "index") or self.is_initializing()):
            return mask, None
        if mask.dtype != bool:
            if not self.is_initializing():
                raise ValueError(
                    f"mask is {mask.dtype}, the segments of packed documents, but a cache continues one document per "
                    "row: give a bool mask, False for padding."
                )
            mask = mask > 0
        index = self.variable("cache", "index", jnp.zeros, (), jnp.int32)
        known = self.variable("cache", "known", jnp.zeros, mask.shape, bool)
        slot, now = index.value, jax.lax.dynamic_update_slice(known.value, mask, (0, index.value))
        if not self.is_initializing():
            index.value, known.value = slot + mask.shape[1], now
        return now, slot


def unembed(decoder: Decoder, weights: dict, hidden: jax.Array) -> jax.Array:
    """The last step of ``Decoder`` alone: last hidden states, as it sows them, [B, L, E] -> float32 logits [B, L, V].

    weights: the decoder's, trainable and frozen together.
    """
    rows = weights.get("new_rows" if decoder.config.tied else "new_head_rows")
    embedding = Embedding(decoder.config, decoder.dtype)
    new = None if rows is None else (decoder.new_tokens[0], rows)
    return embedding.apply({"params": weights["embedding"]}, hidden, new, method="decode")


def empty_cache(model: nn.Module, batch: int, length: int, latents: jax.ShapeDtypeStruct | None) -> dict:
    """Zeros for ``batch`` sequences of up to ``length`` tokens, as the module's ``decode`` continues them."""
    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    shapes = jax.eval_shape(
        lambda *args: model.init(jax.random.key(0), *args, method="decode"), tokens, latents, tokens
    )
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nn.meta.unbox(shapes["cache"]))


def group_layers(weights: dict, gated: GatedConfig) -> dict:
    """A bare decoder's weights in the gated one's layout: blocks [depth, ..] become ``below`` [first, ..], ``groups``
    [G, every, ..] and ``remainder``. Arrays may be of numpy or JAX."""
    blocks = weights["language"]
    below, groups, remainder = gated.groups(depth_of(weights))
    split = below + groups * gated.every
    out = {key: value for key, value in weights.items() if key != "language"}
    if below:
        out["below"] = jax.tree.map(lambda w: w[:below], blocks)
    if groups:
        shape = (groups, gated.every)
        out["groups"] = {"language": jax.tree.map(lambda w: w[below:split].reshape(*shape, *w.shape[1:]), blocks)}
    if remainder:
        out["remainder"] = {"language": jax.tree.map(lambda w: w[split:], blocks)}
    return out


def group_bridge(weights: dict, gated: GatedConfig, depth: int) -> dict:
    """The gated layers' weights, stacked in order, in the decoder's layout: ``groups`` [G, ..] and ``remainder``."""
    _, groups, remainder = gated.groups(depth)
    out = {}
    if groups:
        out["groups"] = {"gated": jax.tree.map(lambda w: w[:groups], weights)}
    if remainder:
        out["remainder"] = {"gated": jax.tree.map(lambda w: w[groups], weights)}
    return out


def depth_of(weights: dict) -> int:
    """How many blocks a bare decoder's weights have."""
    return np.shape(jax.tree.leaves(weights["language"])[0])[0]
