"""What a run shows as pictures: the first layer's weights, the test digits it gets most wrong, the confusion matrix.

matplotlib is imported when something is drawn with it, and without pyplot: no window system and no global state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from manual_bp.training.data import CLASSES, Part
from manual_bp.training.evaluation import predict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_UNITS = 128  # of the first layer, shown at most
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
        return (self.labels * CLASSES + self.said).bincount(minlength=CLASSES**2).view(CLASSES, CLASSES)

    def worst(self, count: int) -> Tensor:
        """The examples with the largest cost, the largest first."""
        return self.squared_error.nan_to_num(math.inf).argsort(descending=True, stable=True)[:count]


@torch.no_grad()
def weights(weight: Tensor, side: int) -> Tensor:
    """Each unit's weights W (n_out, side²) as an image: red positive, blue negative, white 0, one scale for all.

    Returns:
        uint8 (height, width, 3).
    """
    tiles = weight[:_UNITS].detach().float().cpu().view(-1, side, side).nan_to_num(0.0, 0.0, 0.0)
    largest = tiles.abs().flatten().kthvalue(math.ceil(0.998 * tiles.numel())).values  # beyond it colours are full
    shade = (tiles / largest.clamp_min(1e-12)).clamp(-1, 1)
    columns = min(len(tiles), 16)
    rows = math.ceil(len(tiles) / columns)
    sheet = torch.full((rows * columns, side + 1, side + 1, 3), 0.6)  # grey lines between the tiles
    sheet[len(tiles) :] = 1.0
    red, blue = shade.clamp_min(0), (-shade).clamp_min(0)
    sheet[: len(tiles), :side, :side] = torch.stack([1 - blue, 1 - red - blue, 1 - red], 3)
    sheet = sheet.view(rows, columns, side + 1, side + 1, 3).transpose(1, 2).reshape(rows * (side + 1), -1, 3)
    enlarged = math.ceil(_SMALLEST_WIDTH / sheet.shape[1])
    return (sheet * 255).byte().repeat_interleave(enlarged, 0).repeat_interleave(enlarged, 1)


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
        axes.text(middle, top + side, f"{label} → {said}", ha="center", va="top", fontsize=font, color=colour)
    axes.set(xlim=(0, columns * side * 1.15), ylim=(rows * (side + caption), 0))  # imshow moved the limits


def draw_confusion(axes: Axes, answers: Answers) -> None:
    """Counts of (label, answer); the shade is that of the mistakes, which the diagonal would drown."""
    counts = answers.confusion
    mistakes = counts.clone().fill_diagonal_(0)
    axes.imshow(mistakes.numpy(), cmap="Reds", vmin=0, vmax=max(1, int(mistakes.max())))
    for label, row in enumerate(counts.tolist()):
        for said, count in enumerate(row):
            if count:
                weight = "bold" if label == said else "normal"
                dark = label != said and count > 0.6 * int(mistakes.max())
                colour = "white" if dark else "black"
                axes.text(said, label, str(count), ha="center", va="center", fontsize=9, weight=weight, color=colour)
    axes.set(xticks=range(CLASSES), yticks=range(CLASSES), xlabel="the network says", ylabel="label")


def figure(width: float, height: float, **margins: float) -> Figure:
    """An empty figure of so many inches, 100 pixels each; margins as `Figure.subplots_adjust` takes them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    new = Figure(figsize=(width, height), dpi=100)
    new.subplots_adjust(**margins)
    FigureCanvasAgg(new)
    return new


def pixels(drawn: Figure) -> Tensor:
    """A figure as uint8 (height, width, 3)."""
    canvas: Any = drawn.canvas
    canvas.draw()
    return torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8).view(
        *canvas.get_width_height()[::-1], 4
    )[..., :3]
