"""The causal decoder, bare or with gated cross-attention between its blocks (paper 2.2)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from flamingo_jax.config import GatedConfig, LanguageConfig
from flamingo_jax.models.axes import constrain, named
from flamingo_jax.models.freeze import freeze
from flamingo_jax.models.gated import GatedCrossAttention
from flamingo_jax.models.layers import ACTIVATIONS, Attention, FeedForward, Norm

# What a scan over layers does with each collection: all are stacked along a new leading axis.
_STACKED = {"params": 0, "frozen": 0, "cache": 0}


class Block(nn.Module):
    """One pre-norm transformer block: x [B, L, D] -> [B, L, D]. Returns (x, None) as ``nn.scan`` wants it."""

    heads: int
    activation: str
    smear: bool
    theta: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, positions, mask, valid, slot):
        x = constrain(x, "batch", "length", "act_embed")
        y = Norm(self.dtype, name="attention_norm")(x)
        attention = Attention(self.heads, x.shape[-1] // self.heads, self.dtype, self.smear, name="attention")
        x = x + attention(y, y, mask, rotary=(positions, self.theta), slot=slot, valid=valid)
        y = Norm(self.dtype, name="mlp_norm")(x)
        return x + FeedForward(ACTIVATIONS[self.activation], self.dtype, name="mlp")(y), None


class Stack(nn.Module):
    """``depth`` blocks as one scan, so that compile time does not grow with depth."""

    depth: int
    heads: int
    activation: str
    smear: bool
    theta: float
    dtype: jnp.dtype
    remat: bool

    @nn.compact
    def __call__(self, x, positions, mask, valid, slot=None):
        block = nn.remat(Block, prevent_cse=False) if self.remat else Block
        scan = nn.scan(
            block,
            variable_axes=_STACKED,
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scan(self.heads, self.activation, self.smear, self.theta, self.dtype, name="blocks")(
            x, positions, mask, valid, slot
        )[0]


def stack_arguments(config: LanguageConfig, dtype: jnp.dtype, remat: bool) -> tuple:
    """What ``Stack`` takes after its depth."""
    return config.heads, config.activation, config.smear, config.rope_theta, dtype, remat


class Group(nn.Module):
    """One gated cross-attention and the ``depth`` frozen blocks after it. Returns (x, None)."""

    config: LanguageConfig
    gated: GatedConfig
    depth: int
    dtype: jnp.dtype
    remat: bool

    @nn.compact
    def __call__(self, x, latents, media_index, positions, mask, valid, slot):
        x = GatedCrossAttention(self.gated, self.dtype, name="gated")(x, latents, media_index)
        arguments = stack_arguments(self.config, self.dtype, self.remat)
        stack = freeze(Stack)(self.depth, *arguments, name="language")
        return stack(x, positions, mask, valid, slot), None


class Embedding(nn.Module):
    """The token table [V, D], used for input (``encode``) and, tied, for output logits (``decode``)."""

    vocab_size: int
    width: int
    dtype: jnp.dtype

    def setup(self):
        init = named(nn.initializers.normal(self.width**-0.5), "vocab", "embed")
        self.table = self.param("table", init, (self.vocab_size, self.width), jnp.float32)

    def encode(self, tokens: jax.Array) -> jax.Array:
        # Rows have length one, residuals start with entries of size one.
        return self.table.astype(self.dtype)[tokens] * jnp.asarray(self.width**0.5, self.dtype)

    def decode(self, x: jax.Array) -> jax.Array:
        logits = jnp.einsum("BLD,DV->BLV", x, self.table.T.astype(self.dtype), preferred_element_type=jnp.float32)
        return constrain(logits, "batch", "length", "act_vocab")


class Decoder(nn.Module):
    """Tokens -> logits. With ``gated`` the language model's weights are ``frozen`` and only the bridge is trainable.

    gated: None for the bare language model; then every weight is in ``params``.
    eoc: id of the one token (``<EOC>``) that has a trainable row of its own when the rest of the table is frozen.
    """

    config: LanguageConfig
    dtype: jnp.dtype
    remat: bool
    gated: GatedConfig | None = None
    eoc: int = -1

    @nn.compact
    def __call__(self, tokens, mask=None, latents=None, media_index=None) -> jax.Array:
        """tokens int [B, L], mask bool [B, L] (False: padding), latents [B, N, R, D'], media_index int [B, L].

        Returns float32 logits [B, L, V]. Positions count unmasked tokens, so padding on either side changes nothing.
        When a ``cache`` collection is passed (mutable), the tokens continue what it holds.
        """
        if mask is None:
            mask = jnp.ones(tokens.shape, bool)
        config = self.config
        place = self._place(mask)
        embedding_class = Embedding if self.gated is None else freeze(Embedding, methods=["encode", "decode"])
        embedding = embedding_class(config.vocab_size, config.width, self.dtype, name="embedding")

        x = embedding.encode(tokens)
        if self.gated is None:
            x = Stack(config.depth, *stack_arguments(config, self.dtype, self.remat), name="language")(x, *place)
            return embedding.decode(Norm(self.dtype, name="norm")(x))

        init = named(nn.initializers.normal(config.width**-0.5), "vector")
        row = self.param("eoc", init, (config.width,), jnp.float32).astype(self.dtype)
        x = jnp.where((tokens == self.eoc)[..., None], row * jnp.asarray(config.width**0.5, self.dtype), x)
        x = self._groups(x, latents, media_index, *place)
        x = freeze(Norm)(self.dtype, name="norm")(x)
        logits = embedding.decode(x)
        own = jnp.einsum("BLD,D->BL", x, row, preferred_element_type=jnp.float32)
        return jnp.where(jnp.arange(config.vocab_size) == self.eoc, own[..., None], logits)

    def _groups(self, x, *inputs):
        """The scan over [gated cross-attention + k blocks], and the remainder when k does not divide the depth."""
        groups, remainder = divmod(self.config.depth, self.gated.every)
        group = nn.remat(Group, prevent_cse=False) if self.remat else Group
        if groups:
            scan = nn.scan(
                group,
                variable_axes=_STACKED,
                split_rngs={"params": True},
                in_axes=nn.broadcast,
                length=groups,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            arguments = (self.config, self.gated, self.gated.every, self.dtype, self.remat)
            x, _ = scan(*arguments, name="groups")(x, *inputs)
        if remainder:
            x, _ = group(self.config, self.gated, remainder, self.dtype, self.remat, name="remainder")(x, *inputs)
        return x

    def _place(self, mask: jax.Array):
        """Positions [B, L], visibility [B, L, M], valid keys [B, M] and, with a cache, the slot of the first token.

        Without a cache M = L and a token sees the unmasked tokens up to itself:

            mask 0 1 1 1  ->  position 0 0 1 2  ->  sees  . . . .
                                                          . x . .
                                                          . x x .
                                                          . x x x
        """
        length = mask.shape[1]
        if not (self.has_variable("cache", "index") or self.is_initializing()):
            positions = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
            return positions, jnp.tril(jnp.ones((length, length), bool)) & mask[:, None, :], mask, None
        index = self.variable("cache", "index", jnp.zeros, (), jnp.int32)
        valid = self.variable("cache", "valid", jnp.zeros, mask.shape, bool)
        slot = index.value
        known = jax.lax.dynamic_update_slice(valid.value, mask, (0, slot))
        counts = jnp.maximum(jnp.cumsum(known, axis=1) - 1, 0)
        positions = jax.lax.dynamic_slice_in_dim(counts, slot, length, axis=1)
        visible = (jnp.arange(known.shape[1]) <= slot + jnp.arange(length)[:, None]) & known[:, None, :]
        if not self.is_initializing():
            index.value, valid.value = slot + length, known
        return positions, visible, known, slot


def group_layers(weights: dict, every: int) -> dict:
    """A bare decoder's weights in the gated one's layout: [depth, ..] becomes groups [G, every, ..] + remainder."""
    blocks = weights["language"]
    depth = jax.tree.leaves(blocks)[0].shape[0]
    groups = depth // every
    out = {key: value for key, value in weights.items() if key != "language"}
    if groups:
        head = jax.tree.map(lambda w: w[: groups * every].reshape(groups, every, *w.shape[1:]), blocks)
        out["groups"] = {"language": head}
    if depth % every:
        out["remainder"] = {"language": jax.tree.map(lambda w: w[groups * every :], blocks)}
    return out
