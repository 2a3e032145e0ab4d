"""The vision encoders by the type of their config."""

from __future__ import annotations

from flamingo_jax.config import NFNetConfig, ViTConfig
from flamingo_jax.models.nfnet import NFNet
from flamingo_jax.models.vit import ViT

ENCODERS = {NFNetConfig: NFNet, ViTConfig: ViT}
