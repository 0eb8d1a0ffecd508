"""Torch's own operations and modules as correct functions, and unusual Functions that are right."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from gallery import correct, labels, positive
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

M = (3, 4)
for function, *inputs in (
    (torch.erf, M), (torch.special.i0e, M), (torch.lgamma, positive(5)),
    (torch.digamma, positive(5)),
    (lambda x: x.cumsum(0), M), (lambda x: x.cumprod(-1), M), (lambda x: x.prod(), (5,)),
    (lambda x: x.prod(), lambda g, d: torch.tensor([0.0, 2.0, 3.0], dtype=d)),
    (lambda x: x.median(-1).values, (3, 5)), (lambda x: x.quantile(0.3), (7,)),
    (lambda x: x.kthvalue(2), (5,)),
    (torch.floor, M), (torch.frac, M),
    (torch.cdist, (3, 4), (5, 4)), (lambda x: torch.cdist(x, x), (3, 4)), (lambda x: x.std(0), M),
    (lambda x: x.norm(p=1), M), (lambda x: x**0, M), (lambda x: x**20, M),
    (lambda x: (20 * x).exp(), M),
    (lambda x: F.unfold(x, 2), (1, 2, 4, 4)),
    (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), (1, 1, 3, 3)),
    (F.grid_sample, (1, 2, 4, 4),
     lambda g, d: (torch.rand(1, 3, 3, 2, generator=g) * 1.6 - 0.8).to(d)),
    (F.logsigmoid, M), (F.mish, M), (F.hardsigmoid, M), (F.softsign, M), (F.glu, M),
    (F.elu, M), (F.selu, M),
    (F.kl_div, M, M), (F.huber_loss, M, M), (F.cosine_similarity, M, M), (F.l1_loss, M, M),
    (F.binary_cross_entropy, lambda g, d: torch.tensor([0.0, 1.0, 0.5], dtype=d),
     lambda g, d: torch.ones(3, dtype=d)),
    (F.nll_loss, M, labels(3, 4)), (F.multi_margin_loss, M, labels(3, 4)),
    (F.adaptive_avg_pool2d, (1, 2, 5, 5), 2),
    (lambda i, t: F.embedding(i, t, sparse=True), labels(4, 6), (6, 2)),
    (lambda i, t: F.embedding_bag(i, t), lambda g, d: torch.tensor([[0, 1], [1, 1]]), (3, 2)),
    (lambda x: F.dropout(x, 0.4), M), (lambda x: F.rrelu(x, training=True), M),
    (lambda x: x + torch.randn_like(x), M),
    (lambda a, b: torch.linalg.solve(a + 4 * torch.eye(3).to(a), b), (3, 3), (3, 2)),
    (lambda x: torch.linalg.cholesky(x @ x.mT + torch.eye(3).to(x)), (3, 3)),
    (torch.linalg.det, (3, 3)),
    (lambda x: torch.linalg.inv(torch.diag(torch.tensor([1e-6, 1.0, 1e3])).to(x) + 1e-9 * x),
     (3, 3)),
    (torch.atan2, M, M), (torch.outer, (3,), (4,)), (torch.einsum, "ij,kj->ik", (3, 4), (2, 4)),
    (lambda x: x.to(torch.float32).sin(), M), (lambda x: [x.sin(), (x.cos(), {"z": x * 2})], M),
    (torch.tanh, ()),
    (functools.partial(F.leaky_relu, negative_slope=0.2), M), (nn.ReLU6().forward, M),
    (nn.PReLU(), M),
    (nn.Bilinear(3, 4, 2), (5, 3), (5, 4)), (nn.GRU(3, 2), (4, 2, 3)),
    (nn.CrossEntropyLoss(), M, labels(3, 4)),
    (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (2, 3, 4)),
    (nn.Embedding(5, 3), labels(4, 5)),
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
     (2, 1, 6, 6)),
    (lambda x: torch.func.vmap(lambda r: r.sin() * r.sum())(x), M),
    (lambda x: torch.func.grad(lambda v: (v**3).sum())(x), M),
):  # fmt: skip
    correct(*inputs)(function)

correct((2, 3), dtype=torch.complex64)(torch.abs)
correct((2, 3), dtype=torch.complex64)(torch.angle)
correct((4,), dtype=torch.bfloat16)(torch.sin)
correct((4, 3), (2, 3), (2,), dtype=torch.float16)(F.linear)


@correct(M, (4,))
class SavesIntermediatesOnce(Function):
    @staticmethod
    def forward(ctx, x, w):
        p = (x * w).softmax(-1)
        ctx.save_for_backward(x, w, p)
        return p.square().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, w, p = ctx.saved_tensors
        d = 2 * p * (p - (p * p).sum(-1, keepdim=True)) * g
        return d * w, (d * x).sum(0)


@correct(M)
class SparseGradient(Function):
    """Returns a sparse tensor."""

    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        return x[:1] * 2

    @staticmethod
    def backward(ctx, g):
        dense = g.new_zeros(ctx.shape)
        dense[:1] = 2 * g
        return dense.to_sparse()


@correct((3,), (3,))
class ReturnsSavedTensors(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        return g * b, g * a


@correct(M)
class GradInsideForward(Function):
    """Differentiates inside, as recomputation does."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin() * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            (d,) = torch.autograd.grad(y.sin() * y, y, g.detach())
        return d if not torch.is_grad_enabled() else g * (x.cos() * x + x.sin())


@correct(M, M)
class Ours(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a, b):
        return a * b, a.sum(), 7

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g, h, _):
        a, b = ctx.saved_tensors
        return g * b + h, g * a
