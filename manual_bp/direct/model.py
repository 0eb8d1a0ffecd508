"""`TrainedModel`: what is asked of a model before each run, and whenever it may have changed."""

from __future__ import annotations

from torch import nn

from manual_bp import backprop
from manual_bp.direct import memory
from manual_bp.direct.backward import refuse_autocast
from manual_bp.direct.task import Descent, Task


class TrainedModel:
    """A model whose parameters `descent` changes in place.

    Args:
        model: as it was when the descent was made.
        descent: of its layers.
    """

    def __init__(self, model: nn.Module, descent: Descent) -> None:
        self._model, self._descent = model, descent
        first = descent.layers[0].weight
        self._device, self._dtype = first.device, first.dtype
        self._shapes = [parameter.shape for _, _, parameter, _ in descent.parameters()]

    def check(self) -> None:
        """Refuse a model that cannot be trained in place, or that has changed meanwhile.

        Raises:
            RuntimeError: another layer, parameter, shape or device, or a frozen parameter.
            TypeError: another dtype.
        """
        memory.refuse_modes()
        refuse_autocast(self._device)
        then = self._descent.layers
        try:
            now = backprop.read(self._model)
        except AttributeError as error:
            raise RuntimeError(f"the model has lost a parameter: {error}") from error
        if len(now) != len(then) or any(
            new.weight is not old.weight or new.bias is not old.bias or new.sigmoid != old.sigmoid
            for new, old in zip(now, then, strict=True)
        ):
            raise RuntimeError(
                "the model has other layers or parameters than it had: make a new Trainer"
            )
        memory.check_layers(now)
        for (layer, name, p, _), shape in zip(
            self._descent.parameters(), self._shapes, strict=True
        ):
            if p.shape != shape:
                raise RuntimeError(
                    f"{layer}: {name} {tuple(p.shape)}, it was {tuple(shape)}: make a new Trainer"
                )
            if p.dtype != self._dtype:
                raise TypeError(
                    f"{layer}: {name} is {p.dtype}, layer 1 was {self._dtype}: one dtype is needed"
                )
            if p.device != self._device:
                raise RuntimeError(
                    f"{layer}: {name} is on {p.device}, layer 1 was on {self._device}"
                )
            if not p.requires_grad:
                raise RuntimeError(f"{layer}: {name} is frozen: use autograd for this model")

    def check_with(self, task: Task) -> None:
        """`check`, and that no tensor of `task` is within what its steps change."""
        self.check()
        memory.check("the table", task.table)
        read = [("images", task.images), ("targets", task.targets)]
        for name, tensor in read:
            memory.check(name, tensor)
        memory.check_apart(self._descent.written(), read)
