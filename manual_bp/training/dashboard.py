"""What a run shows: TensorBoard's pages while it goes on, and summary.png at its end."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from manual_bp import backprop, trace
from manual_bp.backprop import Layer
from manual_bp.normalisation import REDUCTIONS
from manual_bp.training import measures, pictures
from manual_bp.training.data import Dataset
from manual_bp.training.event_file import EventFile
from manual_bp.training.pictures import Answers
from manual_bp.training.plan import Plan
from manual_bp.training.run_folder import RunFolder

_PICTURES = 5  # of the first layer's weights, between the first and the last epoch
_PACKAGES = ("numpy", "tensorboard", "matplotlib")
METRICS = tuple(
    f"{kind}/{part}" for kind in ("cost", "accuracy") for part in ("train", "validation", "test")
)
# Category, chart, and what the tags of its lines start with, as regular expressions.
LAYOUT = {
    "cost": {"cost C": ["Multiline", ["cost/.*"]]},
    "accuracy": {"accuracy, a share of the examples": ["Multiline", ["accuracy/.*"]]},
    "gradient norms": {
        "‖∂C/∂W‖ by layer": ["Multiline", [r"grad_norm/.*\.weight"]],
        "‖∂C/∂b‖ by layer": ["Multiline", [r"grad_norm/.*\.bias"]],
        "all parameters as one vector": ["Multiline", ["grad_norm/total"]],
    },
    "δ per layer": {
        "log₁₀ ‖δ‖ by layer": ["Multiline", ["delta_norm_log10/.*"]],
        "‖δ‖ = ‖∂C/∂z‖ by layer": ["Multiline", ["delta_norm/.*"]],
    },
    "slope × error": {
        "slope: mean σ′(z) by layer, at most ¼": ["Multiline", ["slope/.*"]],
        "error let through: ‖δ‖ / ‖∂C/∂a‖ by layer, at most ¼": ["Multiline", ["passed/.*"]],
        "saturated: share of σ′(z) < 0.01 by layer": ["Multiline", ["saturated/.*"]],
    },
}
_MEANING = {
    "cost/*, accuracy/*": "of the training images while they train; of the validation images after "
    "each epoch; of the test images at the end",
    "lr": "the learning rate η",
    "grad_norm/*": "‖∂C/∂W‖ and ‖∂C/∂b‖, and of all as one vector: mean over the epoch's steps",
    "delta_norm/*": "‖δ‖ = ‖∂C/∂z‖ by layer: mean over the epoch's steps",
    "delta_norm_log10/*": "its logarithm; where the gradient vanishes, the layers lie in steps",
    "slope/*": "mean σ′(z) = a(1 − a) by layer, at most ¼",
    "passed/*": "‖δ‖ / ‖∂C/∂a‖ by layer, at most ¼: the share of the error that the slope passes",
    "saturated/*": "share of σ′(z) < 0.01 by layer",
    "dead/*": "share of a layer's units whose output is the same for every image, within 0.01",
    "stuck/*": "share of units that hardly vary and whose slope is next to 0",
    "update_ratio/*": "‖W_after − W_before‖ / ‖W_before‖ over the epoch",
    "check/max_rel_error": "hand-derived gradients against torch.nn's by autograd, on one batch",
    "time/*": "seconds of the epoch's steps, and of the whole epoch",
    "non_finite/*": "how many entries a histogram leaves out: they are NaN or infinite",
}


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
        self._events = EventFile(folder.path, first_epoch)
        self._events.charts(LAYOUT)
        values = plan.as_dict()
        hparams = {name: v for name, v in values.items() if not name.startswith("data_")}
        self._events.hparams_start(hparams | {"sizes": plan.network}, METRICS)
        start = first_epoch - 1
        configuration = table(("what", "value"), values.items())
        self._events.text("run/configuration", configuration, start)
        self._events.text("run/environment", environment(), start)
        self._events.text("run/formulas", formulas(self._layers, plan), start)
        if start == 0:
            self._pictures(0, self._layers[0].weight)
        self._events.flush()

    def epoch(self, row: Mapping[str, Any], trouble: Sequence[str], weights: Tensor) -> None:
        """Write an epoch's curves, what is wrong with it, and the pictures that are due.

        Args:
            row: of metrics.jsonl.
            trouble: a line each.
            weights: W of the first layer, on the CPU.
        """
        epoch = row["epoch"]
        self._events.scalars(curves(row), epoch)
        if trouble:
            self._events.text("run/trouble", "\n\n".join(trouble), epoch)
        self._pictures(epoch, weights)
        self._events.flush()

    def end(self, rows: Sequence[Mapping[str, Any]], answers: Answers) -> None:
        """Write what is shown once: the test images, the trace of an example, summary.png."""
        plan, side = self._plan, self._dataset.side
        self._events.scalars(curves(rows[-1]), plan.epochs)
        worst, confusion = pictures.worst_digits(answers, side), pictures.confusion(answers)
        self._events.image("test/worst digits, label → answer", worst, plan.epochs)
        self._events.image("test/confusion matrix", confusion, plan.epochs)
        x, y = measures.examples(self._dataset.validation, self._dtype)
        told = trace.markdown(self._model, x[0], y[0], cost=plan.cost, lr=plan.lr)
        self._events.text("run/trace of one validation image", told, plan.epochs)
        self._events.hparams_end()
        self._events.flush()
        title = (
            f"{self._folder.path.name}: {plan.dataset}, {plan.network}, cost {plan.cost}, "
            f"η = {plan.lr:g} {plan.lr_schedule}, batches of {plan.batch_size}"
        )
        summary = pictures.summary(rows, self._layers, answers, side, title)
        self._folder.write_summary(pictures.png(summary))

    def close(self) -> None:
        self._events.close()

    def _pictures(self, epoch: int, weights: Tensor) -> None:
        """Weights at the first, the last and about five epochs between; histograms when due."""
        plan = self._plan
        if epoch in (0, plan.epochs) or epoch % max(1, round(plan.epochs / _PICTURES)) == 0:
            image = pictures.weights(weights, self._dataset.side)
            self._events.image("weights/layer01", image, epoch)
        if plan.histograms and epoch % plan.histograms == 0:
            x, y = measures.examples(self._dataset.validation, self._dtype)
            found = measures.distributions(self._layers, x, y, plan.cost)
            for tag, values in found.items():
                self._events.histogram(tag, values, epoch)


def curves(row: Mapping[str, Any]) -> dict[str, float]:
    """A row's measures by tag, and log₁₀ ‖δ‖ where ‖δ‖ has one."""
    found = {tag: value for tag, value in row.items() if tag != "epoch"}
    norms = [tag for tag in found if tag.startswith("delta_norm/") and 0 < found[tag] < math.inf]
    return found | {tag.replace("/", "_log10/"): math.log10(found[tag]) for tag in norms}


def environment() -> str:
    """The versions that a run's numbers depend on, as Markdown."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {name: version(name) for name in _PACKAGES} | {"system": platform.platform()}
    return table(("what", "version"), versions.items())


def formulas(layers: Sequence[Layer], plan: Plan) -> str:
    """The forward and backward pass of this very network, and what the tags mean, as Markdown."""
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
            "### What the curves show",
            table(("tags", "meaning"), _MEANING.items(), code=1),
        )
    )


def table(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]], code: int | None = None) -> str:
    """A Markdown table; the first `code` columns as code, all by default."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        cells = [str(cell).replace("|", "∣").replace("`", "'").replace("\n", " ") for cell in row]
        coded = [f"`{cell}`" if cell else cell for cell in cells[:code]]
        lines.append("| " + " | ".join(coded + cells[len(coded) :]) + " |")
    return "\n".join(lines)
