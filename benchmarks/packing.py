"""How much of a batch is text: captions of the paper's lengths, each in a row of its own and packed.

    python benchmarks/packing.py

Captions have as many tokens as a gamma distribution gives, with the paper's mean (ALIGN 12.4, LTIP 20.5; A.3.2) and
several spreads, for it says nothing of these. They go through a stream, with the lengths of configs/flamingo_3b.py, and
text tokens are counted (no control token, no padding) per place of the batch, and what is cut off of the captions.
"""

from __future__ import annotations

import dataclasses
import pathlib
import runpy
import tempfile

import numpy as np

from flamingo_jax import config as configs
from flamingo_jax.config import MixConfig, StreamsConfig
from flamingo_jax.data import image, record, stream, tokenizer
from flamingo_jax.data.document import Document, encode

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "flamingo_3b.py"
CAPTIONS = 16_384
WORDS = "a the of on in red blue old new big small cat dog car tree house street sea hill sky".split()


def share(folder: pathlib.Path, vocabulary: tokenizer.Tokenizer, example, mix: MixConfig) -> tuple[float, int]:
    """(text tokens per place, text tokens) of all captions."""
    batches = stream.stream(
        record.Source(folder), vocabulary, example, mix, seed=0, name=str(folder), streams=StreamsConfig(threads=0)
    )
    control = [vocabulary.pad, vocabulary.bos, vocabulary.eos, vocabulary.eoc, vocabulary.image]
    text = places = 0
    for _ in range(CAPTIONS // mix.batch_size):
        tokens = next(batches)["tokens"]
        text += int((~np.isin(tokens, control)).sum())
        places += tokens.size
    return text / places, text


def main() -> None:
    config = configs.build(runpy.run_path(str(CONFIG))["get_config"]())
    vocabulary = tokenizer.train([" ".join(WORDS), *(f"a {word}" for word in WORDS)] * 50, 400)
    assert all(len(vocabulary.encode(f" {word}")) == 1 for word in WORDS)  # so a caption's words are its tokens
    picture = image.encode(np.zeros((8, 8, 3), np.uint8))
    for name, mean in (("align", 12.4), ("ltip", 20.5)):
        mix = config.stages["flamingo"].mixture[name]
        example = dataclasses.replace(config.datasets[name].example, size=8, leading_space=1.0)
        for spread in (0.3, 0.5, 0.7):
            rng = np.random.default_rng(0)
            lengths = np.maximum(1, rng.gamma(1 / spread**2, mean * spread**2, CAPTIONS).round().astype(int))
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder)
                captions = (" " + " ".join(rng.choice(WORDS, length)) for length in lengths)
                documents = (Document(f"{i}", text, (0,), ((picture,),)) for i, text in enumerate(captions))
                entry = record.write_file(str(path / "0.array_record"), map(encode, documents))
                record.write_manifest(path, {"0.array_record": entry}, {})
                alone, whole = share(path, vocabulary, example, MixConfig(mix.batch_size))
                packed, kept = share(path, vocabulary, example, mix)
            print(
                f"{name}, {lengths.mean():.1f} tokens (deviation {lengths.std():.1f}): alone {alone:.1%} text in rows "
                f"of {example.length}, packed {packed:.1%} ({mix.pack} in rows of {mix.row_length}); packed / alone: "
                f"{packed / alone:.2f}; cut off by packing: {1 - kept / whole:.2%}"
            )


if __name__ == "__main__":
    main()
