"""MosaicGPT, whose code is not in transformers: what make.py needs of it, in torch."""

import math
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F


class MosaicBlock(nn.Module):
    def __init__(self, width, ratio, biased, clip):
        super().__init__()
        self.clip = clip or torch.inf
        linear, norm = partial(nn.Linear, bias=biased), partial(nn.LayerNorm, width, bias=biased)
        self.ln_1, self.ln_2 = norm(), norm()
        self.attn = nn.ModuleDict(dict(Wqkv=linear(width, 3 * width), out_proj=linear(width, width)))
        self.attn.update(dict(q_ln=norm(), k_ln=norm()))
        self.mlp = nn.ModuleDict(dict(mlp_up=linear(width, ratio * width), mlp_down=linear(ratio * width, width)))

    def forward(self, x, bias, heads):
        q, k, v = self.attn.Wqkv(self.ln_1(x)).clamp(-self.clip, self.clip).chunk(3, dim=-1)
        q, k = self.attn.q_ln(q), self.attn.k_ln(k)
        q, k, v = (a.unflatten(-1, (heads, -1)).transpose(1, 2) for a in (q, k, v))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias).softmax(-1)
        x = x + self.attn.out_proj((weights @ v).transpose(1, 2).flatten(2))
        return x + self.mlp.mlp_down(F.gelu(self.mlp.mlp_up(self.ln_2(x))))


class MosaicGPT(nn.Module):
    """The model of anas-awadalla/mpt-1b-redpajama-200b (mosaic_gpt.py) with its key names, without cache."""

    def __init__(self, config):
        super().__init__()
        self.heads, self.bias_max = config["n_heads"], config["alibi_bias_max"] if config["alibi"] else None
        self.scale = config["logit_scale"] or 1.0
        width, biased = config["d_model"], not config["no_bias"]
        kind = (width, config["mlp_ratio"], biased, config["attn_clip_qkv"])
        blocks = nn.ModuleList(MosaicBlock(*kind) for _ in range(config["n_layers"]))
        parts = dict(wte=nn.Embedding(config["vocab_size"], width), blocks=blocks)
        if not config["alibi"]:
            parts["wpe"] = nn.Embedding(config["max_seq_len"], width)
        self.transformer = nn.ModuleDict(parts | dict(ln_f=nn.LayerNorm(width, bias=biased)))

    def forward(self, ids, mask):
        length = ids.shape[1]
        bias, x = torch.zeros(1, 1, length), self.transformer.wte(ids)
        if self.bias_max:
            slopes = 2.0 ** -(torch.arange(1, self.heads + 1) * self.bias_max / self.heads)
            bias = slopes[:, None, None] * torch.arange(1 - length, 1)
        else:
            x = x + self.transformer.wpe((mask.cumsum(1) - 1).clamp(min=0))
        visible = torch.ones(length, length).tril().bool() & mask[:, None, None, :].bool()
        bias = bias.masked_fill(~visible, torch.finfo(torch.float32).min)
        for block in self.transformer.blocks:
            x = block(x, bias, self.heads)
        x = self.transformer.ln_f(x)
        return x @ self.transformer.wte.weight.T * self.scale, x

    def generate(self, ids, mask, steps):
        for _ in range(steps):
            ids = torch.cat([ids, self(ids, mask)[0][:, -1:].argmax(-1)], dim=1)
            mask = F.pad(mask, (0, 1), value=1)
        return ids
