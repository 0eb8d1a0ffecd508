"""Notice a run that has gone wrong, and say so in one line: which layer, the figure, and what to
try.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from manual_bp.training.data import CLASSES
from manual_bp.training.evaluation import cost_per_example
from manual_bp.training.options import Options
from manual_bp.training.probe import DEAD_SPREAD, STUCK_SLOPE

_DEAD_SHARE = 0.5  # of a hidden layer's units constant: it hands on little of what it is shown
_SATURATED_SHARE = 0.95  # of a layer's slopes near 0
_PATIENCE = 1000  # steps after which an output unit should have moved
_FLAT = 0.1  # of the cost some epochs before: a change of less is none
_STRONG_DECAY = 1e-3  # a weight decay from which it may be what is wrong
_NO_BETTER = 0.98  # of what guessing costs
_RISE = 1.5  # the cost times this above its best, and above that of guessing, is no longer noise


class Watch:
    """Looks at each epoch's row. A resumed run has a new one, which says again what is still so.

    Args:
        options: the run's flags.
        lr: its learning rate η.
        steps: of an epoch.
        labels: of the training part; from them the cost of guessing is known.
    """

    def __init__(self, options: Options, lr: float, steps: int, labels: Tensor) -> None:
        self._options, self._lr, self._steps = options, lr, steps
        shares = labels.bincount(minlength=CLASSES).double() / len(labels)  # p, (10,)
        # the best constant answer is p itself: Σ (a − y)² is Σ p (1 − p) an example
        self._guessing = cost_per_example(options.cost, float((shares * (1 - shares)).sum()), 1)
        self._worst = cost_per_example(
            options.cost, float(CLASSES), 1
        )  # of answers between 0 and 1: all are wrong
        self._said: set[str] = set()

    def look(self, row: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> list[str]:
        """What is wrong after an epoch and was not said before: one line for each trouble.

        Args:
            row: the epoch's metrics.
            earlier: those of the epochs before.
        """
        found = {**self._diverged(row, earlier), **self._saturated(row), **self._dead(row)}
        found = found or self._learns_nothing(row, earlier)
        new = [line for kind, line in found.items() if kind not in self._said]
        self._said |= set(found)
        return new

    def not_finite(self, row: Mapping[str, Any]) -> list[str]:
        """One line if a cost, a gradient or a parameter is no number any more; such a run must
        stop.
        """
        ignored: tuple[str, ...] = ("time/", "check/")
        if self._options.amp == "fp16":
            # GradScaler leaves out steps that overflow; where it left out all of them, there is no
            # norm
            ignored += ("grad_norm/", "delta_norm/")
        bad = {
            tag: v for tag, v in row.items() if not tag.startswith(ignored) and not math.isfinite(v)
        }
        if not bad:
            return []
        found = dict.fromkeys(
            _layer(tag) for tag in bad if tag.startswith(("grad_norm/", "update_ratio/"))
        )
        layers = [name for name in found if name != "total"]  # in their order
        where = (
            f", and layer{'s' * (len(layers) > 1)} {', '.join(layers)} not finite" if layers else ""
        )
        tag, value = next(iter(bad.items()))
        return [
            f"epoch {row['epoch']}: {tag} is {value}{where}: try a smaller --lr (it is "
            f"{self._lr:g}), or another "
            f"--init; checkpoint.pt is that of epoch {row['epoch'] - 1}"
        ]

    def _diverged(
        self, row: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]
    ) -> dict[str, str]:
        cost = row["cost/validation"]
        before = [r[tag] for r in earlier for tag in ("cost/train", "cost/validation")] + [
            row["cost/train"]
        ]
        best = min(value for value in before if value is not None)  # metrics.jsonl keeps no NaN
        if cost > self._worst:
            why = f"more than any answer between 0 and 1 can cost ({self._worst:.3g})"
        elif cost > _RISE * max(best, self._guessing):
            why = f"it was {best:.3g} before"
        else:
            return {}
        layer = max(
            (tag for tag in row if tag.startswith("update_ratio/")), key=lambda tag: row[tag]
        )
        return {
            "diverged": f"the cost diverges: {cost:.3g} on the validation images, {why}; "
            f"layer {_layer(layer)} changed "
            f"most, by {row[layer]:.2g} times its own size; {self._smaller_steps()}"
        }

    def _saturated(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Layers in which σ′(z) is next to 0: hardly any error gets in, so they do not change."""
        found = {}
        learned = row["cost/validation"] < self._guessing
        layers = _by_layer(row, "stuck/")
        for name, share in layers.items():
            if share == 1 or (row[f"saturated/{name}"] > _SATURATED_SHARE and not learned):
                found[f"saturated {name}"] = (
                    f"layer {name} is saturated: its slope σ′(z) is {row[f'slope/{name}']:.1g} on "
                    f"average and lets "
                    f"{row[f'passed/{name}']:.1g} of the error through, so next to nothing is "
                    f"learned: cost "
                    f"{row['cost/validation']:.5g} on the validation images, guessing costs "
                    f"{self._guessing:.3g}; "
                    f"{self._smaller_steps()}, or another --init (it is {self._options.init})"
                )
        name = list(layers)[-1] if layers else ""
        # Single units often lag behind in the first hundreds of steps, and catch up.
        output = self._options.output == "sigmoid" and row["epoch"] * self._steps >= _PATIENCE
        if output and layers and 0 < layers[name] < 1 and f"saturated {name}" not in found:
            found[f"stuck {name}"] = (
                f"layer {name}: {round(CLASSES * layers[name])} of {CLASSES} output units hardly "
                f"move: they give the "
                f"same answer for every image and their slope σ′(z) is below {STUCK_SLOPE:g}; "
                f"{self._smaller_steps()}"
            )
        return found

    def _dead(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Hidden layers in which most units do not tell one image from another."""
        dead = _by_layer(row, "dead/")
        *hidden, output = dead
        found = [name for name in hidden if dead[name] >= _DEAD_SHARE and row[f"stuck/{name}"] < 1]
        if not found:
            return {}
        layers = f"layer{'s' * (len(found) > 1)} {', '.join(found)}"
        share = min(dead[name] for name in found)
        if self._options.weight_decay >= _STRONG_DECAY:
            what, remedy = (
                "",
                f"try a smaller --weight-decay (it is {self._options.weight_decay:g})",
            )
        elif row[f"saturated/{found[0]}"] >= _DEAD_SHARE:
            what, remedy = "", self._smaller_steps()
        else:
            # With weights of about this size z varies over the images as much as a layer before.
            epsilon = 5.5 / math.sqrt(min(self._options.hidden))
            what = "the gradient vanishes: "
            remedy = (
                "try larger first weights, --init uniform --init-epsilon "
                f"{epsilon:.1g} --lr 1, or fewer layers"
            )
        return {
            f"dead {layers}": f"{layers}: {100 * share:.0f} % of the units give the same "
            "output for every image, "
            f"within {DEAD_SPREAD}; {what}‖δ‖ falls from {row[f'delta_norm/{output}']:.1g} in the "
            f"last layer to "
            f"{row[f'delta_norm/{hidden[0]}']:.1g} in the first; {remedy}"
        }

    def _learns_nothing(
        self, row: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]
    ) -> dict[str, str]:
        """No better than guessing after some epochs, not getting there, and for no other reason."""
        cost = row["cost/validation"]
        if (
            not earlier
            or row["epoch"] * self._steps < _PATIENCE
            or cost < _NO_BETTER * self._guessing
        ):
            return {}
        before = earlier[-5:][0]["cost/validation"]
        if before is not None and abs(cost - before) > _FLAT * before:
            return {}
        if self._options.weight_decay:
            remedy = f"try a smaller --weight-decay (it is {self._options.weight_decay:g})"
        else:
            remedy = f"try a larger --lr (it is {self._lr:g}), or a smaller one, or another --init"
        return {
            "nothing": f"next to nothing is learned: cost {cost:.5g} on the validation "
            "images, guessing costs "
            f"{self._guessing:.3g}; {remedy}"
        }

    def _smaller_steps(self) -> str:
        momentum = self._options.momentum
        longer = (
            f", and --momentum {momentum:g} makes steps {1 / (1 - momentum):.3g} times as long"
            if momentum
            else ""
        )
        decay = self._options.weight_decay
        or_decay = f" or --weight-decay (it is {decay:g})" if decay >= _STRONG_DECAY else ""
        return f"try a smaller --lr (it is {self._lr:g}{longer}){or_decay}"


def _layer(tag: str) -> str:
    return tag.split("/", 1)[1].rsplit(".", 1)[0]


def _by_layer(row: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The measures of one kind, by layer, the first layer first."""
    return {_layer(tag): value for tag, value in row.items() if tag.startswith(prefix)}
