"""A run in pictures: weights, the worst test images, the confusion matrix, and summary.png.

Drawing imports matplotlib, without pyplot: no window system and no global state.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor, nn

from manual_bp.backprop import Layer
from manual_bp.escape import escaped
from manual_bp.training.dataset import Part
from manual_bp.training.measures import predict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

_UNITS = 128  # of the first layer, shown at most
_SHADES = 16  # of red, and of blue
_WHITE, _LINE = _SHADES, 2 * _SHADES + 1  # places in the palette: blues, white, reds, grey
_SMALLEST_WIDTH = 450  # a picture of weights is enlarged to at least this many pixels
_LEGEND_COLUMNS = 9
_LINE_LENGTH, _LINE_HEIGHT = 150, 0.17  # of a trouble: characters, inches

Rows = Sequence[Mapping[str, Any]]  # of metrics.jsonl


@dataclass(frozen=True)
class Answers:
    """A network's answers to a part of the data, on the CPU."""

    images: Tensor  # uint8 (m, pixels)
    labels: Tensor  # int64 (m,)
    said: Tensor  # int64 (m,), the largest output
    squared_error: Tensor  # Σ (a − y)² of each example, (m,)
    classes: tuple[str, ...]

    @classmethod
    def of(cls, model: nn.Module, part: Part, dtype: torch.dtype) -> Answers:
        outputs = predict(model, part.images, dtype).cpu()
        squared_error = (outputs - part.targets(dtype).cpu()).square().sum(1)
        said = outputs.argmax(1)
        return cls(part.images.cpu(), part.labels.cpu(), said, squared_error, part.classes)

    @property
    def confusion(self) -> Tensor:
        """How many examples of each label (row) got each answer (column)."""
        n_out = len(self.classes)
        pairs = self.labels * n_out + self.said
        return pairs.bincount(minlength=n_out**2).view(n_out, n_out)

    def worst(self, count: int) -> Tensor:
        """The examples with the largest cost, the largest first."""
        return self.squared_error.nan_to_num(math.inf).argsort(descending=True, stable=True)[:count]


@torch.no_grad()
def weights(weight: Tensor, shape: tuple[int, int]) -> Image:
    """Each unit's row of W (n_out, pixels) as a tile: red positive, blue negative, white 0.

    All tiles have one scale. A palette of few colours encodes quickly: the network waits for it.
    """
    from PIL import Image

    tiles = weight[:_UNITS].float().cpu().view(-1, *shape).nan_to_num(0.0, 0.0, 0.0)
    # Colours are full from the largest but 0.2 % of the weights on.
    largest = tiles.abs().flatten().topk(max(1, tiles.numel() // 500)).values[-1]
    shades = (tiles * (_SHADES / largest.clamp_min(1e-12))).clamp(-_SHADES, _SHADES).round()
    columns = min(len(tiles), 16)
    rows = math.ceil(len(tiles) / columns)
    height, width = shape[0] + 1, shape[1] + 1  # with a line between two tiles
    sheet = torch.full((rows * columns, height, width), _LINE, dtype=torch.uint8)
    sheet[len(tiles) :] = _WHITE
    sheet[: len(tiles), :-1, :-1] = (shades + _WHITE).byte()
    sheet = sheet.view(rows, columns, height, width).transpose(1, 2)
    small = Image.fromarray(sheet.reshape(rows * height, -1).numpy())
    times = math.ceil(_SMALLEST_WIDTH / small.width)
    image = small.resize((small.width * times, small.height * times), Image.Resampling.NEAREST)
    pale = [round(255 * (1 - k / _SHADES)) for k in range(_SHADES + 1)]  # white to a full colour
    blues, reds = [(p, p, 255) for p in reversed(pale)], [(255, p, p) for p in pale[1:]]
    image.putpalette([value for colour in (*blues, *reds, (153, 153, 153)) for value in colour])
    return image


def worst_digits(answers: Answers, shape: tuple[int, int]) -> Image:
    """The test digits with the largest cost, each with its label and the answer."""
    drawn = figure(5, 5, left=0.01, right=0.99, top=0.99, bottom=0.01)
    draw_worst(drawn.subplots(), answers, shape, rows=4, columns=5, font=12)
    return rendered(drawn)


def confusion(answers: Answers) -> Image:
    """The confusion matrix."""
    drawn = figure(5, 5, left=0.1, right=0.99, top=0.99, bottom=0.1)
    draw_confusion(drawn.subplots(), answers)
    return rendered(drawn)


def draw_worst(
    axes: Axes, answers: Answers, shape: tuple[int, int], rows: int, columns: int, font: int
) -> None:
    """The digits with the largest cost, each with its label and the answer: `4 → 9`."""
    high, wide = shape
    across, down = math.ceil(high * 0.15), math.ceil(high * 0.4)  # a gap, and a line of text
    sheet = torch.zeros(rows, high + down, columns, wide + across, dtype=torch.uint8)
    for place, index in enumerate(answers.worst(rows * columns).tolist()):
        row, column = divmod(place, columns)
        sheet[row, :high, column, :wide] = answers.images[index].view(shape)
        label, said = int(answers.labels[index]), int(answers.said[index])
        colour = "tab:red" if label != said else "tab:green"
        style: dict[str, Any] = {"fontsize": font, "color": colour, "ha": "center", "va": "top"}
        axes.text(
            column * (wide + across) + wide / 2,
            row * (high + down) + high,
            f"{_short(answers.classes[label])} → {_short(answers.classes[said])}",
            **style,
        )
    width, height = columns * (wide + across), rows * (high + down)
    # One picture: matplotlib takes as long for each as for the rest of the page.
    extent = (0, width, height, 0)
    axes.imshow(sheet.view(height, width).numpy(), cmap="gray_r", vmin=0, vmax=255, extent=extent)
    axes.axis("off")


def _short(name: str) -> str:
    """A class's name where room is scarce; "$" would begin mathematics."""
    return textwrap.shorten(name, 10, placeholder="…").replace("$", r"\$")


def draw_confusion(axes: Axes, answers: Answers) -> None:
    """Counts of (label, answer). Mistakes alone give the shade: the diagonal would drown them."""
    counts = answers.confusion
    mistakes = counts.clone().fill_diagonal_(0)
    most = max(1, int(mistakes.max()))
    axes.imshow(mistakes.numpy(), cmap="Reds", vmin=0, vmax=most)
    for label, said in counts.nonzero().tolist():
        count, right = int(counts[label, said]), label == said
        colour = "white" if not right and count > 0.6 * most else "black"
        style: dict[str, Any] = {"color": colour, "weight": "bold" if right else "normal"}
        axes.text(said, label, str(count), fontsize=9, ha="center", va="center", **style)
    if len(answers.classes) <= 20:
        names = [_short(name) for name in answers.classes]
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="the network says", ylabel="label")


def verdict(rows: Rows, result: str, troubles: Sequence[str]) -> Image:
    """Accuracy on an axis from 0 to 1, and what happened, in the size of TensorBoard's cards.

    Args:
        rows: one an epoch, and last the test result.
        result: a line below the curves.
        troubles: lines below the result, in red, as many as there is room for.
    """
    drawn = figure(3.2, 2.1, left=0.1, right=0.98, top=0.91, bottom=0.5)
    parts = {f"accuracy/{part}": part for part in ("train", "validation")}
    axes = drawn.subplots()
    _lines(axes, rows[:-1], parts, ["C0", "C1"], "accuracy: training, validation")
    axes.set(ylim=(0, 1.03), xlabel="")
    drawn.text(0.02, 0.4, _plain(result), fontsize=7, va="top", parse_math=False)
    wrapped = _wrapped(troubles, 64)
    told = "\n".join(wrapped[:6])
    style: dict[str, Any] = {"fontsize": 6, "color": "tab:red" if told else "tab:green"}
    told = _plain(told) or "no trouble was noticed"
    drawn.text(0.02, 0.33, told, va="top", parse_math=False, **style)
    return rendered(drawn)


def summary(
    rows: Rows,
    layers: Sequence[Layer],
    answers: Answers,
    shape: tuple[int, int],
    title: str,
    troubles: Sequence[str] = (),
) -> Figure:
    """A run on one page: cost, accuracy, norms and slopes by layer, and the worst digits.

    Args:
        rows: one an epoch, and last the test result.
        layers: the network's.
        answers: to the test images.
        shape: an image's height and width.
        title: lines above.
        troubles: lines below the title, in red.
    """
    epochs = rows[:-1]
    wrapped = _wrapped(troubles, _LINE_LENGTH)
    legend_rows = math.ceil(len(layers) / _LEGEND_COLUMNS)
    height = 6.4 + _LINE_HEIGHT * len(wrapped) + 0.2 * max(0, legend_rows - 8)
    above, below = 0.9 + _LINE_HEIGHT * len(wrapped), 0.6 + 0.2 * legend_rows  # inches
    margins = {"left": 0.05, "right": 0.985, "top": 1 - above / height, "bottom": below / height}
    drawn = figure(12, height, **margins, wspace=0.17, hspace=0.38)
    drawn.suptitle(_plain(title), fontsize=11, y=1 - 0.12 / height, parse_math=False)
    style: dict[str, Any] = {"color": "tab:red", "fontsize": 10, "va": "top", "parse_math": False}
    drawn.text(0.015, 1 - 0.56 / height, _plain("\n".join(wrapped)), **style)
    panels = drawn.subplots(2, 3).flatten().tolist()
    for axes, kind, named in ((panels[0], "cost", "cost C"), (panels[1], "accuracy", "accuracy")):
        parts = {f"{kind}/{part}": part for part in ("train", "validation")}
        _lines(axes, epochs, parts, ["C0", "C1"], named)
        # An axis that fits the curve makes steep progress of one per cent.
        axes.set_ylim(0, 1.03 if kind == "accuracy" else 1.05 * axes.get_ylim()[1])
        axes.legend(fontsize=8, handlelength=1.2)
    for axes, tag, named in (
        (panels[2], "grad_norm/{}.weight", "gradient norm ‖∂C/∂W‖ by layer"),
        (panels[3], "delta_norm/{}", "error signal ‖δ‖ = ‖∂C/∂z‖ by layer"),
        (panels[4], "slope/{}", "mean slope σ′(z) by layer, at most ¼"),
    ):
        tags = {tag.format(layer.tag): str(layer) for layer in layers}
        _lines(axes, epochs, tags, _shades(len(layers)), named)
        if "norm" in tag and any((row.get(t) or 0) > 0 for row in epochs for t in tags):
            axes.set_yscale("log")
    handles, labels = panels[2].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="lower center", ncols=_LEGEND_COLUMNS, fontsize=8)
    columns = 8 if max(map(len, answers.classes)) < 3 else 3
    draw_worst(panels[5], answers, shape, rows=4, columns=columns, font=8)
    panels[5].set_title("the worst test images: label → answer", fontsize=10)
    return drawn


def _wrapped(lines: Sequence[str], width: int) -> list[str]:
    """Lines of at most `width` characters; a flag stays whole."""
    return [part for line in lines for part in textwrap.wrap(line, width, break_on_hyphens=False)]


def _shades(count: int) -> list[Any]:
    """Colours from dark to light, the first layer's first."""
    import matplotlib as mpl

    return [mpl.colormaps["viridis"](0.9 * i / max(1, count - 1)) for i in range(count)]


def _lines(axes: Axes, rows: Rows, tags: dict[str, str], colours: list[Any], title: str) -> None:
    """One line for each tag over the epochs; a value that is missing or None leaves a gap."""
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in rows]
    for (tag, label), colour in zip(tags.items(), colours, strict=True):
        values = [math.nan if row.get(tag) is None else row[tag] for row in rows]
        axes.plot(epochs, values, label=label, color=colour, marker=".", linewidth=1.4)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("epoch", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8, which="both")
    axes.grid(alpha=0.3)


def figure(width: float, height: float, **margins: float) -> Figure:
    """An empty figure in inches of 100 pixels; margins as `Figure.subplots_adjust` takes them."""
    _import_matplotlib()
    from matplotlib.figure import Figure

    new = Figure(figsize=(width, height), dpi=100)
    new.subplots_adjust(**margins)
    return new


def _import_matplotlib() -> None:
    """Whatever $MPLBACKEND says: nothing here opens a window, and what cannot be is left out."""
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", "")
    import matplotlib as mpl

    if backend:
        os.environ["MPLBACKEND"] = backend
        with contextlib.suppress(ValueError):
            mpl.rcParams["backend"] = backend


def _plain(text: str) -> str:
    """Lines without control characters, which matplotlib would draw or fail at."""
    return "\n".join(map(escaped, text.split("\n")))


def rendered(drawn: Figure) -> Image:
    """A figure as an image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas: Any = FigureCanvasAgg(drawn)
    with warnings.catch_warnings():  # a box stands for what the font lacks
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        canvas.draw()
    # 128 colours are enough for lines and digits, and make the file a third as large.
    return Image.fromarray(numpy.asarray(canvas.buffer_rgba())).convert("RGB").quantize(128)


def png(drawn: Figure) -> bytes:
    """A figure as a PNG file."""
    file = io.BytesIO()
    rendered(drawn).save(file, format="png")
    return file.getvalue()
