"""The blocks of the one decoder, for every family of language models; ``LanguageConfig`` has the options."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from flamingo_jax.config import LanguageConfig
from flamingo_jax.models.attention import Attention
from flamingo_jax.models.axes import constrain
from flamingo_jax.models.layers import FeedForward, Norm
from flamingo_jax.models.positions import at_kind
from flamingo_jax.models.remat import rematerialise

# What a scan over layers does with each collection: all are stacked along a new leading axis.
STACKED = {"params": 0, "frozen": 0, "cache": 0}


def make_norm(config: LanguageConfig, dtype: jnp.dtype, name: str, norm: type[nn.Module] = Norm) -> nn.Module:
    """The decoder's kind of norm; ``norm``: ``Norm``, or its frozen version."""
    centred = config.norm == "layer"
    kind = (dtype, centred, config.epsilon, config.norm_bias, config.unit_offset)
    return norm(*kind, scale=config.norm_scale, name=name)


def make_attention(config: LanguageConfig, dtype: jnp.dtype) -> Attention:
    """The decoder's self-attention."""
    windows = {kind.window for kind in config.layers}
    return Attention(
        config.heads,
        config.head_size,
        dtype,
        config.kv_heads,
        bias=(*[config.qkv_bias] * 3, config.out_bias),
        scale=config.attention_scale,
        softcap=config.softcap,
        clip=config.clip_qkv,
        qk_norm=config.qk_norm,
        qk_centred=config.norm == "layer",
        qk_bias=config.qk_norm_bias,
        qk_unit_offset=config.unit_offset,
        qk_epsilon=config.epsilon,
        rope_interleaved=any(kind.rope.interleaved for kind in config.layers if kind.rope),
        relative=config.positions == "relative",
        smear=config.smear,
        window=min(windows) if len(windows) == 1 else None,
        name="attention",
    )


class Block(nn.Module):
    """One transformer block: x [B, L, D] -> [B, L, D]. Returns (x, None) as ``nn.scan`` wants it.

    kind: the layer's kind, an index into ``config.layers``. place: what ``positions.place`` gives.
    """

    config: LanguageConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, kind: jax.Array, place: dict):
        config = self.config
        here = at_kind(place, kind)
        attention_layer = make_attention(config, self.dtype)
        mlp = FeedForward(
            config.activation, self.dtype, config.mlp_width, config.mlp == "gated", config.mlp_bias, name="mlp"
        )

        def norm(name):
            return make_norm(config, self.dtype, name)

        def attention(y):
            more = {name: here[name] for name in ("rope", "bias", "slot", "known", "documents")}
            return attention_layer(y, y, here["visible"], **more)

        def add(x, y):
            return x + (y if config.residual_scale == 1.0 else y * jnp.asarray(config.residual_scale, self.dtype))

        x = constrain(x, "batch", "length", "act_embed")
        if config.placement in ("parallel", "parallel_two"):
            y = norm("attention_norm")(x)
            z = y if config.placement == "parallel" else norm("mlp_norm")(x)
            return add(x, attention(y) + mlp(z)), None
        for name, branch in (("attention", attention), ("mlp", mlp)):
            y = norm(f"{name}_norm")(x) if config.placement in ("pre", "sandwich") else x
            y = branch(y)
            if config.placement == "branch":
                y = norm(f"{name}_norm")(y)
            if config.placement == "sandwich":
                y = norm(f"{name}_post_norm")(y)
            x = add(x, y)
            if config.placement == "post":
                x = norm(f"{name}_norm")(x)
        return x, None


class PickedBlock(nn.Module):
    """A block with one layer of all groups' weights, [G, every, ..]: ``at`` has the group's number and the layer's."""

    config: LanguageConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, kind: jax.Array, place: dict, at: tuple[jax.Array, jax.Array]):
        picked = nn.map_variables(Block, "params", lambda weights: jax.tree.map(lambda w: w[at], weights))
        block = picked(self.config, self.dtype)
        nn.share_scope(self, block)
        return block(x, kind, place)


class Stack(nn.Module):
    """Blocks as one scan over ``kinds`` int [depth], so that compile time does not grow with depth.

    group: None, or the number of the group of layers that is at work, where weights are all groups', [G, depth, ..].
    Each layer then reads its own where they are; slices of a whole group would be copies of it.
    """

    config: LanguageConfig
    dtype: jnp.dtype
    remat: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array, kinds: jax.Array, place: dict, group: jax.Array | None = None) -> jax.Array:
        depth = kinds.shape[0]
        more = {"split_rngs": {"params": True}, "length": depth, "metadata_params": {nn.PARTITION_NAME: "layers"}}
        if group is None:
            block = rematerialise(Block, self.remat)
            scan = nn.scan(block, variable_axes=STACKED, in_axes=(0, nn.broadcast), **more)
            return scan(self.config, self.dtype, name="blocks")(x, kinds, place)[0]
        block = rematerialise(PickedBlock, self.remat)
        axes = {"variable_axes": {"cache": 0}, "variable_broadcast": "params"}
        scan = nn.scan(block, **axes, in_axes=(0, nn.broadcast, 0), **more)
        at = (jnp.full(depth, group), jnp.arange(depth))
        return scan(self.config, self.dtype, name="blocks")(x, kinds, place, at)[0]
