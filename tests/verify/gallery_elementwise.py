"""Activations, products and powers."""

from __future__ import annotations

import math

import torch
from gallery import asking, correct, faulty, make, positive
from torch.autograd import Function


def keep(f):
    """forward(ctx, x) that saves x, then y, and returns y = f(x)."""

    def forward(ctx, x):
        y = f(x)
        ctx.save_for_backward(x, y)
        return y

    return forward


def slope(h):
    """backward(ctx, g) = g · h(x, y)"""

    def backward(ctx, g):
        return g * h(*ctx.saved_tensors)

    return backward


SIGMOID, TANH = keep(torch.sigmoid), keep(torch.tanh)
X = (4, 3)

correct(X, reference=torch.sigmoid)(make("SigmoidGood", SIGMOID, slope(lambda x, y: y * (1 - y))))
correct(X)(make("TanhGood", TANH, slope(lambda x, y: 1 - y * y)))
correct(X)(make("ReluGood", keep(torch.relu), slope(lambda x, y: (x > 0).to(x.dtype))))
correct(lambda g, d: torch.tensor([0.0, 0.0, 1.0, -1.0, 1e-7, -1e-9], dtype=d))(
    make("ReluAtKinks", keep(torch.relu), slope(lambda x, y: (x > 0).to(x.dtype)))
)
correct(lambda g, d: torch.zeros(3, 2, dtype=d))(
    make("AbsAtZero", keep(torch.abs), slope(lambda x, y: torch.sign(x)))
)
correct(positive(4, 3))(make("LogGood", keep(torch.log), slope(lambda x, y: 1 / x)))
correct((3,))(make("SignGood", keep(torch.sign), slope(lambda x, y: torch.zeros_like(x))))
correct(lambda g, d: 1e-12 * torch.randn(4, 3, generator=g).to(d))(
    make("TinyValues", keep(lambda x: x * x), slope(lambda x, y: 2 * x))
)
correct(lambda g, d: 1e8 * torch.randn(4, 3, generator=g).to(d))(
    make("LargeValues", keep(lambda x: x * x), slope(lambda x, y: 2 * x))
)
correct(())(make("ScalarInput", keep(torch.exp), slope(lambda x, y: y)))
correct(lambda g, d: torch.tensor([800.0, -800.0, 30.0], dtype=d))(
    make("SigmoidSaturated", SIGMOID, slope(lambda x, y: y * (1 - y)))
)

faulty("derivative-at-wrong-point", X)(
    make("SigmoidOfA", SIGMOID, slope(lambda x, y: torch.sigmoid(y) * (1 - torch.sigmoid(y))))
)
faulty("derivative-at-wrong-point", X)(
    make("SigmoidFormulaOnZ", SIGMOID, slope(lambda x, y: x * (1 - x)))
)
faulty("derivative-at-wrong-point", X)(make("TanhFormulaOnX", TANH, slope(lambda x, y: 1 - x * x)))
faulty("derivative-at-wrong-point", X)(
    make("ExpSavedInput", keep(torch.exp), slope(lambda x, y: x))
)
faulty("derivative-at-wrong-point", positive(4, 3))(
    make("SqrtOfX", keep(torch.sqrt), slope(lambda x, y: 0.5 / x))
)
faulty("derivative-at-wrong-point", positive(4, 3))(
    make("LogOfY", keep(torch.log), slope(lambda x, y: 1 / y))
)
faulty("constant-factor", X)(make("SquareWithoutTwo", keep(lambda x: x * x), slope(lambda x, y: x)))
faulty("constant-factor", X)(
    make("CubeWithFactorTwo", keep(lambda x: x**3), slope(lambda x, y: 2 * x * x))
)
faulty("sign-flip", X)(make("CosWithoutMinus", keep(torch.cos), slope(lambda x, y: torch.sin(x))))
faulty("ignores-grad-output", X)(
    make("TanhWithoutG", TANH, lambda ctx, g: 1 - ctx.saved_tensors[1] ** 2)
)
faulty("not-linear-in-grad-output", X)(
    make("SquaresG", TANH, lambda ctx, g: g * g * (1 - ctx.saved_tensors[1] ** 2))
)
faulty("not-linear-in-grad-output", X)(
    make("AddsOne", TANH, lambda ctx, g: g * (1 - ctx.saved_tensors[1] ** 2) + 1)
)
faulty("not-linear-in-grad-output", X)(
    make("Clips", TANH, lambda ctx, g: (g * (1 - ctx.saved_tensors[1] ** 2)).clamp(-5, 5))
)
faulty("wrong-values", X)(make("MaskForgotten", keep(torch.relu), lambda ctx, g: g.clone()))
faulty("wrong-values", X)(make("TanhWrongFormula", TANH, slope(lambda x, y: 1 - y)))
faulty("precision", X)(
    make("InHalf", TANH, lambda ctx, g: (g.half() * (1 - ctx.saved_tensors[1] ** 2).half()).to(g))
)
faulty("precision", X, dtype=torch.float64)(
    make(
        "InFloat", TANH, lambda ctx, g: (g.float() * (1 - ctx.saved_tensors[1] ** 2).float()).to(g)
    )
)
faulty("wrong-dtype", X, dtype=torch.float64)(
    make("ReturnsFloat", TANH, lambda ctx, g: g.float() * (1 - ctx.saved_tensors[1] ** 2).float())
)
faulty("wrong-values", lambda g, d: torch.tensor([800.0, -800.0, 3.0], dtype=d))(
    make("SigmoidOverflow", SIGMOID, slope(lambda x, y: torch.exp(-x) / (1 + torch.exp(-x)) ** 2))
)
faulty("precision", lambda g, d: torch.tensor([100.0, -100.0, 3.0], dtype=d))(
    make(
        "SigmoidOverflowInFloat",
        SIGMOID,
        slope(lambda x, y: torch.exp(-x) / (1 + torch.exp(-x)) ** 2),
    )
)


@faulty("mutates-grad-output", X)
class ReluInPlaceOnG(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, g):
        g[ctx.saved_tensors[0] < 0] = 0
        return g


@faulty("mutates-input", X)
class ReluInPlaceOnX(Function):
    @staticmethod
    def forward(ctx, x):
        mask = x > 0
        ctx.save_for_backward(mask)
        x.mul_(mask)
        return x * 1

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0]


@faulty("mutates-saved", X)
class WritesIntoSaved(Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.kept = y.clone()
        return y

    @staticmethod
    def backward(ctx, g):
        return ctx.kept.square_().neg_().add_(1).mul_(g).clone()


@faulty("double-backward-wrong", X)
class SavesAnIntermediate(Function):
    @staticmethod
    def forward(ctx, x):
        s = torch.sigmoid(x)
        ctx.save_for_backward(x, s)
        return x * s

    @staticmethod
    def backward(ctx, g):
        x, s = ctx.saved_tensors
        return g * (s + x * s * (1 - s))


@faulty("double-backward-wrong", X)
class SavesOnlyTheIntermediate(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.slope = torch.cos(x)
        return torch.sin(x)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.slope


@faulty("double-backward-unsupported", X)
class UsesNumpy(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sin(x)

    @staticmethod
    def backward(ctx, g):
        return g * torch.from_numpy(ctx.saved_tensors[0].numpy().copy()).cos()


@faulty("gradient-of-another-input", X, X)
class ProductSwapped(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        return g * a, g * b


@faulty("sign-flip", X, X, tensor="b")
class DifferenceWithoutMinus(Function):
    @staticmethod
    def forward(ctx, a, b):
        return a - b

    @staticmethod
    def backward(ctx, g):
        return g, g


@faulty("constant-factor", X, 5.5)
class ConstantForgotten(Function):
    @staticmethod
    def forward(ctx, x, constant):
        return x * constant

    @staticmethod
    def backward(ctx, g):
        return g, None


@faulty("missing-batch-sum", (4, 3), (3,), tensor="scale")
class BroadcastScale(Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        return x * scale

    @staticmethod
    def backward(ctx, g):
        x, scale = ctx.saved_tensors
        return g * scale, g * x


@faulty("nondeterministic", X)
class DropoutDrawsAgain(Function):
    @staticmethod
    def forward(ctx, x):
        return x * (torch.rand_like(x) > 0.5)

    @staticmethod
    def backward(ctx, g):
        return g * (torch.rand_like(g) > 0.5)


COUNTER = [0.0]


@faulty("nondeterministic", X)
class CountsCalls(Function):
    @staticmethod
    def forward(ctx, x):
        COUNTER[0] += 1.0
        return x * COUNTER[0]

    @staticmethod
    def backward(ctx, g):
        return g * COUNTER[0]


@faulty("constant-factor", X, 0.25)
class DropoutWithoutScale(Function):
    @staticmethod
    def forward(ctx, x, p):
        ctx.mask = torch.rand_like(x) > p
        return x * ctx.mask / (1 - p)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.mask, None


@correct(X, 0.25)
class DropoutGood(Function):
    @staticmethod
    def forward(ctx, x, p):
        ctx.p = p
        mask = torch.rand_like(x) > p
        ctx.save_for_backward(mask)
        return x * mask / (1 - p)

    @staticmethod
    def backward(ctx, g):
        (mask,) = ctx.saved_tensors
        return g * mask / (1 - ctx.p), None


@correct(X)
class ExpDocs(Function):
    @staticmethod
    def forward(ctx, i):
        result = i.exp()
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx, grad_output):
        (result,) = ctx.saved_tensors
        return grad_output * result


@correct(X, 5.5)
class MulConstantDocs(Function):
    @staticmethod
    def forward(ctx, tensor, constant):
        ctx.set_materialize_grads(False)
        ctx.constant = constant
        return tensor * constant

    @staticmethod
    def backward(ctx, grad_output):
        if grad_output is None:
            return None, None
        return grad_output * ctx.constant, None


@correct(X)
class CubeDocs(Function):
    """Returns its derivative beside the value, so that double backward sees it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3, 3 * x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        (x,) = inputs
        ctx.save_for_backward(x, output[1])
        ctx.save_for_forward(x, output[1])

    @staticmethod
    def backward(ctx, grad_output, grad_dx):
        x, dx = ctx.saved_tensors
        return grad_output * dx + grad_dx * 6 * x

    @staticmethod
    def jvp(ctx, x_t):
        x, dx = ctx.saved_tensors
        return x_t * dx, 6 * x * x_t


@faulty("jvp-disagrees", X)
class CubeWrongJvp(CubeDocs):
    @staticmethod
    def jvp(ctx, x_t):
        x, dx = ctx.saved_tensors
        return x_t * dx, 3 * x * x_t


@faulty("ignores-grad-output", X)
class CubeOneOutput(CubeDocs):
    @staticmethod
    def backward(ctx, grad_output, grad_dx):
        _x, dx = ctx.saved_tensors
        return grad_output * dx


@correct(X)
class InPlaceDocs(Function):
    @staticmethod
    def forward(ctx, x):
        x.mul_(2)
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


@correct(X)
class ReturnsItsInput(Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, g):
        return g


@correct(X)
class ReturnsAView(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        return x.view(-1)

    @staticmethod
    def backward(ctx, g):
        return g.reshape(ctx.shape)


@correct(X, X)
class SeveralOutputs(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b, a + b, "done", None

    @staticmethod
    def backward(ctx, g1, g2, *_):
        a, b = ctx.saved_tensors
        return g1 * b + g2, g1 * a + g2


@correct(X, X)
class SomeGradientsAreNone(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(a, b)
        return a * 2, b * b

    @staticmethod
    def backward(ctx, g1, g2):
        _a, b = ctx.saved_tensors
        return None if g1 is None else 2 * g1, None if g2 is None else 2 * b * g2


@faulty("crash", X, X)
class NoneNotHandled(SomeGradientsAreNone):
    @staticmethod
    def backward(ctx, g1, g2):
        _a, b = ctx.saved_tensors
        return 2 * g1, 2 * b * g2


@correct(asking(4, 3), (4, 3))
class NeedsNoGradientForB(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(b)
        return a * b

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0], None


@correct(X, "tanh", None, 3, True)
class StringAndNone(Function):
    @staticmethod
    def forward(ctx, x, kind, nothing, count, flag):
        y = getattr(torch, kind)(x) * count
        ctx.save_for_backward(y)
        ctx.count = count
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (ctx.count - y * y / ctx.count), None, None, None, None


@correct(X)
class FloatInside(Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x.float())
        ctx.save_for_backward(y)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return (g.float() * (1 - y * y)).to(g.dtype)


@correct(X)
class FloatOnly(Function):
    @staticmethod
    def forward(ctx, x):
        if x.dtype != torch.float32:
            raise TypeError("float32 only")
        y = torch.sin(x)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * torch.cos(x)


@correct(X)
class AmpDecorators(Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


@correct(X, -0.5, 0.5)
def clamp(x, low, high):
    return x.clamp(low, high)


@correct((4, 3))
def lambda_like(x):
    return (x.sin() * x).sum()


correct((4, 3))(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.LayerNorm(4)))
correct((4, 3))(torch.nn.BatchNorm1d(3))
correct((4, 3))(
    torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(inplace=True), torch.nn.Dropout(0.3))
)
correct((3,), dtype=torch.complex64)(lambda z: (z * z.conj()).real)


@faulty("missing-gradient", X)
def detached(x):
    return x.detach() * math.pi
