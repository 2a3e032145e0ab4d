"""What a stage minimises: language modelling, contrastive matching, or Flamingo's text given media."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from flamingo_jax.config import ModelConfig
from flamingo_jax.models.contrastive import Contrastive
from flamingo_jax.models.decoder import Decoder, unembed
from flamingo_jax.models.flamingo import Flamingo
from flamingo_jax.training.mixing import merge_pairs, merge_tokens
from flamingo_jax.training.text import token_loss, token_weight


@dataclasses.dataclass(frozen=True)
class Objective:
    """The functions by which the loop knows a model.

    init(key, batch) -> boxed variables. loss(params, frozen, batch, key=None) -> scalar, averaged over the global
    batch; key: for what is random in training (an encoder's stochastic depth), None for nothing.
    monitor(params) -> {name: scalar} worth logging beside the loss. merge(batches, lambdas) -> ({name: batch}, {name:
    weight}): what the losses and their weights must be of, for their sum to be one loss over all examples.
    weight(batch) -> scalar, what ``loss`` divides a sum over the rows by. Given as ``loss(.., weight=)`` with some of
    the rows, these add their share to the loss of all (``training/microbatch.py``). None for a loss that is no such
    sum.
    """

    init: Callable
    loss: Callable
    monitor: Callable
    merge: Callable = merge_tokens
    weight: Callable | None = None


def contrastive_loss(
    images: jax.Array, texts: jax.Array, scale: jax.Array, smoothing: float, valid: jax.Array
) -> jax.Array:
    """CLIP's two-way softmax cross-entropy over the global batch (paper B.1.3): unit vectors [B, E] -> scalar.

    valid bool [B]: pairs that count; the others (unreadable ones) are neither matches nor candidates.
    """
    count = jnp.maximum(valid.sum(), 1)
    logits = jnp.where(valid, scale * images @ texts.T, -1e9)
    turned = jnp.where(valid, scale * texts @ images.T, -1e9)
    labels = (1 - smoothing) * jnp.eye(len(valid)) + smoothing * valid / count
    losses = optax.softmax_cross_entropy(logits, labels) + optax.softmax_cross_entropy(turned, labels)
    return jnp.where(valid, losses, 0.0).sum() / count


def language(config: ModelConfig, new_tokens: tuple[int, ...], pad: int, whole: bool = False) -> Objective:
    """Next-token prediction on text; every weight is trainable. whole: as ``token_loss``'s."""
    model = Decoder(config.language, jnp.dtype(config.dtype), config.remat, kernels=config.kernels)

    def loss(params, frozen, batch, key=None, weight=None):
        _, sown = model.apply({"params": params}, batch["tokens"], _mask(batch, pad), mutable=["intermediates"])
        return _text_loss(model, params, sown["intermediates"], batch, weight, whole)

    return Objective(lambda key, batch: model.init(key, batch["tokens"]), loss, lambda params: {}, weight=_weight)


def contrastive(config: ModelConfig, new_tokens: tuple[int, ...], pad: int, whole: bool = False) -> Objective:
    """Matching images and texts of a batch; only the ``vision`` subtree is of use afterwards."""
    tower = config.text_tower
    model = Contrastive(config.vision, tower, config.language.vocab_size, jnp.dtype(config.dtype))

    def inputs(batch):
        return batch["media"][:, 0, 0], batch["tokens"], batch["tokens"] != pad

    def loss(params, frozen, batch, key=None):
        valid = batch["media_mask"][:, 0] & (batch["weights"].sum(-1) > 0)
        outputs = model.apply({"params": params}, *inputs(batch), rngs=_streams(key))
        return contrastive_loss(*outputs, tower.label_smoothing, valid)

    return Objective(
        lambda key, batch: model.init(key, *inputs(batch)),
        loss,
        lambda params: {"scale": jnp.exp(params["log_scale"])},
        lambda batches, lambdas: merge_pairs(batches, pad),  # lambdas are equal: a pair has no loss without the others
    )


def flamingo(config: ModelConfig, new_tokens: tuple[int, ...], pad: int, whole: bool = False) -> Objective:
    """Text given interleaved media, vision encoder and language model frozen (paper 2). whole: as ``token_loss``'s."""
    model = Flamingo(config, new_tokens)
    decoder = Decoder(config.language, jnp.dtype(config.dtype), new_tokens=new_tokens)

    def inputs(batch):
        return batch["tokens"], batch["media"], batch["media_index"], _mask(batch, pad)

    def loss(params, frozen, batch, key=None, weight=None):
        rngs = _streams(key) if "vision" not in config.frozen else {}
        variables = {"params": params, "frozen": frozen}
        _, sown = model.apply(variables, *inputs(batch), rngs=rngs, mutable=["intermediates"])
        weights = {**frozen.get("decoder", {}), **params["decoder"]}
        return _text_loss(decoder, weights, sown["intermediates"]["decoder"], batch, weight, whole)

    return Objective(lambda key, batch: model.init(key, *inputs(batch)), loss, gates, weight=_weight)


def _weight(batch: dict) -> jax.Array:
    return token_weight(batch["weights"])


def _text_loss(decoder: Decoder, weights: dict, sown: dict, batch: dict, total, whole: bool) -> jax.Array:
    """``token_loss`` of the states that a decoder has sown; the logits that it returns are then not computed."""
    (hidden,) = sown["hidden"]
    head = functools.partial(unembed, decoder, weights)
    return token_loss(head, hidden, batch["tokens"], batch["weights"], decoder.config.vocab_rows, total, whole)


def _mask(batch: dict, pad: int) -> jax.Array:
    """What is no padding, bool [B, L]; of a batch of packed documents its ``segments``, int [B, L]."""
    return batch["segments"] if "segments" in batch else batch["tokens"] != pad


def _streams(key: jax.Array | None) -> dict[str, jax.Array]:
    """The random streams of a vision encoder that trains."""
    return {} if key is None else {"stochastic_depth": key}


def gates(params: dict) -> dict[str, jax.Array]:
    """|tanh gate| of every gated layer that has one, bottom to top: ``gate/attention/<i>`` and ``gate/mlp/<i>``.

    Of a gate per channel the mean over channels.
    """
    decoder, out = params["decoder"], {}
    for kind in ("attention", "mlp"):
        values = []
        for key in ("groups", "remainder", "graft"):
            gate = decoder.get(key, {}).get("gated", {}).get(f"{kind}_gate")
            if gate is not None:
                gate = jnp.abs(jnp.tanh(gate))
                values += [gate.mean()] if key == "remainder" else [layer.mean() for layer in gate]
        out |= {f"gate/{kind}/{i}": value for i, value in enumerate(values)}
    return out


OBJECTIVES = {"language": language, "contrastive": contrastive, "flamingo": flamingo}
