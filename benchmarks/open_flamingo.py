"""A training step on a CPU, ours against OpenFlamingo's, on the same weights and batch, in one run.

OpenFlamingo runs from a virtual environment of its own, with versions that it is known to run with:

    python3 -m venv peer
    peer/bin/pip install torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cpu
    peer/bin/pip install transformers==4.33.3 "numpy<2" safetensors einops einops-exts
    peer/bin/pip install --no-deps open-flamingo==2.0.1 open_clip_torch==2.20.0
    python benchmarks/open_flamingo.py --peer=peer/bin/python

The model: GPT-NeoX 12 x 512 with the 50,280 tokens that OpenFlamingo leaves of its vocabulary, OpenCLIP's ViT 12 x 384
with patches of 16 at 224 pixels, OpenFlamingo's resampler, and its gated cross-attention in every layer; random weights
with open gates, exported by ``flamingo_jax.convert`` and loaded by both. The batch: 4 pages of 256 tokens and 5 images.
A step is forward, backward, clipping and AdamW in float32, by two threads. OpenFlamingo's is what its
``train_utils.py`` does with a batch of pages, by default without gradient checkpointing; ours has ``remat="dots"``.

Each side is a process that waits while the other one steps; they take turns. Printed are the losses of the first steps
(the same: the rate of the first is 0 on both sides, the second moves the weights), the median of all steps after
these, the ratio, and the largest memory that each process ever had, compiling and loading among it. Measure while
nothing else runs: OpenMP's threads wait for each other at full speed, and lose the more of it to others.

--embeddings: OpenFlamingo trains the rows of its two new tokens, by a gradient of the whole table, as it does unless it
is given ``--freeze_lm_embeddings``; without it, it has less to do. Ours trains these rows in either case.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parents[1]
ROWS, LENGTH, IMAGES, PIXELS, THREADS = 4, 256, 5, 224, 2
END, IMAGE, VOCABULARY = 50277, 50278, 50280
LANGUAGE = {
    "model_type": "gpt_neox",
    "vocab_size": VOCABULARY,
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "hidden_act": "gelu",
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
}
TOWER = {"image": PIXELS, "patch": 16, "width": 384, "layers": 12, "heads": 6, "mlp_ratio": 4, "act": "gelu"}
CHECKED = 4  # steps whose losses are compared, and which warm up


def make_batch() -> dict:
    """tokens [4, 256], images followed by text and ``<|endofchunk|>``, and images [4, 5, 224, 224, 3], normalised."""
    import numpy as np

    rng = np.random.default_rng(0)
    tokens = rng.integers(0, END, (ROWS, LENGTH))
    starts = np.arange(IMAGES) * (LENGTH // IMAGES)
    tokens[:, starts] = IMAGE
    tokens[:, starts[1:] - 1] = END
    return {"tokens": tokens, "images": rng.normal(size=(ROWS, IMAGES, PIXELS, PIXELS, 3)).astype(np.float32)}


def write_weights(folder: pathlib.Path) -> None:
    """Random weights, with open gates, in OpenFlamingo's form."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    from flamingo_jax.convert import export, open_flamingo
    from flamingo_jax.convert import folder as folders
    from flamingo_jax.convert.flamingo import open_flamingo_config
    from flamingo_jax.convert.language_config import language_config
    from flamingo_jax.convert.pretrained import Pretrained
    from flamingo_jax.models.flamingo import Flamingo

    config = open_flamingo_config(language_config(LANGUAGE), open_flamingo.describe_tower(TOWER), 1)
    new, shape = (END, IMAGE), (1, 1, 1, PIXELS, PIXELS, 3)
    arguments = (jnp.zeros((1, 2), jnp.int32), jnp.zeros(shape), jnp.zeros((1, 2), jnp.int32))
    variables = nn.meta.unbox(jax.jit(Flamingo(config, new).init)(jax.random.key(0), *arguments))
    gated = variables["params"]["decoder"]["groups"]["gated"]
    for gate in ("attention_gate", "mlp_gate"):
        gated[gate] = jnp.full_like(gated[gate], 0.5)
    model = Pretrained(config, variables, new, image_token=IMAGE, public={"language": LANGUAGE, "vision": TOWER})
    files, tensors = export.to_open_flamingo(model)
    folders.write_safetensors(folder, tensors, open_flamingo.FILES[0])
    (folder / "config.json").write_text(json.dumps(files["config.json"]))


def make_ours(folder: pathlib.Path):
    """A function that makes one step and returns its loss."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    import numpy as np

    from flamingo_jax.config import OptimizerConfig
    from flamingo_jax.convert.open_flamingo import load_open_flamingo
    from flamingo_jax.training import state as shapes
    from flamingo_jax.training.objective import OBJECTIVES
    from flamingo_jax.training.optimizer import make_optimizer
    from flamingo_jax.training.step import make_step

    model = load_open_flamingo(folder, json.loads((folder / "config.json").read_text()))
    config = dataclasses.replace(model.config, remat="dots")
    objective = OBJECTIVES["flamingo"](config, model.new_tokens, VOCABULARY - 1)
    weights = model.place()
    frozen = weights["frozen"]
    optimizer = make_optimizer(OptimizerConfig(warmup=1), 1000)
    batch = make_batch()
    tokens = batch["tokens"].astype(np.int32)
    batch = {
        "tokens": tokens,
        "weights": (tokens != IMAGE).astype(np.float32),
        "media": batch["images"][:, :, None],
        "media_index": np.cumsum(tokens == IMAGE, axis=1).astype(np.int32),
        "media_mask": np.ones((ROWS, IMAGES), bool),
        "unreadable": np.zeros((ROWS, 2), np.int32),
    }
    batches = {"pages": jax.tree.map(jnp.asarray, batch)}
    params = weights.pop("params")
    state = shapes.initial(optimizer, params)
    run = jax.jit(make_step(objective, {"pages": 1.0}, optimizer), donate_argnums=0)

    def step() -> float:
        nonlocal state
        state, metrics = run(state, frozen, batches)
        jax.block_until_ready(state)
        return float(metrics["loss/pages"])

    return step


def make_peer(folder: pathlib.Path, embeddings: bool):
    """The same of OpenFlamingo, as its ``train.py`` and ``train_utils.py`` have it, but for the group of processes."""
    import importlib.util
    import types

    import torch
    from safetensors.torch import load_file
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, get_constant_schedule_with_warmup

    torch.set_num_threads(THREADS)
    sys.path.remove(str(HERE / "benchmarks"))  # this script has the package's name
    # Two modules are imported around their packages, which import what a step does not need (torchvision's transforms).
    for name in ("open_flamingo", "open_clip"):
        package = types.ModuleType(name)
        package.__path__ = [str(pathlib.Path(importlib.util.find_spec(name).origin).parent)]
        sys.modules[name] = package
    for name in ("torchvision", "torchvision.ops", "torchvision.ops.misc"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchvision.ops.misc"].FrozenBatchNorm2d = torch.nn.Identity
    from open_clip.transformer import VisionTransformer
    from open_flamingo.src.flamingo import Flamingo
    from open_flamingo.src.flamingo_lm import FlamingoLMMixin
    from open_flamingo.src.utils import extend_instance

    language = GPTNeoXForCausalLM(GPTNeoXConfig(**LANGUAGE))
    extend_instance(language, FlamingoLMMixin)
    language.set_decoder_layers_attr_name("gpt_neox.layers")
    tower = VisionTransformer(
        PIXELS, TOWER["patch"], TOWER["width"], TOWER["layers"], TOWER["heads"], TOWER["mlp_ratio"], output_tokens=True
    )
    tower = types.SimpleNamespace(visual=tower)
    model = Flamingo(tower, language, END, IMAGE, vis_dim=TOWER["width"], cross_attn_every_n_layers=1)
    given = load_file(folder / "params.safetensors")
    missing, unexpected = model.load_state_dict(given, strict=False)
    repeated = ("old_decoder_blocks.", "gated_cross_attn_layers.", "rotary_emb.", "attention.bias", "masked_bias")
    unused = ("vision_encoder.ln_post.", "vision_encoder.proj")
    missing = [name for name in missing if not any(part in name for part in (*repeated, *unused))]
    if missing or unexpected:
        sys.exit(f"OpenFlamingo lacks {missing} and does not know {unexpected}.")
    del given
    model.requires_grad_(False)
    model.perceiver.requires_grad_(True)
    model.lang_encoder.gated_cross_attn_layers.requires_grad_(True)
    table = model.lang_encoder.get_input_embeddings().weight
    table.requires_grad_(embeddings)
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for name, weight in trained if "gated_cross_attn" in name], "weight_decay": 0.1},
        {"params": [weight for name, weight in trained if "gated_cross_attn" not in name], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    schedule = get_constant_schedule_with_warmup(optimizer, num_warmup_steps=1)
    model.train()
    batch = make_batch()
    images = torch.from_numpy(batch["images"]).permute(0, 1, 4, 2, 3).contiguous()[:, :, None]
    tokens = torch.from_numpy(batch["tokens"])
    mask, labels = torch.ones_like(tokens), tokens.clone()
    labels[labels == IMAGE] = -100

    def step() -> float:
        loss = model(vision_x=images, lang_x=tokens, attention_mask=mask, labels=labels)[0]
        loss.backward()
        if embeddings:
            zero_mask = torch.zeros_like(table.grad)
            zero_mask[IMAGE] = torch.ones_like(zero_mask[IMAGE])
            zero_mask[END] = torch.ones_like(zero_mask[END])
            table.grad = table.grad * zero_mask
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def serve(step) -> None:
    """Makes as many steps as each line of the input says; answers with seconds, losses, and the peak so far in GiB."""
    print("ready", flush=True)
    for line in sys.stdin:
        times, losses = [], []
        for _ in range(int(line)):
            start = time.perf_counter()
            losses.append(step())
            times.append(time.perf_counter() - start)
        peak = next(row for row in pathlib.Path("/proc/self/status").read_text().splitlines() if "VmHWM" in row)
        print(json.dumps({"times": times, "losses": losses, "peak": int(peak.split()[1]) / 2**20}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="the python of the virtual environment that has OpenFlamingo")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="of each side in a round")
    parser.add_argument("--embeddings", action="store_true", help="see above")
    parser.add_argument("--side", choices=("write", "ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side == "write":
        write_weights(args.folder)
    elif args.side:
        serve(make_ours(args.folder) if args.side == "ours" else make_peer(args.folder, args.embeddings))
    elif args.peer is None:
        parser.error("--peer must be the python of an environment that has OpenFlamingo, made as the docstring says.")
    else:
        compare(args)


def compare(args) -> None:
    environment = os.environ | {"PYTHONPATH": str(HERE), "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": str(THREADS)}
    environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"  # as train.py runs
    with tempfile.TemporaryDirectory() as folder:
        options = [__file__, f"--folder={folder}", *["--embeddings"] * args.embeddings]
        subprocess.run([sys.executable, *options, "--side=write"], env=environment, check=True)
        sides = {}
        for side, python in {"ours": sys.executable, "peer": args.peer}.items():
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            sides[side] = subprocess.Popen([python, *options, f"--side={side}"], env=environment, **pipes)
            if sides[side].stdout.readline() != "ready\n":
                sys.exit(f"The side {side!r} did not start.")

        def ask(side: str, steps: int) -> dict:
            print(steps, file=sides[side].stdin, flush=True)
            return json.loads(sides[side].stdout.readline())

        for side in sides:
            print(f"{side}: losses", *[f"{loss:.5f}" for loss in ask(side, CHECKED)["losses"]], flush=True)
        times, peaks = {side: [] for side in sides}, {}
        for _ in range(args.rounds):
            for side in sides:
                answer = ask(side, args.steps)
                times[side] += answer["times"]
                peaks[side] = answer["peak"]
        for process in sides.values():
            process.stdin.close()
            process.wait()
    rates = {side: ROWS * LENGTH / statistics.median(times[side]) for side in sides}
    for side, seconds in times.items():
        spread = f"{len(seconds)} steps of {min(seconds):.2f} to {max(seconds):.2f} s"
        print(f"{side}: {rates[side]:.0f} tokens/s, the median of {spread}; {peaks[side]:.2f} GiB")
    rate, memory = (values["ours"] / values["peer"] for values in (rates, peaks))
    print(f"ours / peer: {rate:.2f} of the tokens/s, {memory:.2f} of the memory")


if __name__ == "__main__":
    main()
