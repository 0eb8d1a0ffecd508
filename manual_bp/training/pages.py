"""The text that TensorBoard shows of a run, as Markdown: its configuration, its environment, its
formulas.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from torch import nn

_SCALES = {
    "half_per_example": ("1/(2m)", "documents 1 and 2"),
    "half_per_element": ("1/(2 m n_out)", "document 3"),
    "mean": ("1/(m n_out)", "torch.nn.MSELoss"),
    "sum": (
        "1",
        'torch.nn.MSELoss(reduction="sum"); curves show it divided by the number of examples',
    ),
}

_TAGS = {
    "cost/*, accuracy/*": "of the training images while they are trained on, "
    "and of the validation images after it; "
    "of the test images once, at the end",
    "grad_norm/*": "‖∂C/∂W‖ and ‖∂C/∂b‖ by parameter, and of all as one vector: "
    "mean over the epoch's steps",
    "delta_norm/*": "‖δ‖ = ‖∂C/∂z‖ by layer: mean over the epoch's steps",
    "delta_norm_log10/*": "its logarithm: −3 is 0.001; where the gradient vanishes the "
    "layers lie in steps",
    "slope/*": "mean σ′(z) = a(1 − a) by layer, at most ¼",
    "passed/*": "‖δ‖ / ‖∂C/∂a‖ by layer: the share of the error that the slope lets "
    "through, at most ¼",
    "saturated/*": "share of σ′(z) < 0.01 by layer",
    "dead/*": "share of a layer's units whose output is the same for every image, within 0.01",
    "stuck/*": "share of units that hardly vary while their slope is next to 0",
    "update_ratio/*": "‖W_after − W_before‖ / ‖W_before‖ over the epoch",
    "check/max_rel_error": "hand-derived gradients against autograd's through torch.nn, "
    "on one batch",
    "non_finite/*": "entries that a histogram leaves out because they are NaN or infinite",
}


def configuration(config: Mapping[str, Any]) -> str:
    """What the run does: settled values first, then every flag."""
    settled = {name: value for name, value in config.items() if name not in ("flags", "versions")}
    return (
        f"{_table(('what', 'value'), settled.items())}\n\n### Flags\n\n"
        f"{_table(('flag', 'value'), _flags(config))}"
    )


def environment(config: Mapping[str, Any]) -> str:
    """The versions that a run's numbers depend on."""
    versions = {
        **config["versions"],
        **{name: version(name) for name in ("numpy", "tensorboard", "matplotlib")},
    }
    return _table(("what", "version"), [*versions.items(), ("system", platform.platform())])


def formulas(model: nn.Sequential, cost: str, momentum: float, weight_decay: float) -> str:
    """The forward and the backward pass of this very network, each line with its shape, and what
    the tags mean.
    """
    s, who = _SCALES[cost]
    modules = list(model.named_children())
    layers = [(name, module) for name, module in modules if isinstance(module, nn.Linear)]
    forward, backward = [], []
    for i, (name, layer) in enumerate(layers):
        n_in, n_out = layer.in_features, layer.out_features
        place = [n for n, _ in modules].index(name)
        is_sigmoid = place + 1 < len(modules) and isinstance(modules[place + 1][1], nn.Sigmoid)
        before = "x" if i == 0 else f"a[{layers[i - 1][0]}]"
        forward.append((name, f"z = {before} Wᵀ + b", f"({n_out})"))
        forward.append((name, "a = σ(z)" if is_sigmoid else "a = z", f"({n_out})"))
        error = (
            f"2s (a[{name}] − y)"
            if i + 1 == len(layers)
            else f"δ[{layers[i + 1][0]}] W[{layers[i + 1][0]}]"
        )
        slope = " ⊙ a ⊙ (1 − a)" if is_sigmoid else ""
        backward.append((name, "∂C/∂b = Σ_m δ", f"({n_out})"))
        backward.append((name, f"∂C/∂W = δᵀ {before}", f"({n_out}, {n_in})"))
        backward.append((name, f"δ = ∂C/∂z = {error}{slope}", f"({n_out})"))
    rows = "each of the m examples is a row, whose length the shape gives"
    return "\n\n".join(
        (
            f"`C = s Σ (a − y)²` with `s = {s}`: `--cost {cost}` ({who})",
            f"### Forward\n\nThe layers have the names that their tags have; {rows}.",
            _table(("layer", "formula", "shape"), forward),
            "### Backward: δ = error ⊙ slope, the last layer first",
            _table(("layer", "formula", "shape"), reversed(backward)),
            f"### Update\n\n{_update(momentum, weight_decay)}, and b likewise",
            "### What the curves show",
            _table(("tags", "meaning"), _TAGS.items(), code=1),
        )
    )


def _update(momentum: float, weight_decay: float) -> str:
    """What `torch.optim.SGD` does with these two."""
    decay = f" + {weight_decay:g} W" if weight_decay else ""
    if momentum:
        return f"`v ← {momentum:g} v + ∂C/∂W{decay}`, `W ← W − η v`"
    return f"`W ← W − η (∂C/∂W{decay})`" if decay else "`W ← W − η ∂C/∂W`"


def _flags(config: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in config["flags"].items():
        shown = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
        yield "--" + name.replace("_", "-"), shown


def _table(
    header: tuple[str, ...], rows: Iterable[tuple[Any, ...]], code: int | None = None
) -> str:
    """A Markdown table; the first `code` columns as code, all by default."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        cells = [str(cell).replace("|", "∣").replace("`", "'").replace("\n", " ") for cell in row]
        cells = [
            f"`{cell}`" if cell and (code is None or i < code) else cell
            for i, cell in enumerate(cells)
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
