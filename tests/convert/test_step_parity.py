"""One training step of OpenFlamingo ends where its own does: loss, gradients of the bridge, weights after AdamW."""

import json

import chex
import flax.traverse_util as traverse
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

import flamingo_jax
from flamingo_jax.convert.flamingo import open_flamingo_names, open_flamingo_rules
from flamingo_jax.convert.language import language_rules
from flamingo_jax.convert.reader import Checkpoint
from flamingo_jax.convert.shapes import bridge_shapes
from flamingo_jax.convert.stored import plan
from flamingo_jax.models.decoder import group_bridge


@pytest.fixture(scope="module")
def training(trained_folder):
    """(model, loss, gradients of its trainable weights, tensors). The loss is a mean; labels of -100 do not count."""
    model, io = flamingo_jax.load(trained_folder), load_file(trained_folder / "io.safetensors")
    images, labels = np.moveaxis(io["images"], -3, -1), io["labels"][:, 1:]
    index = (io["ids"] == model.image_token).cumsum(1)

    @jax.jit
    def value_and_grad(params, frozen):
        def loss(params):
            variables = {"params": params, "frozen": frozen}
            logits = model.module.apply(variables, io["ids"], images, index, io["mask"] == 1)[:, :-1]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, np.maximum(labels, 0))
            return jnp.mean(losses, where=labels != -100)

        return jax.value_and_grad(loss)(params)

    params = model.variables["params"]
    return model, *value_and_grad(params, model.variables["frozen"]), io


def read_bridge(file, model):
    """Their tensors of the trainable weights as our tree; a tied table is stored under the head's name."""
    language, checkpoint = json.loads((file.parent / "config.json").read_text())["lm"], Checkpoint(file)
    table, rename = language_rules(language, model.config.language)
    rules = open_flamingo_rules(table, [], model.config, model.module.new_tokens)
    shapes = bridge_shapes(model.config, len(model.module.new_tokens))
    shapes = {path: shape for path, shape in shapes.items() if path.split("/")[0] in ("gated", "resampler", "new_rows")}
    names = open_flamingo_names(checkpoint.shapes, table, rename)
    names |= {"lang_encoder.lm_head.weight": next(rule.source for rule in rules if rule.target == "new_rows")}
    parts = traverse.unflatten_dict(plan([(checkpoint, names.get)], rules, shapes), sep="/")
    gated = group_bridge(parts["gated"], model.config.gated, model.config.language.depth)
    tree = {"resampler": parts["resampler"], "decoder": {**gated, "new_rows": parts["new_rows"]}}
    return jax.tree.map(np.asarray, tree)


def flat(tree):
    return traverse.flatten_dict(tree, sep="/")


def test_gradients_of_the_bridge(training, trained_folder):
    model, loss, grads, io = training
    expected = read_bridge(trained_folder / "grads.safetensors", model)
    chex.assert_trees_all_equal_shapes(grads, expected)
    norm = np.sqrt(sum(np.square(grad).sum() for grad in jax.tree.leaves(grads)))
    np.testing.assert_allclose([loss, norm], [io["loss"][0], io["grad_norm"][0]], rtol=1e-5)
    for path, grad in flat(expected).items():
        scale = np.abs(grad).max()
        np.testing.assert_allclose(flat(grads)[path], grad, rtol=0, atol=2e-5 * scale, err_msg=path)


def test_weights_after_one_step(training, trained_folder):
    """Decay on all of the gated layers and on nothing else.

    The first step of Adam is the sign of the gradient, so that those of almost zero are left out.
    """
    model, _, grads, _ = training
    params = model.variables["params"]
    decayed = jax.tree.map(lambda _: False, params)
    decayed["decoder"]["groups"]["gated"] = True
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-3, 0.9, 0.999, 1e-8, weight_decay=0.1, mask=decayed)
    )

    @jax.jit
    def step(grads, params):
        return optax.apply_updates(params, optimizer.update(grads, optimizer.init(params), params)[0])

    actual = flat(step(grads, params))
    expected = flat(read_bridge(trained_folder / "adamw.safetensors", model))
    clear = {path: np.abs(grad) > 1e-6 for path, grad in flat(grads).items()}
    assert np.mean(np.concatenate([where.ravel() for where in clear.values()])) > 0.99
    for path, where in clear.items():
        np.testing.assert_allclose(
            np.asarray(actual[path])[where], expected[path][where], rtol=0, atol=2e-6, err_msg=path
        )
