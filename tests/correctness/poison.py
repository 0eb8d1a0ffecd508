"""The poisoned twin: the real Functions with wrong derivatives, to show whether they ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor

from manual_bp import ops
from manual_bp.ops.function import HandDerivedFunction

FUNCTIONS: tuple[type[HandDerivedFunction], ...] = tuple(getattr(ops, name) for name in ops.__all__)
FACTOR = 3


@contextmanager
def poisoned() -> Iterator[None]:
    """Every gradient and every tangent that our Functions give is three times too large; nine,
    where one is two.
    """
    with ExitStack() as stack:
        for function in FUNCTIONS:
            factor = FACTOR**2 if function is ops.LinearSigmoidFunction else FACTOR
            stack.enter_context(
                patch.object(function, "backward", _wrong_backward(function.backward, factor))
            )
            forward_mode = function.forward_mode
            stack.enter_context(
                patch.object(forward_mode, "jvp", _wrong_jvp(forward_mode.jvp, factor))
            )
        yield


def _wrong_backward(real: Any, factor: int) -> Any:
    def backward(ctx: Any, g: Tensor) -> Any:
        gradients = real(ctx, g)
        if isinstance(gradients, tuple):
            return tuple([None if d is None else factor * d for d in gradients])
        return factor * gradients

    return staticmethod(backward)


def _wrong_jvp(real: Any, factor: int) -> Any:
    return staticmethod(lambda ctx, *tangents: factor * real(ctx, *tangents))


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often the backward of each of our Functions was called. Eager only: a compiled graph
    calls no Python.
    """
    calls: Counter[str] = Counter()

    def counting(function: type[HandDerivedFunction]) -> Any:
        real = function.backward

        def backward(ctx: Any, g: Tensor) -> Any:
            calls[function.__name__] += 1
            return real(ctx, g)

        return staticmethod(backward)

    with ExitStack() as stack:
        for function in FUNCTIONS:
            stack.enter_context(patch.object(function, "backward", counting(function)))
        yield calls


def nodes(value: Tensor) -> list[Any]:
    """Every node of the graph behind `value`, the last operation first, each once."""
    found: dict[Any, None] = {}
    waiting = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = None
            waiting.extend(parent for parent, _ in node.next_functions)
    return list(found)


def is_ours(node: Any) -> bool:
    """Whether a node of the graph is the backward of one of our Functions."""
    return isinstance(getattr(node, "_forward_cls", None), type) and issubclass(
        node._forward_cls, HandDerivedFunction
    )
