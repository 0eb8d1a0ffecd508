"""Correct functions in other people's styles: torch's modules, loose arguments, in-place, large
inputs.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from gallery import asking, correct, faulty, new_style, saves_inputs
from torch.autograd import Function

correct(lambda g, d: torch.tensor([-1.0, 1.0, 0.5, 3.0, -1.0000001], dtype=d))(
    new_style(
        "HardtanhAtBounds",
        F.hardtanh,
        saves_inputs,
        lambda ctx, g: g * ((ctx.saved_tensors[0] > -1) & (ctx.saved_tensors[0] < 1)),
    )
)
correct((5, 3), lambda g, d: torch.tensor([0.2], dtype=d))(
    new_style(
        "PReLU",
        lambda x, w: torch.where(x > 0, x, w * x),
        saves_inputs,
        lambda ctx, g: (
            g
            * torch.where(
                ctx.saved_tensors[0] > 0,
                torch.ones_like(ctx.saved_tensors[0]),
                ctx.saved_tensors[1],
            ),
            (g * ctx.saved_tensors[0].clamp(max=0)).sum().reshape(1),
        ),
    )
)
correct((3, 4), -1)(F.log_softmax)
correct((2, 3, 8, 8), 2)(F.max_pool2d)
correct(lambda g, d: torch.ones(1, 1, 4, 4, dtype=d), 2)(F.max_pool2d)
correct((3, 5), (3, 5))(torch.maximum)
correct(lambda g, d: torch.zeros(3, dtype=d), lambda g, d: torch.zeros(3, dtype=d))(torch.maximum)
correct((4, 4))(lambda x: torch.linalg.inv(x + 5 * torch.eye(4).to(x)))
correct((4, 4))(lambda x: torch.logdet(x @ x.mT + torch.eye(4).to(x)))
correct((6,))(lambda x: torch.fft.rfft(x))
correct((2, 5))(lambda x: {"values": x.sort(-1).values, "order": x.sort(-1).indices})
correct((2, 5), 3)(torch.topk)
correct((3, 4))(lambda x: torch.utils.checkpoint.checkpoint(torch.sin, x, use_reentrant=False))
correct((5, 3))(lambda x: F.normalize(x, dim=-1))
correct((5, 3), (5, 3))(F.smooth_l1_loss)
correct((2, 3, 6, 6), (4, 3, 3, 3), None, 2)(F.conv2d)
correct((4, 3))(torch.nn.LSTMCell(3, 2))
correct((2, 3, 4), (2, 3, 4), (2, 3, 4))(torch.nn.MultiheadAttention(4, 2, batch_first=True))
correct((1,))(torch.nn.Softplus())
correct((2, 3), reference=lambda x: x + (x.round() - x).detach())(
    new_style("StraightThrough", torch.round, saves_inputs, lambda ctx, g: g)
)


@correct((2, 3), (4, 3), (1, 3))
class Concatenate(Function):
    @staticmethod
    def forward(ctx, *tensors):
        ctx.sizes = [t.shape[0] for t in tensors]
        return torch.cat(tensors)

    @staticmethod
    def backward(ctx, g):
        return g.split(ctx.sizes)


@correct((3, 4))
class NumpySort(Function):
    """From PyTorch's notes on torch.func."""

    @staticmethod
    def forward(x):
        dim = -1
        order = np.argsort(x.detach().numpy(), axis=dim)
        back = np.argsort(order, axis=dim)
        return (
            torch.from_numpy(np.take_along_axis(x.detach().numpy(), order, dim)),
            torch.from_numpy(order),
            torch.from_numpy(back),
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, order, back = output
        ctx.mark_non_differentiable(order, back)
        ctx.save_for_backward(order, back)

    @staticmethod
    def backward(ctx, g, _0, _1):
        _, back = ctx.saved_tensors
        return torch.gather(g, -1, back)


@correct((3, 4), (3, 4))
class GradientsOnDemand(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a, b):
        return a / b

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        da = g / b if ctx.needs_input_grad[0] else None
        db = -g * a / b**2 if ctx.needs_input_grad[1] else None
        return da, db


@correct((4, 3), (4,), asking(2, 3))
class UnusedInputs(Function):
    @staticmethod
    def forward(ctx, a, b, c):
        return c * 3

    @staticmethod
    def backward(ctx, g):
        return None, None, 3 * g


@correct((4, 3), (3,))
class IgnoredInput(Function):
    """The second input has no influence: None is its gradient."""

    @staticmethod
    def forward(ctx, a, b):
        return a * 3

    @staticmethod
    def backward(ctx, g):
        return 3 * g, None


@correct((3, 4), dtype=torch.float16)
class HalfInputs(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]


@correct((4, 3), (4, 3), "mean")
class MeanSquare(Function):
    @staticmethod
    def forward(ctx, a, y, reduction):
        ctx.save_for_backward(a, y)
        return F.mse_loss(a, y, reduction=reduction)

    @staticmethod
    def backward(ctx, g):
        a, y = ctx.saved_tensors
        d = 2 * g * (a - y) / max(a.numel(), 1)
        return d, -d, None


@correct((2, 3))
class AddsInPlaceToTwo(Function):
    @staticmethod
    def forward(ctx, x):
        x.add_(1)
        ctx.mark_dirty(x)
        return x, x * 2

    @staticmethod
    def backward(ctx, g1, g2):
        return g1 + 2 * g2


@correct((3, 7))
class BatchStatistics(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.batch_norm(x, None, None, training=True)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        c = x - x.mean(0)
        r = (c.square().mean(0) + 1e-5).rsqrt()
        xhat = c * r
        return r * (g - g.mean(0) - xhat * (g * xhat).mean(0))


@correct((40, 60), (50, 60))
class LargeLinear(Function):
    """Too large for a full Jacobian."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return torch.tanh(x @ w.t())

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        d = g * (1 - torch.tanh(x @ w.t()) ** 2)
        return d @ w, d.t() @ x


@faulty("transposed", (60, 60), (60, 60), tensor="w")
class LargeTransposed(LargeLinear):
    @staticmethod
    def backward(ctx, g):
        dx, dw = LargeLinear.backward(ctx, g)
        return dx, dw.t()
