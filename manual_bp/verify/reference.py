"""A reference that is said to compute the same: its values, and its gradients by autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manual_bp.verify.agreement import close
from manual_bp.verify.case import Case, flat
from manual_bp.verify.crash import CrashError
from manual_bp.verify.experiment import Experiment, stack
from manual_bp.verify.probes.result import Result
from manual_bp.verify.subject import subject_of
from manual_bp.verify.truth import Truth


class UsageError(ValueError):
    """What the caller gave to `check` does not fit."""


class Reference:
    """The reference on the same arguments as the experiment's case."""

    def __init__(self, function: Any, experiment: Experiment, given: Case) -> None:
        self.experiment = experiment
        self.gradients: list[dict[int, Tensor | None]] = []
        self.not_compared = ""  # why the reference's gradient could not be used
        case = experiment.case
        count = case.subject.inputs  # without a module's parameters: the reference has its own
        subject = subject_of(function, case.subject.packed(case.args[:count]))
        checked = [i for i in case.checked if i < count]
        self.case = Case(subject, subject.args, checked, case.seed)
        try:
            self.case.prepare()
        except CrashError as crash:
            raise UsageError(
                f"check: the reference raises {crash.line}: it must take the same inputs"
            ) from crash
        self.case.random = self.case.random or case.random
        self.lost = [o for o in self.case.differentiable if o not in case.differentiable]

    def compare_forward(self) -> Result:
        """Shapes and values of all returned tensors."""
        result = Result()
        own, theirs = self.experiment.case.values(), self.case.values()
        if len(own) != len(theirs):
            result.add(
                "forward-wrong",
                "output",
                f"it returns {len(own)} tensors, the reference {len(theirs)}",
            )
            return result
        rtol = max(1e-7, 1e3 * self.experiment.differences.relative_noise)
        for number, (a, b) in enumerate(zip(own, theirs, strict=True)):
            name = "output" if len(own) == 1 else f"output {number}"
            if a.shape != b.shape:
                text = f"its shape is {tuple(a.shape)}, the reference's is {tuple(b.shape)}"
                result.add("forward-wrong", name, text)
                continue
            if a.is_complex() or b.is_complex():
                a, b = (
                    torch.view_as_real(a.to(torch.complex128)),
                    torch.view_as_real(b.to(torch.complex128)),
                )
            x, y = flat([a]), flat([b])
            known = torch.isfinite(y)
            odd = known != torch.isfinite(x)
            scale = float(y[known].abs().max()) if bool(known.any()) else 0.0
            off = (x - y).abs().masked_fill(~known, 0.0).nan_to_num(torch.inf)
            if bool(odd.any()) or bool((off > rtol * scale).any()):
                k = int((off + odd.double()).argmax())
                at = f"At element {k}: {float(x[k]):.6g}, reference {float(y[k]):.6g}"
                text = f"its value differs from the reference's. {at}"
                below = float(y[known] @ y[known])
                ratio = float(x[known] @ y[known]) / below if below else 0.0
                if bool(((x - ratio * y)[known].abs() <= 1e-6 * scale).all()) and x.numel() > 2:
                    text += f"; all elements are {ratio:.6g} times the reference's"
                result.add("forward-wrong", name, text)
        for number in self.lost if self.case.checked else ():
            text = "the reference's requires a gradient, and this one does not"
            result.add("missing-gradient", f"output {number}", f"it is cut off: {text}")
        return result

    def _measure(self) -> None:
        if self.gradients:
            return
        # the reference's outputs that the function differentiates too
        own = self.experiment.case.differentiable
        if any(o not in self.case.differentiable for o in own):
            return
        self.case.shapes = [
            shape
            for o, shape in zip(self.case.differentiable, self.case.shapes, strict=True)
            if o in own
        ]
        self.case.differentiable = list(own)
        if self.case.shapes != self.experiment.case.shapes:
            return
        self.gradients = [self.case.gradients(row) for row in self.experiment.cotangents]

    def adopt(self) -> None:
        """Make the reference's gradient the one that the function's own is compared with.

        If it is the derivative, as far as that was measured, it is the sharper number. It fills in
        the elements that were not measured, and kinks stay open. If it is not (straight-through),
        the function must give it at every element.
        """
        try:
            self._measure()
        except CrashError as crash:
            self.not_compared = f"its {crash.stage} raises {crash.line}"
            return
        for i in self.case.checked:
            truth = self.experiment.truths[i]
            theirs = (
                stack([g.get(i) for g in self.gradients], truth.value.shape[1])
                if self.gradients
                else None
            )
            if theirs is None:
                self.not_compared = "its outputs or their shapes are others"
                continue
            finite = torch.isfinite(theirs).all(0)
            # for a cotangent of ones a softmax gives rounding alone: the other cotangents tell
            # what is small
            error = torch.full_like(
                theirs, 1e-12 * float(theirs[:, finite].abs().max() if bool(finite.any()) else 0)
            )
            rtol = max(1e-5, self.experiment.rtol)
            for k in range(len(theirs)):
                known = torch.where(truth.known & finite, truth.value[k], torch.nan)
                if not close(theirs[k], known, truth.error[k] + error[k], rtol):
                    self.experiment.by_reference.add(i)
            rough = torch.zeros_like(finite) if i in self.experiment.by_reference else truth.rough
            self.experiment.truths[i] = Truth(theirs, error, finite & ~rough, rough)
            if i in self.experiment.by_reference:
                self.experiment.columns[i] = None  # every element is known: no random sample
