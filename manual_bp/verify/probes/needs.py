"""Each subset of inputs that require a gradient must get the gradients of the full set."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from torch import Tensor

from manual_bp.verify.agreement import alike
from manual_bp.verify.crash import CrashError
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.probes.result import Result


def needs(experiment: Experiment) -> Result:
    """Compare each subset's gradients with those of the full set."""
    case, result = experiment.case, Result()
    if len(case.checked) < 2:
        return result
    names = case.subject.names
    row = experiment.cotangents[0]
    full = case.gradients(row)
    raised: dict[tuple[int, ...], CrashError] = {}
    for subset in _subsets(case.checked):
        only = ", ".join(names[i] for i in subset)
        try:
            found = case.gradients(row, needs=subset)
        except CrashError as crash:
            raised[subset] = crash
            continue
        for i in subset:
            if not alike(found[i], full[i], experiment.rtol, experiment.floor(i)):
                what = (
                    "is None"
                    if found[i] is None
                    else "differs from what it is when all inputs require one"
                )
                swapped = [
                    j
                    for j in case.checked
                    if j != i and _is_the(found[i], full[j], experiment.rtol)
                ]
                hint = f"; it is the gradient of {names[swapped[0]]}" if swapped else ""
                result.add(
                    "needs-input-grad",
                    names[i],
                    f"when only {only} require{'s' if len(subset) == 1 else ''} a gradient, the "
                    f"gradient of {names[i]} "
                    f"{what}{hint}: look at the index into ctx.needs_input_grad and at the order "
                    f"of what is returned",
                )
    for line in dict.fromkeys(crash.line for crash in raised.values()):  # a cause each
        alike_ = [subset for subset, crash in raised.items() if crash.line == line]
        stage = raised[alike_[0]].stage
        who = ", or only ".join(" and ".join(names[i] for i in subset) for subset in alike_[:4])
        who += ", and for other choices" if len(alike_) > 4 else ""
        verb = "require" if len(alike_) > 1 or len(alike_[0]) > 1 else "requires"
        text = f"when only {who} {verb} a gradient, the {stage} raises {line}"
        result.add("needs-input-grad", names[alike_[0][0]], text)
    return result


def _is_the(a: object, b: object, rtol: float) -> bool:
    return (
        isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and alike(a, b, rtol)
    )


def _subsets(positions: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All proper subsets of up to four positions; of more, single ones, pairs and all but one."""
    n = len(positions)
    sizes = range(1, n) if n <= 4 else (1, 2, n - 1) if n <= 8 else (1, n - 1)
    for size in sizes:
        yield from itertools.combinations(positions, size)
