"""summary.png: a run on one page, for those without TensorBoard."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from manual_bp.training import pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DIGITS = 32


def summary(rows: Sequence[Mapping[str, Any]], answers: pictures.Answers, side: int, title: str) -> bytes:
    """Draw cost, accuracy, gradient norms and ‖δ‖ by layer, slopes, and the worst digits.

    Args:
        rows: of metrics.jsonl: one an epoch, and last the test result.
        answers: to the test images.
        side: an image has side × side pixels.
        title: a line above.

    Returns:
        A PNG file.
    """
    *epochs, test = rows
    figure = pictures.figure(13, 7, left=0.05, right=0.985, top=0.87, bottom=0.065, wspace=0.17, hspace=0.32)
    figure.suptitle(
        f"{title}\ntest: accuracy {100 * test['accuracy/test']:.2f} %, cost {test['cost/test']:.5f}", fontsize=11
    )
    panels = figure.subplots(2, 3).flatten().tolist()
    _lines(panels[0], epochs, {"cost/train": "train", "cost/validation": "validation"}, "cost C", log=True)
    _lines(panels[1], epochs, {"accuracy/train": "train", "accuracy/validation": "validation"}, "accuracy")
    _lines(panels[2], epochs, _by_layer(epochs, "grad_norm/", ".weight"), "gradient norm ‖∂C/∂W‖ by layer", log=True)
    _lines(panels[3], epochs, _by_layer(epochs, "delta_norm/"), "error signal ‖δ‖ = ‖∂C/∂z‖ by layer", log=True)
    _lines(panels[4], epochs, _by_layer(epochs, "slope/"), "mean slope σ′(z) by layer, at most ¼")
    pictures.draw_worst(panels[5], answers, side, _DIGITS)
    panels[5].set_title("the worst test digits: label → answer", fontsize=10)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _by_layer(rows: Sequence[Mapping[str, Any]], prefix: str, suffix: str = "") -> dict[str, str]:
    tags = [tag for tag in rows[0] if tag.startswith(prefix) and tag.endswith(suffix)] if rows else []
    return {tag: f"layer {tag.removeprefix(prefix).removesuffix(suffix)}" for tag in tags}


def _lines(
    axes: Axes, rows: Sequence[Mapping[str, Any]], tags: Mapping[str, str], title: str, *, log: bool = False
) -> None:
    """One line for each tag, over the epochs."""
    import matplotlib as mpl
    from matplotlib.ticker import MaxNLocator

    colours = mpl.colormaps["viridis"]
    for i, (tag, label) in enumerate(tags.items()):
        values = [math.nan if row.get(tag) is None else row[tag] for row in rows]
        colour = colours(0.9 * i / max(1, len(tags) - 1)) if label.startswith("layer") else f"C{i}"
        axes.plot([row["epoch"] for row in rows], values, label=label, color=colour, marker=".", linewidth=1.4)
    if log and any((row.get(tag) or 0) > 0 for row in rows for tag in tags):
        axes.set_yscale("log")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("epoch", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8, which="both")
    axes.grid(alpha=0.3)
    if tags:
        axes.legend(fontsize=8)
