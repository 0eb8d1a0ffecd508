"""Piecewise constant functions, and gradients that are not their derivative on purpose
(straight-through).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from gallery import correct, faulty, make
from torch.autograd import Function


def wide(factor, *shape):
    return lambda g, d: (factor * torch.randn(shape, generator=g, dtype=torch.float64)).to(d)


def straight_through(f, x):
    """The value f(x) with the gradient of x."""
    return x + (f(x) - x).detach()


correct(wide(100, 6, 6))(torch.round)
correct(wide(100, 60, 60))(torch.round)
correct(wide(1, 5))(torch.sign)
correct(wide(3, 4, 5))(
    make("FloorWithZero", lambda ctx, x: x.floor(), lambda ctx, g: torch.zeros_like(g))
)
for factor in (3, 100):
    correct(wide(factor, 4, 5), reference=lambda x: straight_through(torch.round, x))(
        make("RoundStraightThrough", lambda ctx, x: x.round(), lambda ctx, g: g)
    )


def fake_quantisation(scale, masked=True):
    """round(clamp(x / scale)) · scale; the gradient is g inside the range and 0 outside."""

    def forward(ctx, x):
        u = x / scale
        ctx.save_for_backward((u >= -8) & (u <= 7))
        return u.clamp(-8, 7).round() * scale

    def backward(ctx, g):
        return g * ctx.saved_tensors[0] if masked else g

    return make(f"FakeQuantisation{'' if masked else 'Unmasked'}", forward, backward)


def fake_reference(scale):
    return lambda x: straight_through(torch.round, (x / scale).clamp(-8, 7)) * scale


for scale in (1 / 4, 1 / 8, 1 / 16, 1 / 128, 0.1):
    correct(wide(8 * scale, 5, 5), reference=fake_reference(scale))(fake_quantisation(scale))
    correct(wide(8 * scale, 5, 5))(lambda x, scale=scale: (x / scale).clamp(-8, 7).round() * scale)
    faulty("wrong-values", wide(8 * scale, 5, 5), reference=fake_reference(scale))(
        fake_quantisation(scale, False)
    )


def hard_reference(z):
    """One-hot of the largest, with the gradient of the softmax."""
    p = z.softmax(-1)
    return F.one_hot(z.argmax(-1), z.shape[-1]).to(z) - p.detach() + p


@correct((4, 6), reference=hard_reference)
class HardChoice(Function):
    """For a grad_output of ones the gradient is nothing but rounding."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return F.one_hot(z.argmax(-1), z.shape[-1]).to(z)

    @staticmethod
    def backward(ctx, g):
        p = ctx.saved_tensors[0].softmax(-1)
        return p * (g - (g * p).sum(-1, keepdim=True))


@faulty("sign-flip", (4, 6), reference=hard_reference)
class HardChoiceSign(HardChoice):
    @staticmethod
    def backward(ctx, g):
        return -HardChoice.backward(ctx, g)


@faulty("missing-gradient", wide(3, 4, 5), reference=lambda x: straight_through(torch.round, x))
class RoundWithoutGradient(Function):
    """Right as the derivative, and not what the reference asks for."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return torch.zeros_like(g)


faulty("precision", (4, 5), (5, 3))(lambda x, w: (x.bfloat16() @ w.bfloat16()).to(x.dtype))
faulty("precision", (4, 5))(lambda x: x.sin().half().to(x.dtype))
