"""A second gallery, written after the first was green and run blind: other operations, sizes and styles."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from gallery import asking, correct, faulty, labels, make, positive
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def new_style(name, forward, setup, backward, **more):
    # apply reads forward's signature, which built-in functions lack, and counts its defaults as arguments
    count = forward.__code__.co_argcount if type(forward) is type(simple) and not forward.__defaults__ else 1
    wrapped = forward if count == 2 else (lambda x: forward(x))
    parts = {"forward": staticmethod(wrapped), "setup_context": staticmethod(setup), "backward": staticmethod(backward)}
    return type(name, (Function,), {**parts, **more})


def saves_inputs(ctx, inputs, output):
    ctx.save_for_backward(*(i for i in inputs if isinstance(i, torch.Tensor)))


def simple(name, f, df):
    """y = f(x), gradient g · df(x)."""
    return new_style(name, f, saves_inputs, lambda ctx, g: g * df(ctx.saved_tensors[0]))


# ---------------------------------------------------------------- activations

X = (6, 2)
faulty("derivative-at-wrong-point", X)(simple("SoftplusAtOutput", F.softplus, lambda x: torch.sigmoid(F.softplus(x))))
faulty("wrong-values", X)(
    simple("GeluTanhForErf", F.gelu, lambda x: 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
)
faulty("wrong-values", X)(simple("SiluFirstTermOnly", F.silu, torch.sigmoid))
faulty("wrong-values", X)(
    simple("LeakySlopeInverted", lambda x: F.leaky_relu(x, 0.1), lambda x: torch.where(x > 0, 1.0, 10.0).to(x))
)
faulty("not-linear-in-grad-output", X)(new_style("MaskFromG", torch.relu, saves_inputs, lambda ctx, g: g * (g > 0)))
faulty("not-linear-in-grad-output", X)(
    new_style("NormalisesG", torch.sin, saves_inputs, lambda ctx, g: g / g.norm() * ctx.saved_tensors[0].cos())
)
faulty("derivative-at-wrong-point", ())(simple("ScalarSinAtOutput", torch.sin, lambda x: torch.cos(torch.sin(x))))
faulty("constant-factor", ())(simple("ScalarSquare", lambda x: x * x, lambda x: x))
faulty("sign-flip", (1,))(simple("ReciprocalSign", lambda x: 1 / x, lambda x: 1 / x**2))
faulty("derivative-at-wrong-point", positive(5, 2))(simple("ReciprocalOfOutput", lambda x: 1 / x, lambda x: -(x**2)))
faulty("ignores-grad-output", (3, 3))(
    new_style("ExpShapeOnly", torch.exp, saves_inputs, lambda ctx, g: ctx.saved_tensors[0].exp())
)
faulty("missing-gradient", (3, 3))(
    new_style("RoundedMask", torch.atan, saves_inputs, lambda ctx, g: g * 0 * ctx.saved_tensors[0])
)
faulty("derivative-at-wrong-point", X)(
    new_style(
        "EluFormulaOnX",
        lambda x: torch.tanh(x) * 2,
        saves_inputs,
        lambda ctx, g: g * (2 - ctx.saved_tensors[0] ** 2 / 2),
    )
)
faulty("precision", (8, 8))(simple("ThroughBfloat", torch.atan, lambda x: (1 / (1 + x * x)).bfloat16().to(x)))
faulty("mutates-grad-output", (3, 2, 4))(new_style("ScalesG", lambda x: 3 * x, saves_inputs, lambda ctx, g: g.mul_(3)))
faulty("jvp-disagrees", X)(
    new_style(
        "SinJvpSign",
        torch.sin,
        lambda ctx, inputs, output: (ctx.save_for_backward(*inputs), ctx.save_for_forward(*inputs))[0],
        lambda ctx, g: g * ctx.saved_tensors[0].cos(),
        jvp=staticmethod(lambda ctx, t: -t * ctx.saved_tensors[0].cos()),
    )
)
faulty("second-backward", X)(
    make(
        "PopsFromCtx",
        lambda ctx, x: (setattr(ctx, "stack", [x]), x.sin())[1],
        lambda ctx, g: g * ctx.stack.pop().cos(),
    )
)


@faulty("mutates-saved", X)
class ClampsSaved(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x.detach().clone()
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx, g):
        mask = ctx.x.abs_() <= 1
        return g * mask


@faulty("mutates-input", X)
class CentresInput(Function):
    @staticmethod
    def forward(ctx, x):
        x -= x.mean(0)
        ctx.save_for_backward(x.clone())
        return x**2

    @staticmethod
    def backward(ctx, g):
        d = 2 * g * ctx.saved_tensors[0]
        return d - d.mean(0)


# ---------------------------------------------------------------- products, reductions, linear algebra


@faulty("transposed", (3, 3), (3, 3), tensor="b")
class MatmulTransposed(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        return g @ b.t(), g.t() @ a


@faulty("transposed", (2, 4), (2, 4), (4, 4), tensor="a")
class BilinearTransposed(Function):
    @staticmethod
    def forward(ctx, x, y, a):
        ctx.save_for_backward(x, y, a)
        return torch.einsum("bi,ij,bj->b", x, a, y)

    @staticmethod
    def backward(ctx, g):
        x, y, a = ctx.saved_tensors
        g = g.unsqueeze(-1)
        return g * (y @ a.t()), g * (x @ a), torch.einsum("bi,bj->ij", g * y, x)


@faulty("gradient-of-another-input", (5,), (5,))
class DotSwapped(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return (a * b).sum()

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        return g * a, g * b


faulty("wrong-values", (3, 5))(
    new_style("CumsumForward", lambda x: x.cumsum(-1), saves_inputs, lambda ctx, g: g.cumsum(-1))
)
faulty("constant-factor", (4, 3))(
    new_style("MeanOverWrongSize", lambda x: x.mean(0), saves_inputs, lambda ctx, g: (g / 3).expand(4, 3))
)
faulty("constant-factor", (6,))(
    new_style(
        "VarianceBiased",
        lambda x: x.var(),
        saves_inputs,
        lambda ctx, g: g * 2 * (ctx.saved_tensors[0] - ctx.saved_tensors[0].mean()) / 6,
    )
)
faulty("wrong-shape", (3, 4))(new_style("ReturnsVector", lambda x: x.sum(0), saves_inputs, lambda ctx, g: g))
faulty("missing-batch-sum", (5, 4), (1, 4), tensor="b")(
    new_style("AddBroadcast", lambda a, b: a + b, saves_inputs, lambda ctx, g: (g, g))
)
faulty("missing-batch-sum", (2, 3, 4), (), tensor="s")(
    new_style(
        "ScalarScale",
        lambda a, s: a * s,
        saves_inputs,
        lambda ctx, g: (g * ctx.saved_tensors[1], g * ctx.saved_tensors[0]),
    )
)
faulty("needs-input-grad", (3, 4), (3, 4), tensor="a")(
    new_style(
        "EarlyNone",
        lambda a, b: a * b,
        saves_inputs,
        lambda ctx, g: (
            (g * ctx.saved_tensors[1], g * ctx.saved_tensors[0]) if ctx.needs_input_grad[1] else (None, None)
        ),
    )
)
faulty("double-backward-wrong", (4, 4))(
    make(
        "NormSavesDetached",
        lambda ctx, x: (ctx.save_for_backward(x, x.norm()), x.norm())[1].clone(),
        lambda ctx, g: g * ctx.saved_tensors[0] / ctx.saved_tensors[1],
    )
)
faulty("double-backward-unsupported", (3, 3))(
    make(
        "InverseInNumpy",
        lambda ctx, x: (ctx.save_for_backward(x), torch.linalg.inv(x))[1],
        lambda ctx, g: (
            -torch.from_numpy(
                np.linalg.inv(ctx.saved_tensors[0].detach().numpy()).T
                @ g.detach().numpy()
                @ np.linalg.inv(ctx.saved_tensors[0].detach().numpy()).T
            )
        ),
    )
)
faulty("empty-batch", (4, 3))(
    new_style("MeanPerRowDivides", lambda x: x * 2, saves_inputs, lambda ctx, g: g * (2 * len(g) / len(g)))
)
faulty("non-contiguous", (4, 3))(
    new_style(
        "FlattensWithView",
        lambda x: x * 2,
        saves_inputs,
        lambda ctx, g: (g.view(-1) * 2).view(4, 3) if g.shape[0] == 4 else g * 2,
    )
)
faulty("nondeterministic", (4, 3))(
    make("NoisyBackward", lambda ctx, x: x * 2, lambda ctx, g: 2 * g + 1e-3 * torch.randn_like(g))
)


# ---------------------------------------------------------------- losses, layers, attention


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
        lambda ctx, g: ctx.saved_tensors[0] * (g - (g * ctx.saved_tensors[0]).sum(-1, keepdim=True)),
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
        return F.conv1d(g, w.transpose(0, 1), padding=1), torch.nn.grad.conv1d_weight(x, w.shape, g, padding=1)


@faulty("constant-factor", lambda g, d: torch.tensor([[0, 2, 2], [1, 3, 0]]), (4, 3), tensor="table")
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
        return torch.from_numpy(g.numpy().astype(np.float64) * (1 - np.tanh(x.numpy().astype(np.float64)) ** 2))


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


# ---------------------------------------------------------------- correct

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
            g * torch.where(ctx.saved_tensors[0] > 0, torch.ones_like(ctx.saved_tensors[0]), ctx.saved_tensors[1]),
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
