"""See backpropagation: an interactive page of a run, of a document's network, or of your own.

`manual-bp look RUN` writes the page of a run that train.py wrote; `manual-bp look two-two-two` that
of a document's network. TensorBoard shows the same page as the tab "Backpropagation".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from manual_bp.notation import NOTATIONS, Units

if TYPE_CHECKING:  # --help and TensorBoard do without torch
    from torch import Tensor, nn

__all__ = ["html"]


def html(
    model: nn.Module | Iterable[nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    name: str = "network",
    title: str = "",
    cost: str = "half_per_example",
    lr: float = 1.0,
    notation: int = 1,
    units: Units | None = None,
) -> str:
    """One example's pass through `model` as a page of HTML; the browser computes z, a, δ and ∂C/∂W.

    Args:
        model: an `MLP`, or any `nn.Sequential`, list or ModuleList of Linear and Sigmoid layers.
        x: the input, (n_in,).
        y: the target, (n_out,).
        name: of the network, for the page's heading.
        title: a line on the network.
        cost: "half_per_example", "half_per_element", "mean" or "sum".
        lr: the learning rate η of the update.
        notation: whose symbols: 1 θ/z/a/δ, 2 s/z/w_{i→j}/δ, 3 w/z/a/δ.
        units: for notation 2, the name of each unit, layer by layer, the input's first.

    Raises:
        TypeError: another module than Linear and Sigmoid, or no Linear at all.
        RuntimeError: hooks or a `forward` of its own, or weights that do not fit each other.
        ValueError: sizes that do not fit, a network too large for a page, an unknown cost or
            notation.

        >>> import torch
        >>> from manual_bp import MLP
        >>> page = html(MLP([2, 3, 1]), torch.tensor([1.0, 2.0]), torch.tensor([1.0]))
        >>> page.startswith("<!doctype html>")
        True
    """
    from manual_bp import backprop
    from manual_bp.view import bundle, page_data

    backprop.check_cost(cost)
    if notation not in NOTATIONS:
        raise ValueError(f"notation {notation!r} is not one of {', '.join(map(str, NOTATIONS))}")
    layers = backprop.read(model)
    return bundle.page(
        page_data.of_example(
            name, layers, x, y, title=title, cost=cost, lr=lr, notation=notation, units=units
        )
    )
