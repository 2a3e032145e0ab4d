"""Conversion of a synthetic LLaMA in 8 shards onto 4 devices, beside ``cp`` of the same files: speed and memory.

    python benchmarks/convert.py --folder=/tmp/convert --rounds=3

makes 4 GB of weights under the folder, once, and prints for every round the seconds of both and the conversion's
largest resident memory, then the ratio of the median speeds. The files are in the page cache on both sides, and both
end with what they wrote on the disk: ``cp`` is followed by ``sync``, which the conversion does itself. Each starts
after some seconds of rest: on a virtual machine, memory that was freed just before is many times as fast as other
memory, and the conversion, which holds its result, needs twice as much of it as ``cp``; ``--rest=0`` shows that.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

SHARDS = 8


def make(source: pathlib.Path, depth: int) -> None:
    """A folder in Hugging Face layout: LLaMA's names and shapes, bfloat16 noise."""
    width, mlp, vocab = 2560, 6912, 32000
    config = dict(model_type="llama", vocab_size=vocab, hidden_size=width, intermediate_size=mlp)
    config |= dict(num_hidden_layers=depth, num_attention_heads=20, max_position_embeddings=4096, rms_norm_eps=1e-5)
    shapes = {
        "model.embed_tokens.weight": (vocab, width),
        "lm_head.weight": (vocab, width),
        "model.norm.weight": (width,),
    }
    for i in range(depth):
        at = f"model.layers.{i}."
        shapes |= {f"{at}self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
        shapes |= {f"{at}mlp.{name}_proj.weight": (mlp, width) for name in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj.weight": (width, mlp)}
        shapes |= {f"{at}{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(2**24, np.float32).astype(ml_dtypes.bfloat16)
    source.mkdir(parents=True)
    places, names = {}, list(shapes)
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        tensors = {}
        for name in names[len(names) * shard // SHARDS : len(names) * (shard + 1) // SHARDS]:
            size = int(np.prod(shapes[name]))
            tensors[name] = np.resize(np.roll(noise, int(rng.integers(2**24))), size).reshape(shapes[name])
            places[name] = file
        save_file(tensors, source / file)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (source / "config.json").write_text(json.dumps(config))


def timed(command: list[str], **more) -> tuple[float, int]:
    """(seconds, largest resident memory in bytes) of a command."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **more)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed.")
    return time.monotonic() - start, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("/tmp/convert"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rest", type=float, default=15, help="Seconds before each command.")
    parser.add_argument("--depth", type=int, default=24, help="Blocks of the model; 24 are 4.1 GB.")
    options = parser.parse_args()
    source, target = options.folder / f"llama-{options.depth}", options.folder / "out"
    if not source.exists():
        make(source, options.depth)
    size = sum(file.stat().st_size for file in source.iterdir())
    convert = [sys.executable, "-m", "flamingo_jax.convert", f"--source={source}", f"--target={target}"]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"}
    seconds = {"cp": [], "convert": []}
    for _ in range(options.rounds):
        for name in seconds:
            shutil.rmtree(target, ignore_errors=True)
            os.sync()
            time.sleep(options.rest)
            copy = ["sh", "-c", f"cp -r {source} {target} && sync -f {target}/config.json"]
            command = copy if name == "cp" else convert
            took, memory = timed(command, env=environment)
            seconds[name].append(took)
            print(f"{name:8} {took:6.1f} s {size / took / 1e9:6.2f} GB/s" + f" {memory / 1e9:6.2f} GB" * (name != "cp"))
    shutil.rmtree(target, ignore_errors=True)
    speeds = {name: size / statistics.median(values) for name, values in seconds.items()}
    print(f"{size / 1e9:.2f} GB; convert / cp: {speeds['convert'] / speeds['cp']:.2f}")


if __name__ == "__main__":
    main()
