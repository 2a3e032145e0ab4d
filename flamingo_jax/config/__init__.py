"""Configuration: dataclasses of the model and of a run, and what builds them from a config file.

Every part of the package takes the small dataclass that concerns it and nothing else.
"""

from flamingo_jax.config.align import AlignConfig
from flamingo_jax.config.build import build, check_path, to_json
from flamingo_jax.config.clip import ClipTextConfig
from flamingo_jax.config.corpus import CorpusConfig, DuplicateRules, ImageRules, TextRules
from flamingo_jax.config.example import ColourConfig, ExampleConfig
from flamingo_jax.config.language import LanguageConfig, LayerConfig, RopeConfig
from flamingo_jax.config.model import PARTS, PRETRAINED, GatedConfig, ModelConfig, ResamplerConfig, TextTowerConfig
from flamingo_jax.config.run import (
    DatasetConfig,
    EvaluationConfig,
    MeshConfig,
    MixConfig,
    OptimizerConfig,
    RunConfig,
    StageConfig,
    StreamsConfig,
    TokenizerConfig,
    WorldConfig,
)
from flamingo_jax.config.suggest import suggest
from flamingo_jax.config.vision import NFNetConfig, ViTConfig

__all__ = [
    "AlignConfig",
    "ClipTextConfig",
    "ColourConfig",
    "CorpusConfig",
    "DatasetConfig",
    "DuplicateRules",
    "EvaluationConfig",
    "ExampleConfig",
    "GatedConfig",
    "ImageRules",
    "LanguageConfig",
    "LayerConfig",
    "MeshConfig",
    "MixConfig",
    "ModelConfig",
    "NFNetConfig",
    "OptimizerConfig",
    "PARTS",
    "PRETRAINED",
    "ResamplerConfig",
    "RopeConfig",
    "RunConfig",
    "StageConfig",
    "StreamsConfig",
    "TextRules",
    "TextTowerConfig",
    "TokenizerConfig",
    "ViTConfig",
    "WorldConfig",
    "build",
    "check_path",
    "suggest",
    "to_json",
]
