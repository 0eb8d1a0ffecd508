"""Show me the maths: every symbol of one pass with its formula, its numbers and its shape.

`python -m manual_bp.trace` prints one of the documents' networks, or one image through a trained
run. `markdown` and `text` take any sequence of Linear and Sigmoid layers, for notebooks and
TensorBoard's text tab:

    writer.add_text("trace", trace.markdown(model, x[0], y[0], cost="half_per_example", lr=0.5))
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from manual_bp.lazy import lazy
from manual_bp.notation import Units

if TYPE_CHECKING:  # torch takes a second to import: the command prints its help without torch
    from torch import Tensor, nn

    from manual_bp.trace.passes import Trace, compute
    from manual_bp.trace.telling import story

__all__ = ["Trace", "compute", "markdown", "story", "text"]

__getattr__, __dir__ = lazy(__name__, {"Trace": "passes", "compute": "passes", "story": "telling"})


def markdown(
    model: nn.Module | Iterable[nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    cost: str = "half_per_example",
    lr: float = 1.0,
    notation: int = 1,
    units: Units | None = None,
) -> str:
    """One example's pass through `model` as Markdown, checked against autograd.

    Nothing is written and the model is not run or changed.

    Args:
        model: an `MLP`, or any `nn.Sequential`, list or ModuleList of Linear and Sigmoid layers.
        x: the input, (n_in,) or (1, n_in).
        y: the target, (n_out,) or (1, n_out).
        cost: "half_per_example", "half_per_element", "mean" or "sum".
        lr: the learning rate η of the update shown.
        notation: whose symbols: 1 θ/z/a/δ, 2 s/z/w_{i→j}/δ, 3 w/z/a/δ.
        units: for notation 2, the name of each unit, layer by layer, the input's first.

    Raises:
        TypeError: another module than Linear and Sigmoid, or no Linear at all.
        RuntimeError: hooks or a `forward` of its own, or weights that do not fit each other.
        ValueError: sizes that do not fit, more than one example, an unknown cost or notation.
    """
    from manual_bp.trace import passes, render, telling

    trace = passes.compute(model, x, y, cost=cost, lr=lr)
    return render.markdown(telling.story(trace, notation, units))


def text(
    model: nn.Module | Iterable[nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    cost: str = "half_per_example",
    lr: float = 1.0,
    notation: int = 1,
    units: Units | None = None,
) -> str:
    """The same for the terminal: arguments and errors as of `markdown`."""
    from manual_bp.trace import passes, render, telling

    trace = passes.compute(model, x, y, cost=cost, lr=lr)
    return render.text(telling.story(trace, notation, units))
