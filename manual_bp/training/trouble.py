"""Notice a run that goes wrong, and say so in a line: which layer, the figure, what to try."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from manual_bp.backprop import Layer
from manual_bp.training.dataset import Part
from manual_bp.training.measures import DEAD_SPREAD, STUCK_SLOPE, cost_per_example, guessing
from manual_bp.training.plan import Plan

_DEAD_SHARE = 0.5  # of a hidden layer's units constant: the layer hands little on
_SATURATED_SHARE = 0.95  # of a layer's slopes near 0
_PATIENCE = 1000  # steps after which an output unit should have moved
_FLAT = 0.1  # a cost that changed by a smaller share over some epochs has not changed
_STRONG_DECAY = 1e-3  # a weight decay that may be the cause
_NO_BETTER = 0.98  # of the cost of guessing
_RISE = 1.5  # times the best cost, and that of guessing: no noise reaches as high

Row = Mapping[str, Any]


def of_run(plan: Plan, layers: Sequence[Layer], train: Part, rows: Sequence[Row]) -> list[str]:
    """The troubles of a whole run, a line for each: `rows` has a row an epoch."""
    watch = Watch(plan, layers, train)
    for n, row in enumerate(rows):
        watch.look(row, rows[:n])
    return [f"trouble after epoch {epoch}: {line}" for epoch, line in watch.told()]


class Watch:
    """Looks at each epoch's row of metrics.jsonl, and says each trouble once.

    A resumed run has a new `Watch`, which says again what still holds. The cost of guessing follows
    from the labels of `train`, the training part.
    """

    def __init__(self, plan: Plan, layers: Sequence[Layer], train: Part) -> None:
        self._plan, self._layers = plan, layers
        self._guessing, _ = guessing(train, plan.cost)
        # The worst answer between 0 and 1 has all outputs wrong.
        self._worst = cost_per_example(plan.cost, float(train.n_out), 1, train.n_out)
        self._said: dict[str, tuple[int, str]] = {}  # by kind: the epoch, and the line
        self._best, self._counted = math.inf, 0  # the least cost of so many rows
        self._last: tuple[int, set[str]] = (0, set())  # the last epoch, and the kinds in it

    def look(self, row: Row, earlier: Sequence[Row]) -> list[str]:
        """The troubles after the epoch of `row` that were not said before, a line for each."""
        found = {**self._diverged(row, earlier), **self._saturated(row), **self._dead(row)}
        found = found or self._learns_nothing(row, earlier)
        new = {kind: line for kind, line in found.items() if kind not in self._said}
        self._said |= {kind: (row["epoch"], line) for kind, line in new.items()}
        self._last = row["epoch"], set(found)
        return list(new.values())

    def told(self) -> list[tuple[int, str]]:
        """Every trouble that was said, with its epoch, and whether it has passed since."""
        last, kinds = self._last
        passed = f"; by epoch {last} this has passed"
        return [
            (epoch, line if kind in kinds else line + passed)
            for kind, (epoch, line) in self._said.items()
        ]

    def not_finite(self, row: Row) -> list[str]:
        """One line if a cost, a gradient or a parameter is not finite: the run must stop."""
        ignored: tuple[str, ...] = ("time/", "check/")
        if self._plan.amp == "fp16":
            # GradScaler skips steps that overflow. An epoch of such steps alone has no norm.
            ignored += ("grad_norm/", "delta_norm/")
        bad = {k: v for k, v in row.items() if not k.startswith(ignored) and not math.isfinite(v)}
        if not bad:
            return []
        layers = [layer for layer in self._layers if any(f"/{layer.tag}." in tag for tag in bad)]
        verb = "is" if len(layers) == 1 else "are"
        where = f", and {', '.join(map(str, layers))} {verb} not finite" if layers else ""
        tag, value = next(iter(bad.items()))
        return [
            f"epoch {row['epoch']}: {tag} is {value}{where}: try a smaller --lr (it is "
            f"{self._plan.lr:g}), or another --init; checkpoint.pt is that of epoch "
            f"{row['epoch'] - 1}"
        ]

    def _diverged(self, row: Row, earlier: Sequence[Row]) -> dict[str, str]:
        cost = row["cost/validation"]
        for r in earlier[self._counted :]:
            # metrics.jsonl, which a resumed run reads, has None for NaN
            costs = [r[tag] for tag in ("cost/train", "cost/validation") if r[tag] is not None]
            self._best = min([self._best, *costs])
        self._counted = len(earlier)
        best = min(self._best, row["cost/train"])
        if cost > self._worst:
            why = f"more than any answer between 0 and 1 can cost ({self._worst:.3g})"
        elif cost > _RISE * max(best, self._guessing):
            why = f"it was {best:.3g} before"
        else:
            return {}
        ratio, layer = max(
            ((row[f"update_ratio/{p}"], layer) for layer in self._layers for p in layer.parameters),
            key=lambda pair: pair[0],
        )
        return {
            "diverged": f"the cost diverges: {cost:.3g} on the validation images, {why}; {layer} "
            f"changed most, by {ratio:.2g} times its own size; {self._smaller_steps()}"
        }

    def _saturated(self, row: Row) -> dict[str, str]:
        """Layers whose σ′(z) is next to 0: hardly any error gets in, so they do not change."""
        found = {}
        cost, n_out = row["cost/validation"], self._plan.sizes[-1]
        for layer in self._layers:
            if not layer.sigmoid:
                continue
            slope, saturated, passed, stuck = (
                row[f"{kind}/{layer.tag}"] for kind in ("slope", "saturated", "passed", "stuck")
            )
            if stuck == 1 or (saturated > _SATURATED_SHARE and cost >= self._guessing):
                found[f"saturated {layer}"] = (
                    f"{layer} is saturated: its slope σ′(z) is {slope:.1g} on average and lets "
                    f"{passed:.1g} of the error through, so next to nothing is learned: cost "
                    f"{cost:.5g} on the validation images, guessing costs {self._guessing:.3g}; "
                    f"{self._smaller_steps()}, or another --init (it is {self._plan.init})"
                )
            # In the first hundreds of steps single units often lag behind, and catch up.
            elif layer is self._layers[-1] and stuck > 0 and self._is_late(row):
                found[f"stuck {layer}"] = (
                    f"{layer}: {round(n_out * stuck)} of {n_out} output units hardly move: "
                    f"they give the same answer for every image and their slope σ′(z) is below "
                    f"{STUCK_SLOPE:g}; {self._smaller_steps()}"
                )
        return found

    def _dead(self, row: Row) -> dict[str, str]:
        """Hidden layers in which most units do not tell one image from another."""
        *hidden, output = self._layers
        dead = [
            layer
            for layer in hidden
            if row[f"dead/{layer.tag}"] >= _DEAD_SHARE and row[f"stuck/{layer.tag}"] < 1
        ]
        if not dead:
            return {}
        share = min(row[f"dead/{layer.tag}"] for layer in dead)
        cause = ""
        if self._plan.weight_decay >= _STRONG_DECAY:
            remedy = self._less_decay()
        elif row[f"saturated/{dead[0].tag}"] >= _DEAD_SHARE:
            remedy = self._smaller_steps()
        else:
            cause = "the gradient vanishes: "
            # With weights of about ε, z varies over the images as much as in the layer before.
            epsilon = 5.5 / math.sqrt(min(self._plan.sizes[1:-1]))
            remedy = (
                f"try larger first weights, --init uniform --init-epsilon {epsilon:.1g} --lr 1, "
                f"or fewer layers"
            )
        last, first = (row[f"delta_norm/{layer.tag}"] for layer in (output, hidden[0]))
        layers = ", ".join(map(str, dead))
        return {
            f"dead {layers}": f"{layers}: {100 * share:.0f} % of the units give the same output "
            f"for every image, within {DEAD_SPREAD}; {cause}‖δ‖ falls from {last:.1g} in the last "
            f"layer to {first:.1g} in the first; {remedy}"
        }

    def _learns_nothing(self, row: Row, earlier: Sequence[Row]) -> dict[str, str]:
        """No better than guessing after some epochs, not improving, and for no other reason."""
        cost = row["cost/validation"]
        if not earlier or not self._is_late(row) or cost < _NO_BETTER * self._guessing:
            return {}
        before = earlier[-5:][0]["cost/validation"]
        if before is not None and abs(cost - before) > _FLAT * before:
            return {}
        remedy = f"try a larger --lr (it is {self._plan.lr:g}), or a smaller one, or another --init"
        if self._plan.weight_decay:
            remedy = self._less_decay()
        return {
            "nothing": f"next to nothing is learned: cost {cost:.5g} on the validation images, "
            f"guessing costs {self._guessing:.3g}; {remedy}"
        }

    def _is_late(self, row: Row) -> bool:
        return bool(row["epoch"] * self._plan.steps >= _PATIENCE)

    def _less_decay(self) -> str:
        return f"try a smaller --weight-decay (it is {self._plan.weight_decay:g})"

    def _smaller_steps(self) -> str:
        plan, longer, decay = self._plan, "", ""
        if plan.momentum:
            times = 1 / (1 - plan.momentum)
            longer = f", and --momentum {plan.momentum:g} makes steps {times:.3g} times as long"
        if plan.weight_decay >= _STRONG_DECAY:
            decay = f" or --weight-decay (it is {plan.weight_decay:g})"
        return f"try a smaller --lr (it is {plan.lr:g}{longer}){decay}"
