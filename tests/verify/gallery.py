"""The gallery's register: faulty Functions with the kind that must come first, and correct ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import Function


@dataclass(frozen=True)
class Exhibit:
    name: str
    function: Any
    inputs: Callable[[], tuple[Any, ...]]
    kind: str | None = None  # None: correct
    tensor: str | None = None
    reference: Any = None
    dtype: torch.dtype = torch.float32


EXHIBITS: list[Exhibit] = []
torch.manual_seed(0)  # the exhibits that are modules draw their parameters when they are registered


def faulty(
    kind: str,
    *inputs: Any,
    tensor: str | None = None,
    reference: Any = None,
    dtype: Any = torch.float32,
) -> Any:
    """Register the decorated Function or function as one whose first finding must be `kind`."""
    return _register(kind, inputs, tensor, reference, dtype)


def correct(*inputs: Any, reference: Any = None, dtype: Any = torch.float32) -> Any:
    """Register the decorated Function or function as one on which nothing may be found."""
    return _register(None, inputs, None, reference, dtype)


def _register(
    kind: str | None, inputs: tuple[Any, ...], tensor: str | None, reference: Any, dtype: Any
) -> Any:
    def register(function: Any) -> Any:
        name = getattr(function, "__name__", type(function).__name__)
        EXHIBITS.append(
            Exhibit(name, function, lambda: build(inputs, dtype), kind, tensor, reference, dtype)
        )
        return function

    return register


def build(inputs: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    """A tuple of integers is the shape of a random tensor, a callable makes its own value, the rest
    is as it is.
    """
    generator = torch.Generator().manual_seed(11)

    def one(item: Any) -> Any:
        if isinstance(item, tuple):
            return torch.randn(item, generator=generator, dtype=torch.float64).to(dtype)
        return (
            item(generator, dtype)
            if callable(item) and not isinstance(item, torch.Tensor)
            else item
        )

    return tuple(one(item) for item in inputs)


def positive(*shape: int) -> Any:
    return lambda g, dtype: (torch.rand(shape, generator=g, dtype=torch.float64) + 0.3).to(dtype)


def labels(count: int, classes: int) -> Any:
    return lambda g, dtype: torch.randint(0, classes, (count,), generator=g)


def asking(*shape: int) -> Any:
    """A tensor that requires a gradient: the others of its call are then not checked."""
    return lambda g, dtype: (
        torch.randn(shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    )


def make(name: str, forward: Any, backward: Any, **more: Any) -> type[Function]:
    """A Function of the older style from its two functions."""
    parts = {"forward": staticmethod(forward), "backward": staticmethod(backward), **more}
    return type(name, (Function,), parts)


def new_style(name, forward, setup, backward, **more):
    # apply reads forward's signature, which built-in functions lack, and counts its defaults as
    # arguments
    count = (
        forward.__code__.co_argcount
        if type(forward) is type(simple) and not forward.__defaults__
        else 1
    )
    wrapped = forward if count == 2 else (lambda x: forward(x))
    parts = {
        "forward": staticmethod(wrapped),
        "setup_context": staticmethod(setup),
        "backward": staticmethod(backward),
    }
    return type(name, (Function,), {**parts, **more})


def saves_inputs(ctx, inputs, output):
    ctx.save_for_backward(*(i for i in inputs if isinstance(i, torch.Tensor)))


def simple(name, f, df):
    """y = f(x), gradient g · df(x)."""
    return new_style(name, f, saves_inputs, lambda ctx, g: g * df(ctx.saved_tensors[0]))
