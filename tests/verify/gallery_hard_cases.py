"""Cases that a first version got wrong, or might have: fused layers, low precision, empty losses,
large inputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from gallery import asking, correct, faulty, labels, make, positive
from torch.autograd import Function

FUSED = ((4, 3), (2, 3), (2,))


def fused(name, f, slope):
    """a = f(x Wᵀ + b), the gradient with δ = g · slope(z, a)."""

    def forward(ctx, x, w, b):
        z = x @ w.t() + b
        ctx.save_for_backward(x, w, b)
        return f(z)

    def backward(ctx, g):
        x, w, b = ctx.saved_tensors
        z = x @ w.t() + b
        delta = g * slope(z, f(z))
        return delta @ w, delta.t() @ x, delta.sum(0)

    return make(name, forward, backward)


correct(*FUSED)(fused("DenseSigmoid", torch.sigmoid, lambda z, a: a * (1 - a)))
correct(*FUSED)(fused("DenseRelu", torch.relu, lambda z, a: (z > 0).to(z)))
faulty("derivative-at-wrong-point", *FUSED)(
    fused("DenseSigmoidOfA", torch.sigmoid, lambda z, a: torch.sigmoid(a) * (1 - torch.sigmoid(a)))
)
faulty("derivative-at-wrong-point", *FUSED)(
    fused("DenseTanhOfZ", torch.tanh, lambda z, a: 1 - z * z)
)
faulty("wrong-values", *FUSED)(
    fused("DenseWithoutSlope", torch.sigmoid, lambda z, a: torch.ones_like(z))
)
faulty("constant-factor", *FUSED)(fused("DenseTwice", torch.tanh, lambda z, a: 2 * (1 - a * a)))
faulty("sign-flip", *FUSED)(fused("DenseSign", torch.tanh, lambda z, a: a * a - 1))


@faulty("precision", (5, 4))
class ForwardInHalf(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sin(x.half()).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


@faulty("precision", lambda g, d: (torch.randn(4, 50, generator=g) + 300).to(d))
class VarianceByDifference(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x * x).mean(-1) - x.mean(-1) ** 2

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * (x - x.mean(-1, keepdim=True)) * g.unsqueeze(-1) / x.shape[-1]


@correct((4, 3), (4, 3))
class LossThatDividesInPython(Function):
    """For an empty batch the value is 0/0: that the backward raises there is no fault."""

    @staticmethod
    def forward(ctx, a, y):
        ctx.save_for_backward(a, y)
        return (a - y).square().mean()

    @staticmethod
    def backward(ctx, g):
        a, y = ctx.saved_tensors
        scale = 2.0 / a.numel()
        return scale * (a - y) * g, scale * (y - a) * g


@faulty("not-linear-in-grad-output", (4, 3), (2, 3), tensor="w")
class WeightDecayInside(Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w.t()

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w, g.t() @ x + 1e-4 * w


@faulty("mutates-saved", (4, 3), (2, 3))
class WritesIntoSavedInput(Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w.t()

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        dx = g @ w
        return dx, g.t() @ x.mul_(2) / 2


@faulty("needs-input-grad", (4, 3), (2, 3), (2,))
class PositionsMixed(Function):
    """Right when all inputs need a gradient."""

    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x, w)
        return x @ w.t() + b

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        n = ctx.needs_input_grad
        return g @ w if n[0] else None, g.t() @ x if n[2] else None, g.sum(0) if n[1] else None


@faulty("transposed", (2, 3, 4), (2, 4, 4), tensor="b")
class BatchedMatmul(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        return g @ b.mT, g.mT @ a


@faulty("wrong-shape", (4, 3), tensor="x")
class FlattenedGradient(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return (g * ctx.saved_tensors[0].cos()).flatten()


@faulty("crash", (4, 3))
class ForwardFails(Function):
    @staticmethod
    def forward(ctx, x):
        return x @ x

    @staticmethod
    def backward(ctx, g):
        return g


@faulty("crash", (4, 3))
class SqueezesTheBatch(Function):
    """Wrong only for a batch of one."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square().sum(-1)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g.squeeze()[:, None]


@faulty("double-backward-unsupported", (4, 3))
class UnderNoGrad(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        with torch.no_grad():
            return g * ctx.saved_tensors[0].cos()


@faulty("double-backward-wrong", (4, 3), (3,))
class OneTermDetached(Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w * w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g * w * w.detach(), (2 * g * x * w).sum(0)


@faulty("vmap-wrong", (4, 3))
class VmapBreaks(Function):
    """The generated rule cannot run a forward that reads a number out of a tensor."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x * float(x.detach().abs().max() > 0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g * 1.0


@faulty("wrong-values", (3, 4), (4,), 1e-5, tensor="x")
class RmsWithoutEps(Function):
    """A small slip: eps is left out of the backward."""

    @staticmethod
    def forward(ctx, x, w, eps):
        ctx.save_for_backward(x, w)
        return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        r = x.square().mean(-1, keepdim=True).rsqrt()
        xhat = x * r
        d = g * w
        return r * (d - xhat * (d * xhat).mean(-1, keepdim=True)), (g * xhat).sum(0), None


@correct((3, 4), (4,), 1e-5)
class Rms(RmsWithoutEps):
    @staticmethod
    def forward(ctx, x, w, eps):
        ctx.eps = eps
        return RmsWithoutEps.forward(ctx, x, w, eps)

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        r = (x.square().mean(-1, keepdim=True) + ctx.eps).rsqrt()
        xhat = x * r
        d = g * w
        return r * (d - xhat * (d * xhat).mean(-1, keepdim=True)), (g * xhat).sum(0), None


@correct((3, 4), labels(3, 4), positive(4))
class WeightedEntropy(Function):
    """Class weights that are taken as constants would be a missing gradient; here they have one."""

    @staticmethod
    def forward(ctx, z, target, weight):
        ctx.save_for_backward(z, target, weight)
        return -(z.log_softmax(-1) * F.one_hot(target, 4) * weight).sum()

    @staticmethod
    def backward(ctx, g):
        z, target, weight = ctx.saved_tensors
        hot = F.one_hot(target, 4).to(z) * weight
        return (
            g * (z.softmax(-1) * hot.sum(-1, keepdim=True) - hot),
            None,
            -g * (z.log_softmax(-1) * F.one_hot(target, 4)).sum(0),
        )


@correct(asking(3, 4), (3, 4))
class TargetNeedsNone(Function):
    @staticmethod
    def forward(ctx, a, y):
        ctx.save_for_backward(a, y)
        return F.mse_loss(a, y)

    @staticmethod
    def backward(ctx, g):
        a, y = ctx.saved_tensors
        return 2 * g * (a - y) / a.numel(), None


correct((3, 4), dtype=torch.bfloat16)(
    make(
        "BfloatTanh",
        lambda ctx, x: (ctx.save_for_backward(x), x.tanh())[1],
        lambda ctx, g: g * (1 - ctx.saved_tensors[0].tanh() ** 2),
    )
)
correct(lambda g, d: torch.randn(4, 3, generator=g).to(d) * 1e-20)(torch.sin)
correct(lambda g, d: torch.randn(4, 3, generator=g).to(d) * 1e20)(torch.atan)
correct(lambda g, d: torch.randn(4, 5, generator=g).to(d) * 60, labels(4, 5))(F.cross_entropy)
correct(lambda g, d: torch.tensor([[0.0, 0.0, 0.0], [1e-3, 1e3, 1.0]], dtype=d))(
    lambda x: F.layer_norm(x, (3,))
)
correct((3, 3))(lambda x: torch.linalg.svdvals(x))
correct((3, 3))(lambda x: torch.linalg.eigh(x + x.mT).eigenvalues)
correct((4, 3), None, None, None, None, True)(F.batch_norm)
correct(lambda g, d: torch.linspace(-3, 3, 13, dtype=d))(F.hardswish)
correct(lambda g, d: torch.tensor([0.0, 0.0, 2.0], dtype=d))(lambda x: x.norm())
correct(lambda g, d: torch.zeros(3, dtype=d))(lambda x: x.norm())
correct(lambda g, d: torch.tensor([0.0, 1.0, 4.0], dtype=d))(torch.sqrt)
correct((2, 3))(lambda x: x.masked_fill(x > 0, float("-inf")).logsumexp(-1))
correct((4, 3))(lambda x: torch.where(x > 0, x.abs().sqrt(), torch.zeros_like(x)))
correct((3,), dtype=torch.complex128)(lambda z: z.exp())
correct((20, 50), (20, 50))(lambda x, w: (x @ w.mT).tanh())
