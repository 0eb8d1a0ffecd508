"""Where the numbers lie: inputs with gaps, storage that is read raw, generators that are handed
over.
"""

from __future__ import annotations

import torch
from gallery import correct, faulty, make
from torch.autograd import Function


def sliced(g, dtype):
    return torch.randn(10, generator=g, dtype=torch.float64).to(dtype)[::2]


def _raw(x):
    """The first numbers of the storage, whatever the strides say."""
    return torch.as_strided(x, x.shape, torch.empty(x.shape, device="meta").stride(), 0)


for inputs in ((sliced,), ((5,),), ((3, 2, 2),)):
    faulty("non-contiguous", *inputs)(
        make(
            "ReadsStorage",
            lambda ctx, x: (ctx.save_for_backward(x), _raw(x) ** 2)[1],
            lambda ctx, g: 2 * g * ctx.saved_tensors[0],
        )
    )
faulty("non-contiguous", (5,))(
    make(
        "SavesStorage",
        lambda ctx, x: (ctx.save_for_backward(x), x**2)[1],
        lambda ctx, g: 2 * g * _raw(ctx.saved_tensors[0]),
    )
)
correct(sliced)(torch.sin)
correct(lambda g, d: torch.randn(4, 6, generator=g).to(d)[::2, ::3])(
    lambda x: x.flatten().cumsum(0)
)
correct(lambda g, d: torch.randn(1, 3, generator=g).to(d).expand(4, 3))(torch.tanh)


def generator(g, dtype):
    return torch.Generator().manual_seed(0)


class Masked(Function):
    @staticmethod
    def forward(ctx, x, source):
        mask = torch.rand(x.shape, generator=source) > 0.5
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0], None


correct((4, 3), generator)(Masked)


@faulty("wrong-values", (4, 3), generator)
class MaskForgotten(Masked):
    @staticmethod
    def backward(ctx, g):
        return g, None
