"""What a run shows as pictures: the first layer's weights, the test digits it gets most wrong, the
confusion matrix.

matplotlib is imported when something is drawn with it, and without pyplot: no window system and no
global state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor, nn

from manual_bp.training.data import CLASSES, Part
from manual_bp.training.evaluation import predict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

_UNITS = 128  # of the first layer, shown at most
_SHADES = 16  # of red, and of blue
_SMALLEST_WIDTH = 450  # a picture of weights is enlarged to at least this many pixels


@dataclass(frozen=True)
class Answers:
    """What a network says to a part of the data, on the CPU."""

    images: Tensor  # uint8 (m, pixels)
    labels: Tensor  # int64 (m,)
    said: Tensor  # int64 (m,), the largest output
    squared_error: Tensor  # Σ (a − y)² of each example, (m,)

    @classmethod
    def of(cls, model: nn.Module, part: Part, dtype: torch.dtype) -> Answers:
        outputs = predict(model, part.images, dtype).cpu()
        labels = part.labels.cpu()
        y = torch.eye(CLASSES, dtype=dtype)[labels]
        return cls(part.images.cpu(), labels, outputs.argmax(1), (outputs - y).square().sum(1))

    @property
    def confusion(self) -> Tensor:
        """How many examples of each label (row) were said to be what (column)."""
        return (
            (self.labels * CLASSES + self.said)
            .bincount(minlength=CLASSES**2)
            .view(CLASSES, CLASSES)
        )

    def worst(self, count: int) -> Tensor:
        """The examples with the largest cost, the largest first."""
        return self.squared_error.nan_to_num(math.inf).argsort(descending=True, stable=True)[:count]


@torch.no_grad()
def weights(weight: Tensor, side: int) -> Image:
    """Each unit's weights W (n_out, side²) as an image: red positive, blue negative, white 0, one
    scale for all.

    Returns:
        An image with a palette of few colours: these are made while the network trains, and encode
        in little time.
    """
    from PIL import Image

    tiles = weight[:_UNITS].detach().float().cpu().view(-1, side, side).nan_to_num(0.0, 0.0, 0.0)
    largest = (
        tiles.abs().flatten().topk(max(1, tiles.numel() // 500)).values[-1]
    )  # beyond it colours are full
    shade = (tiles * (_SHADES / largest.clamp_min(1e-12))).clamp(
        -_SHADES, _SHADES
    ).round() + _SHADES
    columns = min(len(tiles), 16)
    rows = math.ceil(len(tiles) / columns)
    line = 2 * _SHADES + 1  # the colour between the tiles
    sheet = torch.full((rows * columns, side + 1, side + 1), line, dtype=torch.uint8)
    sheet[len(tiles) :] = _SHADES
    sheet[: len(tiles), :side, :side] = shade.byte()
    sheet = (
        sheet.view(rows, columns, side + 1, side + 1).transpose(1, 2).reshape(rows * (side + 1), -1)
    )
    enlarged = math.ceil(_SMALLEST_WIDTH / sheet.shape[1])
    image = Image.fromarray(
        sheet.repeat_interleave(enlarged, 0).repeat_interleave(enlarged, 1).numpy(), mode="L"
    )
    full = [
        round(255 * (1 - k / _SHADES)) for k in range(_SHADES + 1)
    ]  # from white to a full colour
    blues = [(white, white, 255) for white in reversed(full)]
    reds = [(255, white, white) for white in full[1:]]
    image.putpalette([value for colour in (*blues, *reds, (153, 153, 153)) for value in colour])
    return image


def draw_worst(axes: Axes, answers: Answers, side: int, rows: int, columns: int, font: int) -> None:
    """The digits with the largest cost, each with its label and what was said: `4 → 9`."""
    which = answers.worst(rows * columns)
    caption = side * 0.4  # height of the line of text under a digit
    axes.set(xlim=(0, columns * side * 1.15), ylim=(rows * (side + caption), 0), aspect="equal")
    axes.axis("off")
    for place, index in enumerate(which.tolist()):
        row, column = divmod(place, columns)
        left, top = column * side * 1.15, row * (side + caption)
        axes.imshow(
            answers.images[index].view(side, side).numpy(),
            cmap="gray_r",
            vmin=0,
            vmax=255,
            extent=(left, left + side, top + side, top),
        )
        label, said = int(answers.labels[index]), int(answers.said[index])
        colour = "tab:red" if label != said else "tab:green"
        middle = left + side / 2
        axes.text(
            middle,
            top + side,
            f"{label} → {said}",
            ha="center",
            va="top",
            fontsize=font,
            color=colour,
        )
    axes.set(
        xlim=(0, columns * side * 1.15), ylim=(rows * (side + caption), 0)
    )  # imshow moved the limits


def draw_confusion(axes: Axes, answers: Answers) -> None:
    """Counts of (label, answer); the mistakes give the shade, or the diagonal would drown them."""
    counts = answers.confusion
    mistakes = counts.clone().fill_diagonal_(0)
    axes.imshow(mistakes.numpy(), cmap="Reds", vmin=0, vmax=max(1, int(mistakes.max())))
    for label, row in enumerate(counts.tolist()):
        for said, count in enumerate(row):
            if count:
                weight = "bold" if label == said else "normal"
                dark = label != said and count > 0.6 * int(mistakes.max())
                colour = "white" if dark else "black"
                axes.text(
                    said,
                    label,
                    str(count),
                    ha="center",
                    va="center",
                    fontsize=9,
                    weight=weight,
                    color=colour,
                )
    axes.set(
        xticks=range(CLASSES), yticks=range(CLASSES), xlabel="the network says", ylabel="label"
    )


def figure(width: float, height: float, **margins: float) -> Figure:
    """An empty figure of so many inches, 100 pixels each; margins as `Figure.subplots_adjust` takes
    them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    new = Figure(figsize=(width, height), dpi=100)
    new.subplots_adjust(**margins)
    FigureCanvasAgg(new)
    return new


def rendered(drawn: Figure) -> Image:
    """A figure as an image."""
    from PIL import Image

    canvas: Any = drawn.canvas
    canvas.draw()
    # 128 colours are enough for lines and digits, and make the file a third as large
    return Image.fromarray(numpy.asarray(canvas.buffer_rgba())).convert("RGB").quantize(128)
