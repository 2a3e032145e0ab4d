"""Write the parity cases of tests/golden/ with PyTorch and Hugging Face transformers as oracle.

Needs two CPU cores, no network and a minute or two; always writes the same numbers (all cases, or the named ones):

    pip install torch==2.13.0 transformers==5.23.0 safetensors && python tests/golden/make.py [NAME ...]

A case is a directory `language/NAME`, `vision/NAME` or `clip/NAME`: a tiny random checkpoint as the public library
writes it, with `config.json` in today's spelling and `config_legacy.json` as older files on the hub have it,
`io.safetensors` (inputs and outputs, float32, eager attention) and `meta.json`. Every weight, norms and biases too,
differs from its default.

- Language: `in.input_ids`, `in.attention_mask`, `in.position_ids` (row 0 plain, 1 left-padded, 2 right-padded) ->
  `out.logits`, `out.last_hidden_state`: compare where the mask is 1. `out.generate_greedy_8`: rows 0 and 1, 8 more ids.
- Vision: `in.pixel_values` (NCHW, normalised) -> `out.last_hidden_state`, `out.pooler_output`; `var.big_*` is another
  resolution.
- CLIP: `in.picture_N` (uint8 HWC), which the library's processor makes `in.pixel_values`, and the texts of `meta.json`,
  which its tokenizer makes `in.input_ids`, cut and padded -> `out.image_embeds`, `out.text_embeds`, unit vectors.
"""

import copy
import inspect
import json
import math
import shutil
import sys
import tempfile
import zlib
from functools import partial
from pathlib import Path

import torch
import transformers
from cases import CLIP, GLOBAL, LANGUAGE, LEGACY, LOCAL, MERGES, NOTES, TABLE, VISION, VOCAB
from mosaic_gpt import MosaicGPT
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
ATOL = 2e-4
ROWS, LENGTH, NEW = 3, 16, 8


def randomise(model, name, seed=0, table=0.35, plus_one=False):
    """Give every parameter a seeded normal value of a useful size; return the model, in eval mode."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for key, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if id(p) in tables or (p.ndim > 1 and p.shape[0] == 1):
            p.copy_(noise * table)
        elif p.ndim > 1:
            p.copy_(noise * 2 / math.sqrt(p[0].numel()))
        else:
            p.copy_(0.25 * noise + (key.endswith(("weight", "lambda1")) and not plus_one))
    return model.eval()


def prompts(name, pad):
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) - 1)
    ids = torch.randint(3, VOCAB, (ROWS, LENGTH), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    mask[2, -4:] = 0
    return torch.where(mask == 1, ids, pad), mask


def positions(mask):
    return (mask.cumsum(1) - 1).clamp(min=0)


def legacy_config(name, config):
    """The same config as transformers 4.45 would have written it."""
    drop = {"rope_parameters", "dtype"}
    if config["model_type"] not in ("olmo3", "smollm3"):
        drop.add("layer_types")
    old = {k: v for k, v in config.items() if k not in drop}
    old |= dict(transformers_version="4.45.0", torch_dtype="float32") | LEGACY.get(name, {})
    if ropes := config.get("rope_parameters"):
        scaling = dict(ropes.get(GLOBAL, ropes))
        theta, fraction = scaling.pop("rope_theta"), scaling.pop("partial_rotary_factor", None)
        neox = config["model_type"] == "gpt_neox"
        old |= dict(rotary_emb_base=theta, rotary_pct=fraction) if neox else dict(rope_theta=theta)
        old["rope_scaling"] = None if scaling["rope_type"] == "default" else scaling
        if fraction is not None and not neox:
            old["partial_rotary_factor"] = fraction
        if config["model_type"] == "gemma3_text":
            old["rope_local_base_freq"] = ropes[LOCAL]["rope_theta"]
    return old


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def write_case(folder, tensors, **more):
    write_json(folder / "meta.json", {"note": NOTES[folder.name], "atol": ATOL} | more)
    save_file({k: v.clone() for k, v in tensors.items()}, folder / "io.safetensors")
    (folder / "generation_config.json").unlink(missing_ok=True)
    for file in folder.iterdir():
        file.chmod(0o644)


def reload(folder, spelling, auto):
    """The checkpoint read again from its files, with the config of that name."""
    with tempfile.TemporaryDirectory() as temporary:
        shutil.copy(folder / "model.safetensors", temporary)
        shutil.copy(folder / spelling, Path(temporary) / "config.json")
        return auto.from_pretrained(temporary, attn_implementation="eager").eval()


def build(config, from_config):
    settings = transformers.AutoConfig.for_model(**copy.deepcopy(config))  # it changes its arguments
    return from_config(settings, attn_implementation="eager").float()


def make_language(name, folder):
    config = LANGUAGE[name]
    pad = config.get("pad_token_id", 0)
    ids, mask = prompts(name, pad)

    if config["model_type"] == "mosaic_gpt":
        model = run = MosaicGPT(config)
        generate = partial(model.generate, ids[:2], mask[:2], NEW)
    else:
        auto = transformers.AutoModelForCausalLM
        model = build(config, auto.from_config)
        model.generation_config.eos_token_id = None  # exactly 8 new tokens
        options = dict(max_new_tokens=NEW, do_sample=False, use_cache=True, pad_token_id=pad)
        generate = partial(model.generate, ids[:2], attention_mask=mask[:2], **options)
        takes_positions = "position_ids" in inspect.signature(model.forward).parameters

        def run(ids, mask, model=model):
            extra = {"position_ids": positions(mask)} if takes_positions else {}
            hidden = model.base_model(ids, attention_mask=mask, **extra).last_hidden_state
            return model(ids, attention_mask=mask, **extra).logits, hidden

    for seed in range(100):  # until greedy decoding is neither a loop nor a near tie, and rounding matters little
        randomise(model, name, seed, TABLE.get(name, 0.35), plus_one=config["model_type"].startswith("gemma"))
        tokens = generate()
        forced = run(tokens, F.pad(mask[:2], (0, NEW), value=1))[0][:, LENGTH - 1 : -1]
        best = forced.topk(2).values
        margin = (best[..., 0] - best[..., 1]).min().item()
        single, _ = run(ids[:1], mask[:1])
        model.double()
        rounding = (run(ids[:1], mask[:1])[0] - single).abs().max().item()
        model.float()
        variety = min(len(row.unique()) for row in tokens[:, LENGTH:])
        if margin > 5e-3 and rounding < 2e-5 and variety >= 3 and forced.std() < 4:
            break
    logits, hidden = run(ids, mask)
    assert seed < 99 and 0.9 < logits.std() < 4.5, (name, seed, logits.std())
    assert tokens.shape == (2, LENGTH + NEW) and (forced.argmax(-1) == tokens[:, LENGTH:]).all(), name

    if config["model_type"] == "mosaic_gpt":
        save_file(model.state_dict(), folder / "model.safetensors")
        write_json(folder / "config.json", config)
    else:
        model.save_pretrained(folder)
        write_json(folder / "config_legacy.json", legacy_config(name, json.loads((folder / "config.json").read_text())))
        for spelling in ("config.json", "config_legacy.json"):
            difference = (run(ids, mask, reload(folder, spelling, auto))[0] - logits).abs().max().item()
            assert difference < 1e-5, (name, spelling, difference)
    inputs = {"in.input_ids": ids, "in.attention_mask": mask, "in.position_ids": positions(mask)}
    outputs = {"out.logits": logits, "out.last_hidden_state": hidden, "out.generate_greedy_8": tokens}
    write_case(folder, inputs | outputs)
    return f"seed {seed}, logits std {logits.std():.2f}, greedy margin {margin:.3f}"


def naflex_inputs(generator):
    """Three images of different shapes, cut into patches and padded as Siglip2ImageProcessor does."""
    grids = torch.tensor([[4, 5], [7, 2], [3, 3]])
    inputs = dict(pixel_values=torch.zeros(3, 20, 48), pixel_attention_mask=torch.zeros(3, 20, dtype=torch.int64))
    images = {}
    for i, (h, w) in enumerate(grids.tolist()):
        images[f"in.image_{i}"] = image = torch.randn(3, 4 * h, 4 * w, generator=generator)
        patches = image.reshape(3, h, 4, w, 4).permute(1, 3, 2, 4, 0)
        inputs["pixel_values"][i, : h * w] = patches.reshape(h * w, 48)
        inputs["pixel_attention_mask"][i, : h * w] = 1
    return inputs | dict(spatial_shapes=grids), images


def make_vision(name, folder):
    config = VISION[name]
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) - 1)
    if name == "open_clip_vit":
        return make_open_clip(name, folder, generator)
    model = randomise(build(config, transformers.AutoModel.from_config), name)
    if name == "siglip2_naflex":
        inputs, tensors = naflex_inputs(generator)
        calls = {"": inputs}
    else:
        tensors = {}
        big = dict(pixel_values=torch.randn(1, 3, 12, 28, generator=generator))
        if config["model_type"].startswith("clip"):
            big["interpolate_pos_encoding"] = True
        calls = {"": dict(pixel_values=torch.randn(2, 3, 16, 16, generator=generator)), "big_": big}
    model.save_pretrained(folder)
    again = reload(folder, "config.json", transformers.AutoModel)
    for variant, arguments in calls.items():
        result = model(**arguments)
        assert (result.pooler_output - again(**arguments).pooler_output).abs().max() < 1e-5, name
        tensors |= {f"{'var' if variant else 'in'}.{variant}{k}": v for k, v in arguments.items() if v is not True}
        for key in ("last_hidden_state", "pooler_output"):
            tensors[f"{'var' if variant else 'out'}.{variant}{key}"] = getattr(result, key)
    write_case(folder, tensors)
    return f"hidden std {tensors['out.last_hidden_state'].std():.2f}"


def make_open_clip(name, folder, generator):
    """A CLIP tower of transformers, its weights renamed to open_clip's layout, beside some of a text tower."""
    config = VISION[name]
    pixels = torch.randn(2, 3, 16, 16, generator=generator)
    tensors = {"in.pixel_values": pixels}
    for prefix, act in (("var.gelu_", "gelu"), ("out.", "quick_gelu")):
        model = build(config | dict(hidden_act=act), transformers.CLIPVisionModelWithProjection._from_config)
        result = randomise(model, name)(pixels)
        tensors |= {prefix + "tokens": result.last_hidden_state, prefix + "pooled": result.image_embeds}

    weights = {"visual.proj": model.visual_projection.weight.T.contiguous()}
    renames = {"embeddings.class_embedding": "class_embedding", "embeddings.patch_embedding": "conv1"}
    renames |= {"embeddings.position_embedding.weight": "positional_embedding", "pre_layrnorm": "ln_pre"}
    renames |= {"post_layernorm": "ln_post", "encoder.layers": "transformer.resblocks", "layer_norm": "ln_"}
    renames |= {"self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    state = {k.removeprefix("vision_model."): v for k, v in model.state_dict().items() if "visual" not in k}
    for key, value in state.items():
        if ".q_proj." in key:
            value = torch.cat([state[key.replace(".q_proj.", f".{x}_proj.")] for x in "qkv"])
            key = key.replace("self_attn.q_proj.", "attn.in_proj_")
        for old, new in renames.items():
            key = key.replace(old, new)
        if "self_attn" not in key:
            weights["visual." + key] = value
    text = dict(positional_embedding=(8, 16), text_projection=(16, 20), logit_scale=())
    text |= {"token_embedding.weight": (24, 16), "ln_final.weight": (16,), "transformer.resblocks.0.ln_1.weight": (16,)}
    weights |= {key: torch.randn(shape, generator=generator) for key, shape in text.items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    vision = dict(image_size=16, layers=2, width=32, head_width=8, mlp_ratio=1.5, patch_size=4)
    model_cfg = dict(embed_dim=20, quick_gelu=True, vision_cfg=vision)
    model_cfg["text_cfg"] = dict(context_length=8, vocab_size=24, width=16, heads=2, layers=1)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    write_json(folder / "open_clip_config.json", dict(model_cfg=model_cfg, preprocess_cfg=dict(mean=mean, std=std)))
    write_case(folder, tensors)
    return f"tokens std {tensors['out.tokens'].std():.2f}"


TEXTS = [
    "The cat and the dog",
    "",
    "a\tdog,  running on the Gr\u00fcner H\u00fcgel!\n",
    "it's 12 things and the dog and the cat on the mat and the thing on the cat and more",
    "\u732b \U0001f600 cat",
]


def clip_tokenizer():
    """CLIP's, of single bytes and a few merges; its two control tokens have the highest ids."""
    letters = [*map(chr, range(33, 127)), *map(chr, range(161, 173)), *map(chr, range(174, 256))]
    letters += [chr(256 + n) for n in range(256 - len(letters))]
    merges = [tuple(merge.split()) for merge in MERGES]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer({name: i for i, name in enumerate(vocabulary)}, merges)


def make_clip(name, folder):
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) - 1)
    tokenizer, config = clip_tokenizer(), copy.deepcopy(CLIP[name])
    ends = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    config["text_config"] |= dict(vocab_size=len(tokenizer), **ends)
    side, context = config["vision_config"]["image_size"], config["text_config"]["max_position_embeddings"]
    model = randomise(build(config, transformers.AutoModel.from_config), name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size=dict(height=side, width=side)
    )
    processor.save_pretrained(folder)
    shapes = [(16, 16), (40, 23), (17, 31), (9, 12)]
    pictures = [torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8) for shape in shapes]
    inputs = dict(tokenizer(TEXTS, truncation=True, padding="max_length", max_length=context, return_tensors="pt"))
    inputs |= processor([picture.numpy() for picture in pictures], return_tensors="pt")
    result = model(**inputs)
    legacy = json.loads((folder / "config.json").read_text())
    legacy["text_config"] |= dict(bos_token_id=0, eos_token_id=2)
    write_json(folder / "config_legacy.json", legacy | dict(transformers_version="4.31.0", torch_dtype="float32"))
    for spelling in ("config.json", "config_legacy.json"):
        again = reload(folder, spelling, transformers.AutoModel)(**inputs)
        assert (again.text_embeds - result.text_embeds).abs().max() < 1e-6, (name, spelling)
    assert inputs["attention_mask"].sum(1).tolist()[1::2] == [2, context], inputs["attention_mask"].sum(1)
    tensors = {f"in.{key}": value for key, value in inputs.items()}
    tensors |= {f"in.picture_{i}": picture for i, picture in enumerate(pictures)}
    tensors |= {f"out.{key}": getattr(result, key) for key in ("image_embeds", "text_embeds")}
    write_case(folder, tensors, texts=TEXTS)
    alike = result.image_embeds @ result.text_embeds.T
    return f"similarities {alike.min():.2f} to {alike.max():.2f}"


def size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main():
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    kinds = ("language", LANGUAGE, make_language), ("vision", VISION, make_vision), ("clip", CLIP, make_clip)
    for tower, cases, make in kinds:
        for name in cases:
            if len(sys.argv) == 1 or name in sys.argv[1:]:
                folder = HERE / tower / name
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                print(f"{tower}/{name}: {make(name, folder)}, {size(folder)} bytes", flush=True)
    print(f"all of {HERE}: {size(HERE)} bytes")


if __name__ == "__main__":
    main()
