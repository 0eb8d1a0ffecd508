"""The poisoned twin: the real Functions with wrong derivatives, to show whether they ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor

from manual_bp import functional
from manual_bp.function import HandDerivedFunction

assert functional  # its import makes every Function
FUNCTIONS: tuple[type[HandDerivedFunction], ...] = tuple(
    kind
    for kind in HandDerivedFunction.__subclasses__()
    if kind.__module__.startswith("manual_bp.")
)
FACTOR = 3


@contextmanager
def poisoned(*functions: type[HandDerivedFunction]) -> Iterator[None]:
    """Make every gradient and tangent of these Functions, or of all, three times too large."""
    with ExitStack() as stack:
        for function in functions or FUNCTIONS:
            wrong = {
                "backward": _wrong_backward(function.backward),
                "tangent_rule": _wrong_rule(function.tangent_rule),
            }
            stack.enter_context(patch.multiple(function, **wrong))
        yield


def _wrong_backward(real: Any) -> Any:
    def backward(ctx: Any, g: Tensor) -> Any:
        gradients = real(ctx, g)
        if isinstance(gradients, tuple):
            return tuple([None if d is None else FACTOR * d for d in gradients])
        return FACTOR * gradients

    return staticmethod(backward)


def _wrong_rule(real: Any) -> Any:
    return staticmethod(lambda ctx, *tangents: FACTOR * real(ctx, *tangents))


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often the backward of each Function ran. Eager only: a compiled graph calls no Python."""
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
