"""Gradients that go to the wrong place, are rough in a part, or belong to older versions."""

from __future__ import annotations

import numpy
import torch
import torch.nn.functional as F
from gallery import correct, faulty, make
from torch.autograd import Function


def zero_row(g, dtype):
    """Three random rows and one of zeros."""
    return torch.cat([torch.randn(3, 4, generator=g), torch.zeros(1, 4)]).to(dtype)


def normalised(ctx, x):
    ctx.save_for_backward(x)
    return F.layer_norm(x, x.shape[-1:])


def by_statistics_over(dims):
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        r = (x.var(-1, correction=0, keepdim=True) + 1e-5).rsqrt()
        h = (x - x.mean(-1, keepdim=True)) * r
        return r * (g - g.mean(dims, keepdim=True) - h * (g * h).mean(dims, keepdim=True))

    return backward


correct((4, 6))(make("NormOverTheLast", normalised, by_statistics_over(-1)))
faulty("wrong-values", (4, 6))(make("NormOverTheFirst", normalised, by_statistics_over(0)))
faulty("wrong-values", (4, 6))(make("NormOverAll", normalised, by_statistics_over((0, 1))))


def grouped(index):
    """x times one weight for each group of channels; `index` is the backward's."""

    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w[torch.arange(6) // 2].reshape(6, 1)

    def backward(ctx, g):
        x, w = ctx.saved_tensors
        i = index(torch.arange(6))
        return g * w[i].reshape(6, 1), torch.zeros_like(w).index_add(0, i, (g * x).sum((0, 2)))

    return forward, backward


correct((2, 6, 3), (3,))(make("GroupedScale", *grouped(lambda c: c // 2)))
faulty("wrong-values", (2, 6, 3), (3,), tensor="w")(
    make("GroupedScaleStrided", *grouped(lambda c: c % 3))
)


def shared_heads(fold):
    """Six query heads share three of keys."""

    def forward(ctx, q, k):
        ctx.save_for_backward(q, k)
        return q @ k.repeat_interleave(2, 1).mT

    def backward(ctx, g):
        q, k = ctx.saved_tensors
        return g @ k.repeat_interleave(2, 1), fold(g.mT @ q)

    return forward, backward


correct((2, 6, 3, 4), (2, 3, 3, 4))(
    make("SharedHeads", *shared_heads(lambda t: t.unflatten(1, (3, 2)).sum(2)))
)
faulty("wrong-values", (2, 6, 3, 4), (2, 3, 3, 4), tensor="k")(
    make("SharedHeadsStrided", *shared_heads(lambda t: t.unflatten(1, (2, 3)).sum(1)))
)


def square_sum(ctx, x):
    ctx.save_for_backward(x)
    return x.square().sum(-1)


correct(zero_row)(
    make("SquareSum", square_sum, lambda ctx, g: 2 * g.unsqueeze(-1) * ctx.saved_tensors[0])
)


@faulty("double-backward-wrong", zero_row)
class SquareSumByRoot(Function):
    """2 |x| sign x is 2 x, but the root has no slope at 0."""

    forward = staticmethod(square_sum)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * g.unsqueeze(-1) * x.sign() * x.square().sqrt()


def sine(ctx, x):
    ctx.save_for_backward(x)
    return x.sin()


def cosine(ctx, g):
    return g * ctx.saved_tensors[0].cos()


@faulty("precision", (4, 3), dtype=torch.float64)
class HalfOfThemInFloat32(Function):
    forward = staticmethod(sine)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * torch.cat([x[:2].float().cos().to(x), x[2:].cos()])


@faulty("precision", (4, 3), dtype=torch.float64)
class BranchInFloat32(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x > 0, x.float().sin().to(x), 3 * x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * torch.where(x > 0, x.cos(), 3)


correct((4, 3))(BranchInFloat32)  # nobody who gives float32 sees it
correct((4, 3))(
    make("BackwardInFloat32", sine, lambda ctx, g: g * ctx.saved_tensors[0].float().cos().to(g))
)


def tripled(jvp):
    return type(
        "Tripled",
        (Function,),
        {
            "forward": staticmethod(lambda x: 3 * x),
            "setup_context": staticmethod(lambda ctx, inputs, output: None),
            "backward": staticmethod(lambda ctx, g: 3 * g),
            "jvp": staticmethod(jvp),
        },
    )


correct((4, 3))(tripled(lambda ctx, t: 3 * t))
faulty("jvp-disagrees", (4, 3))(tripled(lambda ctx, t: t.mul_(3)))


class Root(Function):
    """√a by Newton's steps, until they are small."""

    @staticmethod
    def forward(ctx, a):
        z = torch.ones_like(a)
        for _ in range(100):
            before, z = z, (z + a / z) / 2
            if (z - before).abs().max() < 1e-4:
                break
        ctx.save_for_backward(before)
        return before

    @staticmethod
    def backward(ctx, g):
        return g / (2 * ctx.saved_tensors[0])


correct(lambda g, dtype: (torch.rand(5, generator=g) + 0.5).to(dtype))(Root)


@faulty("constant-factor", lambda g, dtype: (torch.rand(5, generator=g) + 0.5).to(dtype))
class RootTwice(Root):
    @staticmethod
    def backward(ctx, g):
        return g / ctx.saved_tensors[0]


class OfInstances(Function):
    """As they were written before PyTorch 1.3."""

    def __init__(self, k):
        self.k = k

    def forward(self, x):
        return x * self.k

    def backward(self, g):
        return g * self.k


faulty("crash", (4, 3))(OfInstances(2))
faulty("crash", (4, 3))(
    make("RemovedName", sine, lambda ctx, g: g * numpy.float(1) * cosine(ctx, g))
)
