"""Linear maps: faults of every kind that a matrix product invites, and correct ones."""

from __future__ import annotations

import torch
from gallery import correct, faulty
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class Base(Function):
    """y = x Wᵀ + b, correct; the faulty ones override a part."""

    @staticmethod
    def forward(ctx, input, weight, bias):
        ctx.save_for_backward(input, weight)
        return input @ weight.t() + bias

    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight, g.t() @ input, g.sum(0)


SHAPES = ((4, 3), (5, 3), (5,))
SQUARE = ((4, 3), (3, 3), (3,))


@correct(*SHAPES, reference=torch.nn.functional.linear)
class LinearOld(Base):
    pass


@correct((4, 3), (5, 3), None)
class LinearDocs(Function):
    """As in PyTorch's notes on extending autograd."""

    @staticmethod
    def forward(input, weight, bias):
        output = input.mm(weight.t())
        if bias is not None:
            output += bias.unsqueeze(0).expand_as(output)
        return output

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, weight, bias = inputs
        ctx.save_for_backward(input, weight, bias)

    @staticmethod
    def backward(ctx, grad_output):
        input, weight, bias = ctx.saved_tensors
        grad_input = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_input = grad_output.mm(weight)
        if ctx.needs_input_grad[1]:
            grad_weight = grad_output.t().mm(input)
        if bias is not None and ctx.needs_input_grad[2]:
            grad_bias = grad_output.sum(0)
        return grad_input, grad_weight, grad_bias


correct(*SHAPES)(LinearDocs)
correct((1, 3), (1, 3), (1,))(LinearDocs)


@faulty("transposed", *SQUARE, tensor="weight")
class WeightTransposed(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight, input.t() @ g, g.sum(0)


@faulty("transposed", *SHAPES, tensor="weight")
class WeightTransposedNotSquare(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight, input.t() @ g, g.sum(0)


@faulty("transposed", *SHAPES, tensor="weight")
class WeightReshapedNotTransposed(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight, (input.t() @ g).reshape(weight.shape), g.sum(0)


@faulty("wrong-values", *SQUARE, tensor="input")
class InputThroughTransposedWeight(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight.t(), g.t() @ input, g.sum(0)


@faulty("missing-batch-sum", *SHAPES, tensor="bias")
class BiasNotSummed(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight, g.t() @ input, g


@faulty("missing-batch-sum", *SHAPES, tensor="weight")
class WeightPerExample(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight, g.unsqueeze(2) * input.unsqueeze(1), g.sum(0)


@faulty("constant-factor", *SHAPES, tensor="bias")
class BiasMean(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight, g.t() @ input, g.mean(0)


@faulty("constant-factor", *SHAPES, tensor="weight")
class WeightAveraged(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight, g.t() @ input / input.shape[0], g.sum(0)


@faulty("missing-gradient", *SHAPES, tensor="bias")
class BiasForgotten(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight, g.t() @ input, None


@faulty("missing-gradient", *SHAPES, tensor="input")
class InputZero(Base):
    @staticmethod
    def backward(ctx, g):
        input, _weight = ctx.saved_tensors
        return torch.zeros_like(input), g.t() @ input, g.sum(0)


@faulty("sign-flip", *SHAPES, tensor="weight")
class WeightNegative(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight, -g.t() @ input, g.sum(0)


@faulty("ignores-grad-output", *SHAPES)
class GradOutputIgnored(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        g = torch.ones_like(g)
        return g @ weight, g.t() @ input, g.sum(0)


@faulty("gradient-of-another-input", *SHAPES)
class OrderOfReturn(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g.t() @ input, g @ weight, g.sum(0)


@faulty("needs-input-grad", *SHAPES, tensor="input")
class NeedsIndexOff(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        dx = g @ weight if ctx.needs_input_grad[1] else None
        return dx, g.t() @ input, g.sum(0)


@faulty("needs-input-grad", *SHAPES)
class NeedsAppends(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        grads = [
            f()
            for need, f in zip(
                ctx.needs_input_grad,
                (lambda: g @ weight, lambda: g.t() @ input, lambda: g.sum(0)),
                strict=True,
            )
            if need
        ]
        return tuple(grads + [None] * (3 - len(grads)))


@faulty("needs-input-grad", *SHAPES)
class SavesTooLittle(Base):
    @staticmethod
    def forward(ctx, input, weight, bias):
        ctx.save_for_backward(input if ctx.needs_input_grad[0] else None, weight)
        return input @ weight.t() + bias


@faulty("wrong-shape", *SHAPES, tensor="bias")
class BiasScalar(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight, g.t() @ input, g[:, :2].sum(0)


@faulty("wrong-shape", *SHAPES, tensor="bias")
class BiasKeepsDimension(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight, g.t() @ input, g.sum(0, keepdim=True)


@faulty("wrong-dtype", *SHAPES, tensor="bias")
class BiasInDouble(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight, g.t() @ input, g.double().sum(0)


@faulty("crash", *SHAPES)
class TooFewGradients(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight, g.t() @ input


@faulty("crash", *SHAPES)
class BackwardRaises(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight.t(), g.t() @ input, g.sum(0)


@faulty("non-contiguous", *SHAPES)
class ViewsTheGradient(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        g = g.view(-1).view(input.shape[0], weight.shape[0])
        return g @ weight, g.t() @ input, g.sum(0)


@faulty("non-contiguous", *SHAPES)
class ReadsRawMemory(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        g = g.as_strided(g.shape, (g.shape[1], 1))
        return g @ weight, g.t() @ input, g.sum(0)


@faulty("empty-batch", *SHAPES)
class DividesByBatch(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        scale = 1 / g.shape[0]
        return g @ weight, g.t() @ input * scale / scale, g.sum(0)


@faulty("double-backward-unsupported", *SHAPES)
class ThroughNumpy(Base):
    @staticmethod
    def backward(ctx, g):
        input, weight = (t.detach() for t in ctx.saved_tensors)
        g = g.detach()
        return g @ weight, torch.from_numpy(g.numpy().T @ input.numpy()), g.sum(0)


@faulty("second-backward", *SHAPES)
class FreesWhatItKept(Base):
    @staticmethod
    def forward(ctx, input, weight, bias):
        ctx.kept = (input, weight)
        return input @ weight.t() + bias

    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.kept
        ctx.kept = None
        return g @ weight, g.t() @ input, g.sum(0)


@faulty("nondeterministic", *SHAPES)
class KeepsOnTheClass(Base):
    @staticmethod
    def forward(ctx, input, weight, bias):
        KeepsOnTheClass.kept = (input, weight)
        return input @ weight.t() + bias

    @staticmethod
    def backward(ctx, g):
        input, weight = KeepsOnTheClass.kept
        return g @ weight, g.t() @ input, g.sum(0)


@faulty("vmap-wrong", *SHAPES)
class VmapRuleMixesDims(Function):
    @staticmethod
    def forward(input, weight, bias):
        return input @ weight.mT + bias

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight, g.mT @ input, g.sum(0)

    @staticmethod
    def vmap(info, in_dims, input, weight, bias):
        return VmapRuleMixesDims.apply(
            input[0] if in_dims[0] == 0 else input, weight[0], bias[0]
        ), None


@correct(*SHAPES, dtype=torch.float64)
class LinearOnce(Base):
    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight, g.t() @ input, g.sum(0)


@correct((2, 4, 3), (5, 3), (5,), reference=torch.nn.functional.linear)
class LinearAnyRank(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(input, weight, bias):
        return input @ weight.t() + bias

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        rows = g.reshape(-1, g.shape[-1])
        return g @ weight, rows.t() @ input.reshape(-1, input.shape[-1]), rows.sum(0)

    @staticmethod
    def jvp(ctx, input, weight, bias):
        x, w = ctx.saved_tensors
        return input @ w.t() + x @ weight.t() + bias


@faulty("jvp-disagrees", *SHAPES, tensor="weight")
class JvpForgetsATerm(LinearAnyRank):
    @staticmethod
    def jvp(ctx, input, weight, bias):
        _x, w = ctx.saved_tensors
        return input @ w.t() + bias


@faulty("missing-batch-sum", (2, 4, 3), (5, 3), (5,), tensor="bias")
class SumsOnlyTheFirstDimension(LinearAnyRank):
    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        rows = g.reshape(-1, g.shape[-1])
        return g @ weight, rows.t() @ input.reshape(-1, input.shape[-1]), g.sum(0)


@faulty("forward-wrong", *SHAPES, reference=torch.nn.functional.linear)
class BiasSubtracted(Base):
    @staticmethod
    def forward(ctx, input, weight, bias):
        ctx.save_for_backward(input, weight)
        return input @ weight.t() - bias

    @staticmethod
    def backward(ctx, g):
        input, weight = ctx.saved_tensors
        return g @ weight, g.t() @ input, -g.sum(0)
