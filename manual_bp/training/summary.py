"""summary.png: a run on one page, for those without TensorBoard."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from manual_bp.training import pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEGEND: dict[str, Any] = {"fontsize": 8, "title_fontsize": 8, "handlelength": 1.2}


def png(
    rows: Sequence[Mapping[str, Any]], answers: pictures.Answers, side: int, title: str
) -> bytes:
    """`draw` as a PNG file."""
    file = io.BytesIO()
    pictures.rendered(draw(rows, answers, side, title)).save(file, format="png")
    return file.getvalue()


def draw(
    rows: Sequence[Mapping[str, Any]], answers: pictures.Answers, side: int, title: str
) -> Figure:
    """Draw cost, accuracy, gradient norms and ‖δ‖ by layer, slopes, and the worst digits.

    Args:
        rows: of metrics.jsonl: one an epoch, and last the test result.
        answers: to the test images.
        side: an image has side × side pixels.
        title: a line above.
    """
    *epochs, test = rows
    figure = pictures.figure(
        12, 6.4, left=0.055, right=0.945, top=0.865, bottom=0.07, wspace=0.32, hspace=0.34
    )
    figure.suptitle(
        f"{title}\ntest: accuracy {100 * test['accuracy/test']:.2f} %, cost "
        f"{test['cost/test']:.5f}",
        fontsize=11,
    )
    panels = figure.subplots(2, 3).flatten().tolist()
    _lines(panels[0], epochs, {"cost/train": "train", "cost/validation": "validation"}, "cost C")
    _lines(
        panels[1],
        epochs,
        {"accuracy/train": "train", "accuracy/validation": "validation"},
        "accuracy",
    )
    _lines(
        panels[2],
        epochs,
        _by_layer(epochs, "grad_norm/", ".weight"),
        "gradient norm ‖∂C/∂W‖ by layer",
        by_layer=True,
        log=True,
    )
    _lines(
        panels[3],
        epochs,
        _by_layer(epochs, "delta_norm/"),
        "error signal ‖δ‖ = ‖∂C/∂z‖ by layer",
        by_layer=True,
        log=True,
    )
    _lines(
        panels[4],
        epochs,
        _by_layer(epochs, "slope/"),
        "mean slope σ′(z) by layer, at most ¼",
        by_layer=True,
    )
    pictures.draw_worst(panels[5], answers, side, rows=4, columns=8, font=8)
    panels[5].set_title("the worst test digits: label → answer", fontsize=10)
    return figure


def _by_layer(rows: Sequence[Mapping[str, Any]], prefix: str, suffix: str = "") -> dict[str, str]:
    tags = (
        [tag for tag in rows[0] if tag.startswith(prefix) and tag.endswith(suffix)] if rows else []
    )
    return {tag: tag.removeprefix(prefix).removesuffix(suffix) for tag in tags}


def _lines(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    tags: Mapping[str, str],
    title: str,
    *,
    by_layer: bool = False,
    log: bool = False,
) -> None:
    """One line for each tag, over the epochs."""
    import matplotlib as mpl
    from matplotlib.ticker import MaxNLocator

    colours = mpl.colormaps["viridis"]
    for i, (tag, label) in enumerate(tags.items()):
        values = [math.nan if row.get(tag) is None else row[tag] for row in rows]
        colour = colours(0.9 * i / max(1, len(tags) - 1)) if by_layer else f"C{i}"
        axes.plot(
            [row["epoch"] for row in rows],
            values,
            label=label,
            color=colour,
            marker=".",
            linewidth=1.4,
        )
    if log and any((row.get(tag) or 0) > 0 for row in rows for tag in tags):
        axes.set_yscale("log")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("epoch", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8, which="both")
    axes.grid(alpha=0.3)
    if (
        tags and by_layer
    ):  # beside the lines, which fill the panel of a deep network; in their order when δ vanishes
        axes.legend(
            title="layer", loc="center left", bbox_to_anchor=(1, 0.5), reverse=True, **_LEGEND
        )
    elif tags:
        axes.legend(**_LEGEND)
