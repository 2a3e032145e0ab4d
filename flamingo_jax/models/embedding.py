"""Token table, positions and output head; and the new tokens' trainable rows beside the frozen table."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from flamingo_jax.config import LanguageConfig
from flamingo_jax.models.axes import constrain, named


class Embedding(nn.Module):
    """The table [V, E] and what belongs to it: learnt positions, projections between E and D, the output head.

    New tokens have rows of their own, given to ``encode`` and ``decode`` as (first id, rows [n, E]): ids ``first`` to
    ``first + n - 1``, inside the table (its rows are then not used) or directly after it.
    """

    config: LanguageConfig
    dtype: jnp.dtype

    def setup(self):
        config, width = self.config, self.config.embedding_width

        def weight(name, axes, *shape):
            init = nn.initializers.zeros if axes == ("vector",) else nn.initializers.normal(config.width**-0.5)
            return self.param(name, named(init, *axes), shape, jnp.float32)

        self.table = weight("table", ("vocab", "embed"), config.vocab_rows, width)
        if not config.tied:
            self.head = weight("head", ("vocab", "embed"), config.vocab_rows, width)
        if config.head_bias:
            self.head_bias = weight("head_bias", ("vector",), config.vocab_rows)
        if config.positions == "learned":
            count = config.max_positions + config.position_offset
            self.positions = weight("positions", ("positions", "embed"), count, config.width)
        if width != config.width:
            self.widen = weight("widen", ("channels_in", "embed"), width, config.width)
            self.narrow = weight("narrow", ("embed", "channels_in"), config.width, width)

    def encode(self, tokens: jax.Array, positions: jax.Array, new: tuple[int, jax.Array] | None = None) -> jax.Array:
        """tokens and positions int [B, L] -> [B, L, D]."""
        config = self.config
        # Where the table stays split by rows and by columns, a device looks up its own part of what all examples with
        # those columns ask for; left to itself, the compiler gathers the table's rows.
        ids = constrain(jnp.minimum(tokens, config.vocab_rows - 1), "lookup_batch", "length")
        x = constrain(self.table.astype(self.dtype)[ids], "lookup_batch", "length", "lookup_embed")
        x = constrain(x, "batch", "length", "act_embed")
        for token, row in _rows(new):
            x = jnp.where((tokens == token)[..., None], row.astype(self.dtype), x)
        if config.embedding_scale != 1.0:
            x = x * jnp.asarray(config.embedding_scale, self.dtype)
        if config.embedding_width != config.width:
            x = x @ self.widen.astype(self.dtype)
        if config.positions == "learned":
            last = config.max_positions - 1
            x = x + self.positions.astype(self.dtype)[jnp.clip(positions, 0, last) + config.position_offset]
        return x

    def project(self, x: jax.Array) -> jax.Array:
        """[B, L, D] -> [B, L, E], where E is another width than D."""
        return x @ self.narrow.astype(self.dtype) if self.config.embedding_width != self.config.width else x

    def decode(self, x: jax.Array, new: tuple[int, jax.Array] | None = None) -> jax.Array:
        """[B, L, E] -> float32 logits [B, L, V]; those of rows that are no token are the lowest float."""
        config = self.config
        head = self.table if config.tied else self.head
        logits = jnp.einsum("BLD,VD->BLV", x, head.astype(self.dtype), preferred_element_type=jnp.float32)
        if config.head_bias:
            logits = logits + self.head_bias.astype(jnp.float32)
        rows = _rows(new)
        extra = max((token + 1 - config.vocab_rows for token, _ in rows), default=0)
        if extra > 0:
            logits = jnp.pad(logits, ((0, 0), (0, 0), (0, extra)))
        ids = jnp.arange(logits.shape[-1])
        valid = ids < config.vocab_size
        for token, row in rows:
            # Chosen by comparison: no scatter in the gradient, and a vocabulary split over devices stays split.
            own = jnp.einsum("BLD,D->BL", x, row.astype(self.dtype), preferred_element_type=jnp.float32)
            logits = jnp.where(ids == token, own[..., None], logits)
            valid = valid | (ids == token)
        if config.logit_scale != 1.0:
            logits = logits * config.logit_scale
        if config.logit_softcap:
            logits = config.logit_softcap * jnp.tanh(logits / config.logit_softcap)
        if config.vocab_rows > config.vocab_size:
            logits = jnp.where(valid, logits, jnp.finfo(jnp.float32).min)
        return constrain(logits, "batch", "length", "act_vocab")


def _rows(new: tuple[int, jax.Array] | None) -> list[tuple[int, jax.Array]]:
    """(id, row) of every new token."""
    return [] if new is None else [(new[0] + i, new[1][i]) for i in range(new[1].shape[0])]
