"""MLP: the documents' network, an `nn.Sequential` of Linear and Sigmoid and no more."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any, Literal

import torch
from torch import nn

from manual_bp.linear import Linear
from manual_bp.sigmoid import Sigmoid


class MLP(nn.Sequential):
    """Linear, Sigmoid, Linear, Sigmoid, …: z = a_prev Wᵀ + b and a = σ(z) in every layer.

    Back through it: δ = ∂C/∂a ⊙ a ⊙ (1 − a), ∂C/∂W = δᵀ a_prev, ∂C/∂b = Σ_m δ, ∂C/∂a_prev = δ W.
    Shapes: x (..., n_in), the output (..., n_out). Documents 1, 2 and 3.

    Args:
        sizes: the width of each layer, the input's first: [784, 128, 10].
        output: "sigmoid", or "linear" for document 2's linear output unit.
        bias: whether the Linear layers have one.
        device: as in `torch.nn.Linear`.
        dtype: as in `torch.nn.Linear`.

    Raises:
        ValueError: fewer than two sizes, a size below 1, or an unknown output.

        >>> MLP([784, 30, 10])(torch.rand(64, 784)).shape
        torch.Size([64, 10])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        output: Literal["sigmoid", "linear"] = "sigmoid",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sizes = list(sizes) if isinstance(sizes, Iterable) else [sizes]
        if len(sizes) < 2 or any(not isinstance(n, Integral) or n < 1 for n in sizes):
            raise ValueError(
                f"MLP: sizes {sizes}: two or more widths of at least 1 are needed, "
                f"such as [784, 128, 10]"
            )
        if output not in ("sigmoid", "linear"):
            raise ValueError(f"MLP: output {output!r} is not one of sigmoid, linear")
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(map(int, sizes)):
            layers += [Linear(n_in, n_out, bias=bias, device=device, dtype=dtype), Sigmoid()]
        super().__init__(*layers[: -1 if output == "linear" else None])

    def __getitem__(self, index: slice | int) -> Any:
        if isinstance(index, slice):  # nn.Sequential would call MLP(OrderedDict(...))
            return nn.Sequential(OrderedDict(list(self._modules.items())[index]))
        return super().__getitem__(index)
