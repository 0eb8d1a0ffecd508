"""Every operation with every mutation: correct Functions whose backward is bent in one place.

The operations are autograd's own inside a Function, so each is right by construction until it is
bent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

Gradients = list[Tensor]


def differentiated(
    f: Callable[..., Tensor], before: Any = None, after: Any = None
) -> type[Function]:
    """A Function like f; `before` bends grad_output, `after` the gradients."""

    class Bent(Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Tensor:
            ctx.save_for_backward(*(a for a in args if isinstance(a, Tensor)))
            ctx.others = [None if isinstance(a, Tensor) else a for a in args]
            ctx.places = [isinstance(a, Tensor) for a in args]
            return f(*args)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
            saved = iter(ctx.saved_tensors)
            args = [
                next(saved) if place else other
                for place, other in zip(ctx.places, ctx.others, strict=True)
            ]
            floats = [
                i for i, a in enumerate(args) if isinstance(a, Tensor) and a.is_floating_point()
            ]
            if before is not None:
                g = before(g)
            create = torch.is_grad_enabled()
            with torch.enable_grad():
                for i in floats:
                    args[i] = (
                        args[i].clone()
                        if args[i].requires_grad
                        else args[i].detach().requires_grad_()
                    )
                out = f(*args)
                found = list(
                    torch.autograd.grad(out, [args[i] for i in floats], g, create_graph=create)
                )
            if after is not None:
                found = after(found)
            complete: list[Any] = [None] * len(args)
            for i, gradient in zip(floats, found, strict=True):
                complete[i] = gradient
            return tuple(complete)

    return Bent


LABELS = torch.tensor([0, 2, 1, 2])
OPERATIONS: dict[str, tuple[Callable[..., Tensor], list[tuple[Any, ...]]]] = {
    "linear": (
        F.linear,
        [
            ((4, 3), (5, 3), (5,)),
            ((3, 3), (3, 3), (3,)),
            ((1, 2), (3, 2), (3,)),
            ((2, 3, 4), (5, 4), (5,)),
        ],
    ),
    "product": (torch.mul, [((4, 3), (4, 3)), ((5,), (5,))]),
    "quotient": (lambda a, b: a / (2 + b * b), [((4, 3), (4, 3))]),
    "tanh": (torch.tanh, [((4, 3),), ((6,),), ((2, 3, 2),)]),
    "softplus": (F.softplus, [((3, 5),)]),
    "softmax": (lambda x: x.softmax(-1), [((4, 5),)]),
    "layer norm": (
        lambda x, g, b: F.layer_norm(x, x.shape[-1:], g, b),
        [((4, 6), (6,), (6,)), ((2, 3, 4), (4,), (4,))],
    ),
    "batch norm": (
        lambda x, g, b: F.batch_norm(x, None, None, g, b, training=True),
        [((5, 3), (3,), (3,))],
    ),
    "cross entropy": (lambda z, y: F.cross_entropy(z, y), [((4, 5), LABELS)]),
    "mse": (lambda a, y: F.mse_loss(a, y), [((4, 3), (4, 3))]),
    "convolution": (lambda x, w, b: F.conv2d(x, w, b), [((2, 2, 5, 5), (3, 2, 3, 3), (3,))]),
    "embedding": (lambda i, t: F.embedding(i, t), [(LABELS, (5, 3))]),
    "sum of squares": (lambda x: (x * x).sum(0), [((4, 3),)]),
    "attention": (
        lambda q, k, v: (q @ k.mT / 3**0.5).softmax(-1) @ v,
        [((2, 4, 3), (2, 4, 3), (2, 4, 3)), ((4, 4), (4, 4), (4, 4))],
    ),
    "bilinear": (lambda x, w, y: ((x @ w) * y).sum(1), [((4, 3), (3, 3), (4, 3))]),
}


def _last(bend: Callable[[Tensor], Any]) -> Callable[[Gradients], list[Any]]:
    return lambda found: [*found[:-1], bend(found[-1])]


def _first(bend: Callable[[Tensor], Any]) -> Callable[[Gradients], list[Any]]:
    return lambda found: [bend(found[0]), *found[1:]]


def mutations(name: str, shapes: tuple[Any, ...]) -> Iterator[tuple[str, Any, Any, set[str]]]:
    """What the mutation is called, how it bends grad_output and gradients, and the kinds that
    describe it.
    """
    floats = [s for s in shapes if isinstance(s, tuple)]
    for where, place in (
        (("first", _first), ("last", _last)) if len(floats) > 1 else (("only", _first),)
    ):
        for c in (2.0, 0.5, 0.25, 1 / 3, 10.0, -2.0):
            yield f"{where} times {c:.3g}", None, place(lambda t, c=c: c * t), {"constant-factor"}
        yield f"{where} negative", None, place(lambda t: -t), {"sign-flip"}
        yield f"{where} None", None, place(lambda t: None), {"missing-gradient"}
        yield f"{where} zero", None, place(torch.zeros_like), {"missing-gradient"}
        yield f"{where} in double", None, place(lambda t: t.double()), {"wrong-dtype"}
        yield f"{where} in half", None, place(lambda t: t.half()), {"wrong-dtype"}
        yield f"{where} rounded", None, place(lambda t: t.half().to(t.dtype)), {"precision"}
        yield (
            f"{where} with a batch dimension",
            None,
            place(lambda t: (t / 3).expand(3, *t.shape)),
            {"missing-batch-sum"},
        )
        yield (
            f"{where} flattened",
            None,
            place(lambda t: t.reshape(1, -1, 1)),
            {"wrong-shape", "missing-batch-sum"},
        )
        shape = floats[0 if where != "last" else -1]
        if len(shape) >= 2:
            yield f"{where} transposed", None, place(lambda t: t.mT), {"transposed"}
    if len(floats) > 1 and floats[0] == floats[-1] and name != "mse":
        yield (
            "exchanged",
            None,
            lambda found: [found[-1], *found[1:-1], found[0]],
            {"gradient-of-another-input"},
        )
    yield "without g", torch.ones_like, None, {"ignores-grad-output"}
    yield "g squared", lambda g: g * g, None, {"not-linear-in-grad-output"}
    yield "g rectified", lambda g: g.relu(), None, {"not-linear-in-grad-output"}
    if name != "softmax":  # a constant added to each row of grad_output changes nothing there
        yield "g plus one", lambda g: g + 1, None, {"not-linear-in-grad-output"}
    yield "g clipped", lambda g: g.clamp(-2, 2), None, {"not-linear-in-grad-output"}
    yield "g in place", lambda g: g.mul_(1.5), None, {"mutates-grad-output"}
    yield "g twice", lambda g: g * 2, None, {"constant-factor"}
    yield (
        "g detached",
        lambda g: g.detach(),
        None,
        {"double-backward-wrong", "double-backward-unsupported"},
    )


def build(shapes: tuple[Any, ...], seed: int) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(s, generator=generator) if isinstance(s, tuple) else s for s in shapes)
