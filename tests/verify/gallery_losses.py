"""Losses, pooling, grouped scales, masked attention, NumPy in between."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from gallery import asking, correct, faulty, labels, new_style, saves_inputs
from torch.autograd import Function
from torch.autograd.function import once_differentiable


@faulty("sign-flip", (6,), lambda g, d: torch.tensor([0.0, 1, 1, 0, 1, 0], dtype=d), tensor="z")
class BinaryCrossEntropySign(Function):
    @staticmethod
    def forward(ctx, z, y):
        ctx.save_for_backward(z, y)
        return F.binary_cross_entropy_with_logits(z, y)

    @staticmethod
    def backward(ctx, g):
        z, y = ctx.saved_tensors
        return g * (y - torch.sigmoid(z)) / z.numel(), -g * z / z.numel()


@faulty("constant-factor", (4, 5), labels(4, 5))
class NllOverElements(Function):
    @staticmethod
    def forward(ctx, logits, target):
        ctx.save_for_backward(logits, target)
        return F.cross_entropy(logits, target)

    @staticmethod
    def backward(ctx, g):
        logits, target = ctx.saved_tensors
        return g * (logits.softmax(-1) - F.one_hot(target, 5)) / max(logits.numel(), 1), None


faulty("wrong-values", (3, 4))(
    new_style(
        "LogSoftmaxNoSum",
        lambda x: x.log_softmax(-1),
        saves_inputs,
        lambda ctx, g: g - ctx.saved_tensors[0].softmax(-1) * g,
    )
)
faulty("derivative-at-wrong-point", (3, 4))(
    new_style(
        "SoftmaxFromInput",
        lambda x: x.softmax(-1),
        saves_inputs,
        lambda ctx, g: (
            ctx.saved_tensors[0] * (g - (g * ctx.saved_tensors[0]).sum(-1, keepdim=True))
        ),
    )
)


class GroupScale(Function):
    """x̂ = (x − μ)/σ over channels and pixels, times γ per channel."""

    @staticmethod
    def forward(ctx, x, gamma):
        ctx.save_for_backward(x, gamma)
        return F.group_norm(x, 1, gamma)

    @staticmethod
    def pieces(ctx):
        x, gamma = ctx.saved_tensors
        dims = (1, 2, 3)
        c = x - x.mean(dims, keepdim=True)
        r = (c.square().mean(dims, keepdim=True) + 1e-5).rsqrt()
        return c * r, r, gamma.view(1, -1, 1, 1), dims

    @staticmethod
    def backward(ctx, g):
        xhat, r, gamma, dims = GroupScale.pieces(ctx)
        d = g * gamma
        dx = r * (d - d.mean(dims, keepdim=True) - xhat * (d * xhat).mean(dims, keepdim=True))
        return dx, (g * xhat).sum((0, 2, 3))


GROUP = ((2, 3, 2, 2), (3,))
correct(*GROUP, reference=lambda x, g: F.group_norm(x, 1, g))(GroupScale)


@faulty("missing-batch-sum", *GROUP, tensor="gamma")
class GroupScalePerExample(GroupScale):
    @staticmethod
    def backward(ctx, g):
        xhat, *_ = GroupScale.pieces(ctx)
        return GroupScale.backward(ctx, g)[0], (g * xhat).sum((2, 3))


@faulty("wrong-values", *GROUP, tensor="x")
class GroupScaleNoVarianceTerm(GroupScale):
    @staticmethod
    def backward(ctx, g):
        xhat, r, gamma, dims = GroupScale.pieces(ctx)
        d = g * gamma
        return r * (d - d.mean(dims, keepdim=True)), (g * xhat).sum((0, 2, 3))


@faulty("missing-gradient", *GROUP, tensor="gamma")
class GroupScaleNoGamma(GroupScale):
    @staticmethod
    def backward(ctx, g):
        return GroupScale.backward(ctx, g)[0], None


class Average(Function):
    @staticmethod
    def forward(ctx, x):
        return F.avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx, g):
        return g.repeat_interleave(2, -1).repeat_interleave(2, -2) / 4


correct((2, 1, 4, 4))(Average)


@faulty("constant-factor", (2, 1, 4, 4))
class AverageUndivided(Average):
    @staticmethod
    def backward(ctx, g):
        return g.repeat_interleave(2, -1).repeat_interleave(2, -2)


@faulty("wrong-values", (2, 2, 6), (3, 2, 3), tensor="x")
class ConvolutionNotFlipped(Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return F.conv1d(x, w, padding=1)

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return F.conv1d(g, w.transpose(0, 1), padding=1), torch.nn.grad.conv1d_weight(
            x, w.shape, g, padding=1
        )


@faulty(
    "constant-factor", lambda g, d: torch.tensor([[0, 2, 2], [1, 3, 0]]), (4, 3), tensor="table"
)
class BagNotAveraged(Function):
    @staticmethod
    def forward(ctx, index, table):
        ctx.save_for_backward(index, table)
        return table[index].mean(1)

    @staticmethod
    def backward(ctx, g):
        index, table = ctx.saved_tensors
        spread = g.unsqueeze(1).expand(*index.shape, g.shape[-1]).reshape(-1, g.shape[-1])
        return None, torch.zeros_like(table).index_add(0, index.reshape(-1), spread)


@faulty("wrong-values", (5, 4), (5, 4), (5, 4))
class CausalMaskForgotten(Function):
    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    @staticmethod
    def backward(ctx, g):
        q, k, v = ctx.saved_tensors
        p = (q @ k.t() / 2).softmax(-1)
        dp = g @ v.t()
        ds = p * (dp - (dp * p).sum(-1, keepdim=True)) / 2
        return ds @ k, ds.t() @ q, p.t() @ g


@faulty("crash", (3, 4), 2)
class GradientForANumber(Function):
    @staticmethod
    def forward(ctx, x, n):
        ctx.n = n
        return x * n

    @staticmethod
    def backward(ctx, g):
        return g * ctx.n, g


@faulty("wrong-dtype", (3, 4))
class NumpyInDouble(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(np.tanh(x.detach().numpy()))

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(
            g.numpy().astype(np.float64) * (1 - np.tanh(x.numpy().astype(np.float64)) ** 2)
        )


@faulty("forward-wrong", (4, 3), reference=lambda x: F.layer_norm(x, (3,), eps=1e-5))
def normalise_unbiased(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt()


@faulty("ignores-grad-output", (4, 3), asking(4, 3))
class LossAsGradient(Function):
    @staticmethod
    def forward(ctx, y, a):
        ctx.save_for_backward(y, a)
        return (a - y).square().sum()

    @staticmethod
    def backward(ctx, g):
        y, a = ctx.saved_tensors
        return None, 2 * (a - y)
