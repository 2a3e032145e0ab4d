"""How many floating-point operations a step needs, by its trace: those of matrix products and convolutions."""

from __future__ import annotations

import math

import jax
from jax.extend import core

from flamingo_jax.config import StageConfig
from flamingo_jax.training.objective import Objective


def count(jaxpr: core.ClosedJaxpr) -> int:
    """Of a traced function. What runs in a scan counts as often as it runs; of branches the most expensive one counts.

    A trace holds no backward pass that nothing asks for, so what frozen weights save is saved here. What is computed
    again in it (rematerialisation) counts too: trace a model that keeps everything. Raises ValueError for a loop of
    unknown length with products in it.
    """
    return _count(jaxpr.jaxpr)


def _count(jaxpr) -> int:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = parameters["dimension_numbers"].rhs_spec[0]
        result = equation.outvars[0].aval.shape
        # Padding and strides of a gradient's convolution are counted as if they were values, as the usual rule does.
        return 2 * math.prod(result) * math.prod(kernel) // kernel[outputs]
    inner = [_count(part) for value in parameters.values() for part in _jaxprs(value)]
    if name == "scan":
        return parameters["length"] * sum(inner)
    if name == "cond":
        return max(inner, default=0)
    if name == "while" and sum(inner):
        raise ValueError("A loop of unknown length has products in it, which cannot be counted.")
    return sum(inner)


def _jaxprs(value) -> list:
    """The traces that a parameter of an equation holds."""
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    if hasattr(value, "eqns"):
        return [value]
    if isinstance(value, (tuple, list)):
        return [jaxpr for part in value for jaxpr in _jaxprs(part)]
    return []


def of(function, *arguments) -> int:
    """Of ``function`` at arguments, which may be ``jax.ShapeDtypeStruct``."""
    return count(jax.make_jaxpr(function)(*arguments))


def of_gradients(objective: Objective, stage: StageConfig, weights: dict, batches: dict) -> int:
    """Of the losses of a stage's datasets and their gradients, as ``training.step`` takes them.

    objective: of a model that keeps everything. weights: {"params", "frozen"}; batches: {dataset: batch}; both may be
    ``jax.ShapeDtypeStruct``.
    """

    def gradients(params: dict, frozen: dict, batches: dict) -> list:
        if stage.mixing == "merged":
            batches, _ = objective.merge(batches, {name: mix.weight for name, mix in stage.mixture.items()})
        return [jax.grad(objective.loss)(params, frozen, batch) for batch in batches.values()]

    # On no device: a trace for those of a mesh would need it.
    weights, batches = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (weights, batches))
    return of(gradients, weights["params"], weights["frozen"], batches)
