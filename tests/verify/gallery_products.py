"""Products, reductions, linear algebra."""

from __future__ import annotations

import numpy as np
import torch
from gallery import faulty, make, new_style, saves_inputs
from torch.autograd import Function


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
    new_style(
        "MeanOverWrongSize", lambda x: x.mean(0), saves_inputs, lambda ctx, g: (g / 3).expand(4, 3)
    )
)
faulty("constant-factor", (6,))(
    new_style(
        "VarianceBiased",
        lambda x: x.var(),
        saves_inputs,
        lambda ctx, g: g * 2 * (ctx.saved_tensors[0] - ctx.saved_tensors[0].mean()) / 6,
    )
)
faulty("wrong-shape", (3, 4))(
    new_style("ReturnsVector", lambda x: x.sum(0), saves_inputs, lambda ctx, g: g)
)
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
            (g * ctx.saved_tensors[1], g * ctx.saved_tensors[0])
            if ctx.needs_input_grad[1]
            else (None, None)
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
    new_style(
        "MeanPerRowDivides", lambda x: x * 2, saves_inputs, lambda ctx, g: g * (2 * len(g) / len(g))
    )
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
