"""Frozen weights as a collection of their own: what cannot be differentiated cannot be trained by accident."""

from __future__ import annotations

import flax.linen as nn


def _swap(variables):
    return {**variables, "params": variables.get("frozen", {}), "frozen": variables.get("params", {})}


def freeze(module: type[nn.Module], methods: list[str] | None = None) -> type[nn.Module]:
    """A version of the module class whose weights live in the ``frozen`` collection instead of ``params``.

    A scan *around* the result must list both collections in ``variable_axes``. Writing to ``frozen`` during ``apply``
    raises flax's ``ModifyScopeVariableError``. methods: the methods to map when the module has no ``__call__`` alone.
    """
    return nn.map_variables(module, ("params", "frozen"), _swap, _swap, mutable=True, methods=methods)
