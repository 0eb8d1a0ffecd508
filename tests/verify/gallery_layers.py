"""Normalisation, softmax cross-entropy, convolution, embedding, reductions, attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from gallery import asking, correct, faulty, labels, positive
from torch.autograd import Function


class LayerNorm(Function):
    @staticmethod
    def forward(ctx, x, gamma, beta):
        y = F.layer_norm(x, x.shape[-1:], gamma, beta)
        ctx.save_for_backward(x, gamma)
        return y

    @staticmethod
    def parts(ctx):
        x, gamma = ctx.saved_tensors
        centred = x - x.mean(-1, keepdim=True)
        rstd = (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        return x, gamma, centred * rstd, rstd

    @staticmethod
    def backward(ctx, g):
        _x, gamma, xhat, rstd = LayerNorm.parts(ctx)
        d = g * gamma
        dx = rstd * (d - d.mean(-1, keepdim=True) - xhat * (d * xhat).mean(-1, keepdim=True))
        return dx, (g * xhat).sum(0), g.sum(0)


NORM = ((4, 6), (6,), (6,))
correct(*NORM, reference=lambda x, g, b: F.layer_norm(x, (6,), g, b))(LayerNorm)


@faulty("wrong-values", *NORM, tensor="x")
class NormWithoutMeanTerms(LayerNorm):
    @staticmethod
    def backward(ctx, g):
        _x, gamma, xhat, rstd = LayerNorm.parts(ctx)
        return rstd * g * gamma, (g * xhat).sum(0), g.sum(0)


@faulty("wrong-values", *NORM, tensor="x")
class NormWithoutGamma(LayerNorm):
    @staticmethod
    def backward(ctx, g):
        _x, _gamma, xhat, rstd = LayerNorm.parts(ctx)
        dx = rstd * (g - g.mean(-1, keepdim=True) - xhat * (g * xhat).mean(-1, keepdim=True))
        return dx, (g * xhat).sum(0), g.sum(0)


@faulty("gradient-of-another-input", *NORM)
class NormGammaBetaSwapped(LayerNorm):
    @staticmethod
    def backward(ctx, g):
        dx, dgamma, dbeta = LayerNorm.backward(ctx, g)
        return dx, dbeta, dgamma


@faulty("missing-batch-sum", *NORM, tensor="gamma")
class NormGammaNotSummed(LayerNorm):
    @staticmethod
    def backward(ctx, g):
        _, _, xhat, _ = LayerNorm.parts(ctx)
        dx, _, dbeta = LayerNorm.backward(ctx, g)
        return dx, g * xhat, dbeta


@faulty("constant-factor", *NORM, tensor="gamma")
class NormGammaMean(LayerNorm):
    @staticmethod
    def backward(ctx, g):
        dx, dgamma, dbeta = LayerNorm.backward(ctx, g)
        return dx, dgamma / g.shape[0], dbeta


class CrossEntropy(Function):
    """Mean over the batch."""

    @staticmethod
    def forward(ctx, logits, target):
        ctx.save_for_backward(logits, target)
        return F.cross_entropy(logits, target)

    @staticmethod
    def difference(ctx):
        logits, target = ctx.saved_tensors
        return torch.softmax(logits, -1) - F.one_hot(target, logits.shape[-1]).to(logits.dtype)

    @staticmethod
    def backward(ctx, g):
        d = CrossEntropy.difference(ctx)
        return g * d / max(d.shape[0], 1), None


LOSS = ((5, 7), labels(5, 7))
correct(*LOSS, reference=F.cross_entropy)(CrossEntropy)


@faulty("constant-factor", *LOSS)
class EntropyNotAveraged(CrossEntropy):
    @staticmethod
    def backward(ctx, g):
        return g * CrossEntropy.difference(ctx), None


@faulty("sign-flip", *LOSS)
class EntropySign(CrossEntropy):
    @staticmethod
    def backward(ctx, g):
        d = CrossEntropy.difference(ctx)
        return -g * d / d.shape[0], None


@faulty("ignores-grad-output", *LOSS)
class EntropyWithoutG(CrossEntropy):
    @staticmethod
    def backward(ctx, g):
        d = CrossEntropy.difference(ctx)
        return d / d.shape[0], None


@faulty("wrong-values", *LOSS)
class EntropyWithoutOneHot(CrossEntropy):
    @staticmethod
    def backward(ctx, g):
        logits, _target = ctx.saved_tensors
        return g * torch.softmax(logits, -1) / logits.shape[0], None


@faulty("precision", lambda g, d: (torch.randn(5, 7, generator=g) * 60).to(d), labels(5, 7))
class EntropyNaive(Function):
    """exp overflows in float32 from 89 on."""

    @staticmethod
    def forward(ctx, logits, target):
        ctx.save_for_backward(logits, target)
        return F.cross_entropy(logits, target)

    @staticmethod
    def backward(ctx, g):
        logits, target = ctx.saved_tensors
        p = logits.exp() / logits.exp().sum(-1, keepdim=True)
        return g * (p - F.one_hot(target, 7)) / max(logits.shape[0], 1), None


@correct((3, 5))
class Softmax(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return torch.softmax(x, -1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return y * (g - (g * y).sum(-1, keepdim=True))


correct(lambda g, d: torch.randn(3, 5, generator=g).to(d) * 200)(Softmax)


@faulty("wrong-values", (3, 5))
class SoftmaxDiagonalOnly(Softmax):
    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * y * (1 - y)


@faulty("vmap-wrong", (3, 5))
class SoftmaxAbsoluteAxis(Softmax):
    """Right alone; under its own vmap rule the axis is counted from the wrong end."""

    generate_vmap_rule = False

    @staticmethod
    def vmap(info, in_dims, x):
        return SoftmaxAbsoluteAxis.apply(x.movedim(in_dims[0], -1)), -1


class Convolution(Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        dx = torch.nn.grad.conv2d_input(x.shape, weight, g, padding=1)
        dw = torch.nn.grad.conv2d_weight(x, weight.shape, g, padding=1)
        return dx, dw, g.sum((0, 2, 3))


CONV = ((2, 2, 5, 5), (3, 2, 3, 3), (3,))
correct(*CONV, reference=lambda x, w, b: F.conv2d(x, w, b, padding=1))(Convolution)


@faulty("missing-batch-sum", *CONV, tensor="bias")
class ConvolutionBiasNotSummed(Convolution):
    @staticmethod
    def backward(ctx, g):
        dx, dw, _ = Convolution.backward(ctx, g)
        return dx, dw, g.sum((2, 3))


@faulty("missing-batch-sum", *CONV, tensor="bias")
class ConvolutionBiasWhole(Convolution):
    @staticmethod
    def backward(ctx, g):
        dx, dw, _ = Convolution.backward(ctx, g)
        return dx, dw, g


@faulty("wrong-values", *CONV, tensor="weight")
class ConvolutionKernelFlipped(Convolution):
    @staticmethod
    def backward(ctx, g):
        dx, dw, db = Convolution.backward(ctx, g)
        return dx, dw.flip(-1, -2), db


@faulty("transposed", *CONV, tensor="weight")
class ConvolutionKernelTransposed(Convolution):
    @staticmethod
    def backward(ctx, g):
        dx, dw, db = Convolution.backward(ctx, g)
        return dx, dw.mT, db


@faulty("constant-factor", *CONV, tensor="bias")
class ConvolutionBiasMean(Convolution):
    @staticmethod
    def backward(ctx, g):
        dx, dw, _ = Convolution.backward(ctx, g)
        return dx, dw, g.mean((0, 2, 3))


class Embedding(Function):
    @staticmethod
    def forward(ctx, index, table):
        ctx.save_for_backward(index)
        ctx.rows = table.shape[0]
        return table[index]

    @staticmethod
    def backward(ctx, g):
        (index,) = ctx.saved_tensors
        table = g.new_zeros(ctx.rows, g.shape[-1])
        return None, table.index_add(0, index, g)


TABLE = (lambda g, d: torch.tensor([1, 4, 1, 2, 1]), (6, 3))
correct(*TABLE, reference=F.embedding)(Embedding)


@faulty("wrong-values", *TABLE, tensor="table")
class EmbeddingOverwrites(Embedding):
    """Repeated indices must add up; assignment keeps one of them."""

    @staticmethod
    def backward(ctx, g):
        (index,) = ctx.saved_tensors
        table = g.new_zeros(ctx.rows, g.shape[-1])
        table[index] = g
        return None, table


@faulty("wrong-dtype", *TABLE, tensor="table", dtype=torch.float64)
class EmbeddingDefaultDtype(Embedding):
    @staticmethod
    def backward(ctx, g):
        (index,) = ctx.saved_tensors
        return None, torch.zeros(ctx.rows, g.shape[-1]).index_add(0, index, g.float())


@correct((4, 3))
class Mean(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        return x.mean()

    @staticmethod
    def backward(ctx, g):
        return (g / max(ctx.shape.numel(), 1)).expand(ctx.shape)


@faulty("wrong-shape", (4, 3))
class SumNotExpanded(Mean):
    @staticmethod
    def forward(ctx, x):
        return x.sum()

    @staticmethod
    def backward(ctx, g):
        return g


@faulty("constant-factor", (4, 3))
class MeanWithoutDivision(Mean):
    @staticmethod
    def backward(ctx, g):
        return g.expand(ctx.shape)


@correct((4, 5))
class MaxOverRows(Function):
    """The index is no derivative's business."""

    @staticmethod
    def forward(ctx, x):
        value, index = x.max(-1)
        ctx.mark_non_differentiable(index)
        ctx.save_for_backward(index)
        ctx.columns = x.shape[-1]
        return value, index

    @staticmethod
    def backward(ctx, g, _):
        (index,) = ctx.saved_tensors
        return g.new_zeros(*index.shape, ctx.columns).scatter(
            -1, index.unsqueeze(-1), g.unsqueeze(-1)
        )


correct(lambda g, d: torch.ones(2, 3, dtype=d))(MaxOverRows)


@faulty("wrong-values", (4, 5))
class MaxSpreadsToAll(MaxOverRows):
    @staticmethod
    def backward(ctx, g, _):
        return g.unsqueeze(-1).expand(*g.shape, ctx.columns) / 2


@correct((4, 3))
class Norm(Function):
    @staticmethod
    def forward(ctx, x):
        y = x.norm(dim=-1)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        return g.unsqueeze(-1) * x / y.unsqueeze(-1)


@faulty("constant-factor", (4, 3), (4, 3))
class SquaredErrorWithoutTwo(Function):
    @staticmethod
    def forward(ctx, a, y):
        ctx.save_for_backward(a, y)
        return (a - y).square().mean()

    @staticmethod
    def backward(ctx, g):
        a, y = ctx.saved_tensors
        d = g * (a - y) / a.numel()
        return d, -d


@faulty("mutates-saved", (4, 3))
class SharesOneBuffer(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.buffer = torch.zeros_like(x)
        return x.sum(0)

    @staticmethod
    def backward(ctx, g):
        return ctx.buffer.copy_(g.expand_as(ctx.buffer))


BUFFER: list[torch.Tensor] = []


@faulty("second-backward", (4, 3))
class SharesAGlobalBuffer(Function):
    @staticmethod
    def forward(ctx, x):
        BUFFER[:] = [torch.zeros_like(x)]
        return x.sum(0)

    @staticmethod
    def backward(ctx, g):
        return BUFFER[0].copy_(g.detach().expand_as(BUFFER[0]))


class Attention(Function):
    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v)
        return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v

    @staticmethod
    def parts(ctx, g):
        q, k, v = ctx.saved_tensors
        p = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
        dp = g @ v.mT
        return q, k, v, p, p * (dp - (dp * p).sum(-1, keepdim=True))

    @staticmethod
    def backward(ctx, g):
        q, k, _v, p, ds = Attention.parts(ctx, g)
        ds = ds / q.shape[-1] ** 0.5
        return ds @ k, ds.mT @ q, p.mT @ g


HEADS = ((2, 4, 3), (2, 4, 3), (2, 4, 3))
correct(*HEADS, reference=F.scaled_dot_product_attention)(Attention)
correct((4, 4), (4, 4), (4, 4))(Attention)


@faulty("constant-factor", *HEADS)
class AttentionWithoutRoot(Attention):
    @staticmethod
    def backward(ctx, g):
        q, k, _v, p, ds = Attention.parts(ctx, g)
        return ds @ k, ds.mT @ q, p.mT @ g


@faulty("gradient-of-another-input", *HEADS)
class AttentionKeysQueriesSwapped(Attention):
    @staticmethod
    def backward(ctx, g):
        dq, dk, dv = Attention.backward(ctx, g)
        return dk, dq, dv


@faulty("wrong-values", *HEADS, tensor="v")
class AttentionValuesThroughP(Attention):
    @staticmethod
    def backward(ctx, g):
        _q, _k, _v, p, _ds = Attention.parts(ctx, g)
        dq, dk, _ = Attention.backward(ctx, g)
        return dq, dk, p @ g


@faulty("missing-gradient", asking(3, 4), asking(3, 4), asking(3, 4), tensor="k")
class AttentionKeysForgotten(Attention):
    @staticmethod
    def backward(ctx, g):
        dq, _, dv = Attention.backward(ctx, g)
        return dq, None, dv


@correct(positive(3, 4), 2)
class CumulativeProductOfRow(Function):
    @staticmethod
    def forward(ctx, x, dim_count):
        ctx.save_for_backward(x)
        return x.prod(-1)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return (g * x.prod(-1)).unsqueeze(-1) / x, None
