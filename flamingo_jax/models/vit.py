"""The vision transformer of CLIP, OpenCLIP, SigLIP (2), DINOv2 and DINOv3; ``ViTConfig`` has the options."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flamingo_jax.config import ViTConfig
from flamingo_jax.models.attention import Attention
from flamingo_jax.models.axes import constrain, named
from flamingo_jax.models.layers import Einsum, FeedForward, Norm
from flamingo_jax.models.pixels import normalise, resize_table, resize_tables


def grid_rope(shape: tuple[int, int], prefix: int, head_size: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """DINOv3's rotary tables cos and sin, float32 [1, 1, prefix + h w, K / 2]: rows, then columns.

    Coordinates are centres of patches in [-1, 1], angles 2 pi c theta^(-4 i / K). The ``prefix`` tokens are not turned.
    """
    frequency = 2 * np.pi * theta ** (-np.arange(0, 1, 4 / head_size))
    centres = [2 * (np.arange(size) + 0.5) / size - 1 for size in shape]
    places = np.stack(np.meshgrid(*centres, indexing="ij"), axis=-1).reshape(-1, 2)
    angle = (places[:, :, None] * frequency).reshape(len(places), -1)
    angle = np.concatenate([np.zeros((prefix, angle.shape[1])), angle])[None, None].astype(np.float32)
    return np.cos(angle), np.sin(angle)


def make_attention(config: ViTConfig, dtype: jnp.dtype, name: str) -> Attention:
    """Bidirectional self-attention, or the pooling head's."""
    bias = (config.query_bias, config.key_bias, config.value_bias, config.out_bias)
    return Attention(config.heads, config.width // config.heads, dtype, bias=bias, rows="images", name=name)


def make_mlp(config: ViTConfig, dtype: jnp.dtype, name: str) -> FeedForward:
    kind = (config.activation, dtype, config.mlp_width, config.mlp == "gated", config.mlp_bias)
    return FeedForward(*kind, rows="images", name=name)


class ViTBlock(nn.Module):
    """One pre-norm block: x [B, P, D], mask bool [B, 1, P] or None -> (x, None), as a scan wants it."""

    config: ViTConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, rope):
        config = self.config
        x = constrain(x, "images", None, None)

        def norm(name, x):
            return Norm(self.dtype, centred=True, epsilon=config.epsilon, name=name)(x)

        def scaled(name, y):
            if not config.layer_scale:
                return y
            scale = self.param(name, named(nn.initializers.ones, "vector"), (config.width,), jnp.float32)
            return y * scale.astype(self.dtype)

        visible = mask if mask is None else jnp.broadcast_to(mask, (x.shape[0], x.shape[1], x.shape[1]))
        y = norm("attention_norm", x)
        y = make_attention(config, self.dtype, "attention")(y, y, visible, rope=rope)
        x = x + scaled("attention_scale", y)
        y = make_mlp(config, self.dtype, "mlp")(norm("mlp_norm", x))
        return x + scaled("mlp_scale", y), None


class ViT(nn.Module):
    """Images -> tokens [B, P, D]: class token and registers (unless ``patches_only``), then patches row by row."""

    config: ViTConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: jax.Array, mask=None, shapes=None, pool: bool = False):
        """images [B, H, W, 3], uint8 or already normalised floats, of any size.

        Or NaFlex: normalised patches [B, P, p p 3], with mask bool [B, P] (False: padding) and shapes int [B, 2], rows
        and columns of each. pool: returns (tokens, pooled [B, D or projection]).
        """
        config = self.config
        size = config.patch_size**2 * 3
        patches, shape = self._patches(images) if images.ndim == 4 else (images, None)
        axes, bias = ("channels_in", "embed"), int(config.patch_bias)
        embed = Einsum((size, config.width), axes, size, self.dtype, bias, "images", name="patch")
        x = embed("BPC,CD->BPD", patches)
        x, rope = self._place(x, shape, shapes)
        if config.pre_norm:
            x = Norm(self.dtype, centred=True, epsilon=config.epsilon, name="pre_norm")(x)
        visible = None
        if mask is not None:
            prefix = jnp.ones((mask.shape[0], x.shape[1] - mask.shape[1]), bool)
            visible = jnp.concatenate([prefix, mask.astype(bool)], axis=1)[:, None]
        scan = nn.scan(
            ViTBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=config.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = scan(config, self.dtype, name="layers")(x, visible, rope)
        norm = Norm(self.dtype, centred=True, epsilon=config.epsilon, name="norm")
        tokens = norm(x) if config.final_norm else x
        prefix = config.class_token + config.registers
        out = tokens[:, prefix:] if config.patches_only else tokens
        return (out, self._pool(tokens, visible, norm)) if pool else out

    def _patches(self, images: jax.Array) -> tuple[jax.Array, tuple[int, int]]:
        """[B, H, W, 3] -> patches [B, h w, p p 3] and (h, w). What is left over at the right and below is cut off."""
        patch = self.config.patch_size
        batch, height, width, channels = images.shape
        if min(height, width) < patch:
            raise ValueError(f"An image of {height} x {width} pixels is smaller than one patch of {patch}.")
        shape = (height // patch, width // patch)
        x = normalise(images, self.config.mean, self.config.std)[:, : shape[0] * patch, : shape[1] * patch]
        x = x.reshape(batch, shape[0], patch, shape[1], patch, channels).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(batch, shape[0] * shape[1], -1), shape

    def _place(self, x: jax.Array, shape, shapes):
        """Adds positions, class token and registers to patches [B, P, D]. Returns them and rotary tables or None."""
        config, batch, width = self.config, x.shape[0], self.config.width
        prefix, first = config.class_token + config.registers, None
        small = nn.initializers.normal(0.02)
        if config.positions == "learned":
            init = named(small, "positions", "embed")
            rows = config.grid[0] * config.grid[1] + config.position_class
            table = self.param("positions", init, (rows, width), jnp.float32)
            first, grid = table[:1], table[int(config.position_class) :].reshape(*config.grid, width)
            if shapes is not None:
                x = x + resize_tables(grid, shapes, x.shape[1], config.resize).astype(self.dtype)
            else:
                x = x + resize_table(grid, shape, config.resize).astype(self.dtype)
        tokens = []
        if config.class_token:
            token = self.param("class", named(small, None, "vector"), (1, width), jnp.float32)
            tokens.append(token + first if config.position_class else token)
        if config.registers:
            tokens.append(self.param("registers", named(small, None, "vector"), (config.registers, width), jnp.float32))
        if tokens:
            tokens = jnp.concatenate(tokens).astype(self.dtype)
            x = jnp.concatenate([jnp.broadcast_to(tokens, (batch, *tokens.shape)), x], axis=1)
        if config.positions == "rope":
            if shape is None:
                raise ValueError("positions='rope' needs images, not patches: their grid says where each stands.")
            rope = grid_rope(shape, prefix, width // config.heads, config.rope_theta)
            return x, tuple(jnp.asarray(table) for table in rope)
        return x, None

    def _pool(self, tokens: jax.Array, visible, norm: Norm) -> jax.Array:
        config = self.config
        if config.pool == "map":
            init = named(nn.initializers.normal(0.02), None, "vector")
            probe = self.param("probe", init, (1, config.width), jnp.float32).astype(self.dtype)
            probe = jnp.broadcast_to(probe, (tokens.shape[0], 1, config.width))
            x = make_attention(config, self.dtype, "pool_attention")(probe, tokens, visible)
            y = Norm(self.dtype, centred=True, epsilon=config.epsilon, name="pool_norm")(x)
            pooled = (x + make_mlp(config, self.dtype, "pool_mlp")(y))[:, 0]
        elif config.pool == "class":
            pooled = norm(tokens[:, 0]) if config.pool_norm else tokens[:, 0]
        else:
            pooled = tokens.mean(1, where=None if visible is None else visible[:, 0, :, None])
        if config.projection:
            shape = (config.width, config.projection)
            layer = Einsum(shape, ("features", "joint"), config.width, self.dtype, name="projection")
            pooled = layer("BD,DE->BE", pooled)
        return pooled
