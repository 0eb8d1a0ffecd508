"""What a run shows: TensorBoard's pages while it goes on, and summary.png at its end."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from manual_bp import backprop, trace
from manual_bp.backprop import Layer
from manual_bp.normalisation import REDUCTIONS
from manual_bp.training import charts, measures, pictures, trouble
from manual_bp.training.dataset import Dataset
from manual_bp.training.event_file import EventFile
from manual_bp.training.options import restore
from manual_bp.training.pictures import Answers
from manual_bp.training.plan import Plan
from manual_bp.training.run_folder import RunFolder

_PICTURES = 5  # of the first layer's weights, between the first and the last epoch
_PACKAGES = ("numpy", "tensorboard", "matplotlib")
# Flags beside --lr, --epochs and --seed that do not change what is learned, or are in `sizes`.
_NO_HPARAMS = {"dataset", "data_dir", "hidden", "engine", "device", "threads", "histograms"}


class Dashboard:
    """Of one run. Only the process that writes files has one.

    Args:
        folder: the run's.
        plan: the run's.
        model: the network as it is trained.
        dataset: on the model's device.
        first_epoch: the first that is still to be trained.
    """

    def __init__(
        self,
        folder: RunFolder,
        plan: Plan,
        model: nn.Sequential,
        dataset: Dataset,
        first_epoch: int,
    ) -> None:
        self._folder, self._plan, self._model, self._dataset = folder, plan, model, dataset
        self._layers = backprop.read(model)
        self._dtype = self._layers[0].weight.dtype
        explained = partial(charts.explained, layers=self._layers)
        self._events = EventFile(folder.path, first_epoch, explained, folder.check)
        self._events.charts(charts.layout(len(self._layers)))
        self._events.hparams_start(hyperparameters(plan))
        start = first_epoch - 1
        configuration = table(("what", "value"), plan.as_dict().items())
        self._events.text("run/configuration", configuration, start)
        self._events.text("run/environment", environment(), start)
        self._events.text("run/formulas", formulas(self._layers, plan), start)
        if start == 0:
            self._pictures(0, self._layers[0].weight)
        self._events.flush()

    def epoch(self, row: Mapping[str, Any], troubles: Sequence[str], weights: Tensor) -> None:
        """Write an epoch's curves, what is wrong with it, and the pictures that are due.

        Args:
            row: of metrics.jsonl.
            troubles: a line each.
            weights: W of the first layer, on the CPU.
        """
        epoch = row["epoch"]
        self._events.scalars(charts.curves(row) | charts.PERFECT, epoch)
        if troubles:
            self._events.text("run/1 trouble", markdown(troubles), epoch)
        self._pictures(epoch, weights)
        self._events.flush()

    def end(self, rows: Sequence[Mapping[str, Any]], answers: Answers) -> None:
        """Write what is shown once: the test images, the trace of an example, summary.png."""
        plan, shape, test = self._plan, self._dataset.shape, rows[-1]
        self._events.scalars(charts.curves(test), plan.epochs)
        worst, confusion = pictures.worst_digits(answers, shape), pictures.confusion(answers)
        self._events.image("test/worst digits, label → answer", worst, plan.epochs)
        self._events.image("test/confusion matrix", confusion, plan.epochs)
        x, y = measures.examples(self._dataset.validation, self._dtype)
        told = trace.markdown(self._model, x[0], y[0], cost=plan.cost, lr=plan.lr)
        self._events.text("run/trace of one validation image", told, plan.epochs)
        train = self._dataset.train
        troubles = trouble.of_run(plan, self._layers, train, rows[:-1])
        cost, accuracy = measures.guessing(train, plan.cost)
        result = (
            f"test: {100 * test['accuracy/test']:.2f} % right, cost {test['cost/test']:.5f}; "
            f"guessing: {100 * accuracy:.0f} %, {cost:.3g}"
        )
        told = markdown([result, *(troubles or ["no trouble was noticed"])])
        self._events.text("run/2 result", told, plan.epochs)
        verdict = pictures.verdict(rows, result, troubles)
        self._events.image("a first look/accuracy and trouble", verdict, plan.epochs)
        title = (
            f"{self._folder.path.name}: {plan.dataset}, {plan.network}, cost {plan.cost}, "
            f"η = {plan.lr:g} {plan.lr_schedule}, batches of {plan.batch_size}\n{result}"
        )
        self._events.hparams_end()
        self._events.flush()
        page = pictures.summary(rows, self._layers, answers, shape, title, troubles)
        self._folder.write_summary(pictures.png(page))

    def close(self) -> None:
        self._events.close()

    def _pictures(self, epoch: int, weights: Tensor) -> None:
        """Weights at the first, the last and about five epochs between; histograms when due."""
        plan = self._plan
        if epoch in (0, plan.epochs) or epoch % max(1, round(plan.epochs / _PICTURES)) == 0:
            image = pictures.weights(weights, self._dataset.shape)
            self._events.image("weights/layer01", image, epoch)
        if plan.histograms and epoch % plan.histograms == 0:
            x, y = measures.examples(self._dataset.validation, self._dtype)
            found = measures.distributions(self._layers, x, y, plan.cost)
            for tag, values in found.items():
                self._events.histogram(tag, values, epoch)


def hyperparameters(plan: Plan) -> dict[str, Any]:
    """What the page HParams shows: lr, sizes, epochs and seed, and flags that have no default.

    The page shows its first five columns, sorted by name.
    """
    defaults = vars(restore({}))
    flags = {name: v for name, v in vars(plan.options()).items() if v != defaults[name]}
    flags = {name: v for name, v in flags.items() if name not in _NO_HPARAMS}
    always = {"lr": plan.lr, "sizes": plan.network, "epochs": plan.epochs, "seed": plan.seed}
    return flags | always


def environment() -> str:
    """The versions that a run's numbers depend on, as Markdown."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {name: version(name) for name in _PACKAGES} | {"system": platform.platform()}
    return table(("what", "version"), versions.items())


def formulas(layers: Sequence[Layer], plan: Plan) -> str:
    """The forward and backward pass of this very network, as Markdown."""
    forward, backward = [], []
    for layer in layers:
        n = layer.number
        n_out, n_in = layer.weight.shape
        before = "x" if n == 1 else f"a[{n - 1}]"
        error = f"2s (a[{n}] − y)" if n == len(layers) else f"δ[{n + 1}] W[{n + 1}]"
        slope = " ⊙ a ⊙ (1 − a)" if layer.sigmoid else ""
        forward.append((layer, f"z = {before} Wᵀ + b", f"(m, {n_out})"))
        forward.append((layer, "a = σ(z)" if layer.sigmoid else "a = z", f"(m, {n_out})"))
        backward.append((layer, "∂C/∂b = Σ_m δ", f"({n_out})"))
        backward.append((layer, f"∂C/∂W = δᵀ {before}", f"({n_out}, {n_in})"))
        backward.append((layer, f"δ = ∂C/∂z = {error}{slope}", f"(m, {n_out})"))
    s, *_, who = REDUCTIONS[plan.cost]
    curves_show = "; curves show it divided by m" if plan.cost == "sum" else ""
    decay = f" + {plan.weight_decay:g} W" if plan.weight_decay else ""
    if plan.momentum:  # as torch.optim.SGD
        update = f"`v ← {plan.momentum:g} v + ∂C/∂W{decay}`, `W ← W − η v`"
    else:
        update = f"`W ← W − η (∂C/∂W{decay})`" if decay else "`W ← W − η ∂C/∂W`"
    return "\n\n".join(
        (
            f"`C = s Σ (a − y)²` with `s = {s}`: `--cost {plan.cost}` ({who}){curves_show}",
            "### Forward\n\nThe rows of x are the m examples; a[1] is the output of layer 1.",
            table(("layer", "formula", "shape"), forward),
            "### Backward: δ = error ⊙ slope, the last layer first",
            table(("layer", "formula", "shape"), reversed(backward)),
            f"### Update\n\n{update}, and b likewise",
        )
    )


def markdown(lines: Sequence[str]) -> str:
    """A paragraph a line, with the flags as code."""
    return re.sub(r"--[a-z-]+( [\w.]+)?", r"`\g<0>`", "\n\n".join(lines))


def table(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    """A Markdown table, all of it as code."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        cells = [str(cell).replace("|", "∣").replace("`", "'").replace("\n", " ") for cell in row]
        lines.append("| " + " | ".join(f"`{cell}`" if cell else "" for cell in cells) + " |")
    return "\n".join(lines)
