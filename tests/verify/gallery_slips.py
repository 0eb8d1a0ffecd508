"""Slips in the style of other people's code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from gallery import asking, faulty, labels, make, positive
from gallery_layers import Attention, LayerNorm
from torch.autograd import Function

M = (3, 4)


def elementwise(name, f, df):
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return f(x)

    return make(name, forward, lambda ctx, g: g * df(ctx.saved_tensors[0], f(ctx.saved_tensors[0])))


faulty("constant-factor", M)(elementwise("CubeWithoutThree", lambda x: x**3, lambda x, y: x**2))
faulty("derivative-at-wrong-point", M)(
    elementwise("CubeAtOutput", lambda x: x**3, lambda x, y: 3 * y**2)
)
faulty("derivative-at-wrong-point", M)(
    elementwise("AtanAtOutput", torch.atan, lambda x, y: 1 / (1 + y * y))
)
faulty("derivative-at-wrong-point", M)(
    elementwise("SoftsignAtOutput", F.softsign, lambda x, y: 1 / (1 + y.abs()) ** 2)
)
faulty("derivative-at-wrong-point", M)(
    elementwise("XSinAtOutput", lambda x: x * x.sin(), lambda x, y: y.sin() + y * y.cos())
)
faulty("wrong-values", M)(
    elementwise(
        "LeakyMinus",
        lambda x: F.leaky_relu(x, 0.1),
        lambda x, y: torch.where(x > 0, 1.0, -0.1).to(x),
    )
)
faulty("sign-flip", positive(3, 3))(
    elementwise("RsqrtSign", torch.rsqrt, lambda x, y: 0.5 * x**-1.5)
)
faulty("sign-flip", ())(elementwise("ScalarCos", torch.cos, lambda x, y: x.sin()))
faulty("constant-factor", (1,))(
    elementwise("OneElementSquare", lambda x: x * x, lambda x, y: 4 * x)
)


@faulty("transposed", (3,), (2, 3), tensor="w")
class VectorLinear(Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return w @ x

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return w.t() @ g, torch.outer(x, g)


@faulty("gradient-of-another-input", (3,), (4,))
class OuterSwapped(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return torch.outer(a, b)

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        return g.t() @ a, g @ b


@faulty("constant-factor", M, labels(3, 4), 2.5)
class TemperatureForgotten(Function):
    @staticmethod
    def forward(ctx, z, y, temperature):
        ctx.save_for_backward(z, y)
        ctx.t = temperature
        return F.cross_entropy(z / temperature, y)

    @staticmethod
    def backward(ctx, g):
        z, y = ctx.saved_tensors
        return g * ((z / ctx.t).softmax(-1) - F.one_hot(y, 4)) / len(y), None, None


@faulty("wrong-values", M, M)
class AbsoluteErrorAsSquare(Function):
    @staticmethod
    def forward(ctx, a, y):
        ctx.save_for_backward(a, y)
        return (a - y).abs().sum()

    @staticmethod
    def backward(ctx, g):
        a, y = ctx.saved_tensors
        return g * (a - y), g * (y - a)


@faulty("mutates-input", M)
class InPlaceNotDeclared(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x > 0)
        return x.clamp_(min=0)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0]


@faulty("second-backward", M)
class AccumulatesOnCtx(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.calls = 0
        return x * 2

    @staticmethod
    def backward(ctx, g):
        ctx.calls += 1
        return 2 * g * ctx.calls


@faulty("wrong-values", (3, 3), (3, 3), (3,), tensor="b")
class SumsOverTheWrongDimension(Function):
    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x, w)
        return x @ w.t() + b

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w, g.t() @ x, g.sum(1)


@faulty("wrong-values", (5,))
class LastElementForgotten(Function):
    @staticmethod
    def forward(ctx, x):
        return x.flip(0)

    @staticmethod
    def backward(ctx, g):
        out = g.flip(0).clone()
        out[-1] = 0
        return out


@faulty("wrong-values", (3, 5))
class ArgminForArgmax(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.amax(-1)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return F.one_hot(x.argmin(-1), 5) * g.unsqueeze(-1)


@faulty("gradient-of-another-input", (2, 4, 3), (2, 4, 3), (2, 4, 3))
class KeysValuesSwapped(Attention):
    @staticmethod
    def backward(ctx, g):
        dq, dk, dv = Attention.backward(ctx, g)
        return dq, dv, dk


@faulty("wrong-values", (2, 4, 3), (2, 4, 3), (2, 4, 3), tensor="q")
class SoftmaxJacobianForgotten(Attention):
    @staticmethod
    def backward(ctx, g):
        q, k, v, p, _ = Attention.parts(ctx, g)
        ds = p * (g @ v.mT) / 3**0.5
        return ds @ k, ds.mT @ q, p.mT @ g


@faulty("sign-flip", (4, 6), (6,), (6,), tensor="beta")
class NormBetaSign(LayerNorm):
    @staticmethod
    def backward(ctx, g):
        dx, dgamma, dbeta = LayerNorm.backward(ctx, g)
        return dx, dgamma, -dbeta


@faulty("missing-gradient", (4, 6), (6,), (6,), tensor="x")
class NormInputNone(LayerNorm):
    @staticmethod
    def backward(ctx, g):
        return None, *LayerNorm.backward(ctx, g)[1:]


@faulty("double-backward-wrong", (4, 6), (6,))
class NormSavesStatistics(Function):
    @staticmethod
    def forward(ctx, x, w):
        r = x.square().mean(-1, keepdim=True).rsqrt()
        ctx.save_for_backward(x * r, w, r)
        return x * r * w

    @staticmethod
    def backward(ctx, g):
        h, w, r = ctx.saved_tensors
        d = g * w
        return r * (d - h * (d * h).mean(-1, keepdim=True)), (g * h).sum(0)


@faulty("jvp-disagrees", (3, 2), (4, 2))
class JvpTransposed(Function):
    @staticmethod
    def forward(x, w):
        return x @ w.t()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w, g.t() @ x

    @staticmethod
    def jvp(ctx, xt, wt):
        x, w = ctx.saved_tensors
        return 2 * xt @ w.t() + x @ wt.t()


@faulty(
    "precision",
    lambda g, d: (torch.randn(4, 5, generator=g) * 50 + 60).to(d),
    reference=lambda x: x.logsumexp(-1),
)
def naive_logsumexp(x):
    return x.exp().sum(-1).log()


@faulty("wrong-dtype", M, M, tensor="b")
class HalfGradient(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        return g * b, (g * a).half()


@faulty("empty-batch", (4, 3))
class NormalisesByMax(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        scale = g.abs().max()
        return (g / scale) * x.cos() * scale


@faulty("nondeterministic", asking(3, 4))
class GlobalAccumulator(Function):
    total = 0.0

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        GlobalAccumulator.total += 1.0
        return 2 * g + GlobalAccumulator.total


@faulty("needs-input-grad", (3, 4), (3, 4), (3, 4))
class AllOrNothing(Function):
    @staticmethod
    def forward(ctx, a, b, c):
        ctx.save_for_backward(a, b, c)
        return a * b * c

    @staticmethod
    def backward(ctx, g):
        a, b, c = ctx.saved_tensors
        if not all(ctx.needs_input_grad):
            return g * b * c, None, None
        return g * b * c, g * a * c, g * a * b


@faulty("constant-factor", (2, 2, 5), (3, 2, 3), tensor="w")
class ConvolutionWeightMean(Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return F.conv1d(x, w)

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return torch.nn.grad.conv1d_input(x.shape, w, g), torch.nn.grad.conv1d_weight(
            x, w.shape, g
        ) / x.shape[0]


@faulty("transposed", (2, 3, 5), (3, 3, 2), tensor="w")
class ConvolutionChannelsExchanged(Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return F.conv1d(x, w)

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return torch.nn.grad.conv1d_input(x.shape, w, g), torch.nn.grad.conv1d_weight(
            x, w.shape, g
        ).transpose(0, 1)


@faulty("vmap-wrong", (3, 4), (4,))
class VmapSumsTheBatch(Function):
    @staticmethod
    def forward(x, w):
        return (x * w).sum(-1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g.unsqueeze(-1) * w, (g.unsqueeze(-1) * x).flatten(0, -2).sum(0)

    @staticmethod
    def vmap(info, in_dims, x, w):
        x = (
            x.movedim(in_dims[0], 0)
            if in_dims[0] is not None
            else x.expand(info.batch_size, *x.shape)
        )
        w = w.movedim(in_dims[1], 0).mean(0) if in_dims[1] is not None else w
        return VmapSumsTheBatch.apply(x, w), 0
