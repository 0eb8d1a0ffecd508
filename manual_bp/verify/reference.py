"""A function that is said to compute the same: its values, and its gradients through autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manual_bp.verify.case import Case, CrashError, flat
from manual_bp.verify.experiment import Experiment, close
from manual_bp.verify.probes.result import Result
from manual_bp.verify.subject import subject_of


class Reference:
    """The reference on the same arguments as the experiment's case."""

    def __init__(self, function: Any, experiment: Experiment, given: Case) -> None:
        self.experiment = experiment
        self.gradients: list[dict[int, Tensor | None]] = []
        case = experiment.case
        inputs = case.args[: case.subject.inputs]  # without a module's parameters: the reference has its own
        subject = subject_of(function, [a.detach() if isinstance(a, Tensor) else a for a in inputs])
        checked = [i for i in case.checked if i < len(inputs)]
        self.case = Case(subject, subject.args, checked, case.seed)
        try:
            self.case.prepare()
        except CrashError as crash:
            raise ValueError(f"check: the reference raises {crash.line}: it must take the same inputs") from crash
        self.case.random = self.case.random or case.random

    def compare_forward(self) -> Result:
        """Shapes and values of all returned tensors."""
        result = Result()
        own, theirs = self.experiment.case.values(), self.case.values()
        if len(own) != len(theirs):
            result.add("forward-wrong", "output", f"it returns {len(own)} tensors, the reference {len(theirs)}")
            return result
        rtol = max(1e-7, 1e3 * self.experiment.differences.relative_noise)
        for number, (a, b) in enumerate(zip(own, theirs, strict=True)):
            name = "output" if len(own) == 1 else f"output {number}"
            if a.shape != b.shape:
                text = f"its shape is {tuple(a.shape)}, the reference's is {tuple(b.shape)}"
                result.add("forward-wrong", name, text)
                continue
            if a.is_complex() or b.is_complex():
                a, b = torch.view_as_real(a.to(torch.complex128)), torch.view_as_real(b.to(torch.complex128))
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
        return result

    def _measure(self) -> None:
        if self.gradients or self.case.shapes != self.experiment.case.shapes:
            return
        self.gradients = [self.case.gradients(row) for row in self.experiment.cotangents]

    def complete(self) -> None:
        """Where a sample of the coordinates was measured, take the reference's gradient for the rest."""
        if not self.experiment.sampled:
            return
        try:
            self._measure()
        except CrashError:
            return
        for i in self.case.checked:
            truth = self.experiment.truths[i]
            rows = [g.get(i) for g in self.gradients]
            if not rows or any(r is None for r in rows):
                continue
            theirs = torch.stack([flat([r]) for r in rows if r is not None])
            if not close(theirs[0], torch.where(truth.known, truth.value[0], torch.nan), truth.error[0], 1e-5):
                continue  # straight-through, or something else that is not the derivative
            rest = ~truth.known & ~truth.rough
            truth.value = torch.where(rest, theirs, truth.value)
            truth.error = torch.where(rest, 1e-9 * theirs.abs(), truth.error)
            truth.known = truth.known | rest

    def agrees(self, position: int) -> bool:
        """Whether the function's gradient is the reference's, for every cotangent."""
        try:
            self._measure()
        except CrashError:
            return False
        if not self.gradients or position not in self.case.checked:
            return False
        for k, gradients in enumerate(self.gradients):
            theirs = gradients[position]
            if theirs is None:
                return False
            own = self.experiment.gradient(position, k)
            value = flat([theirs]).reshape(own.shape)
            if not close(own, value, torch.zeros_like(value), max(1e-6, self.experiment.rtol)):
                return False
        return True
