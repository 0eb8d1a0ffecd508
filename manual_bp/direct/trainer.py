"""`Trainer`: steps and whole epochs of SGD on a model's own parameters, without autograd."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from manual_bp import backprop
from manual_bp.direct import memory
from manual_bp.direct.cuda_graph import GraphLoop
from manual_bp.direct.model import TrainedModel
from manual_bp.direct.native import NativeLoop
from manual_bp.direct.statistics import SQUARED_ERROR, Statistics, reduce_table
from manual_bp.direct.task import Descent, Loop, LoopUnavailableError, Task, number, prepare
from manual_bp.direct.torch_loop import TorchLoop

BACKENDS = ("auto", "torch", "native", "graph", "epoch")
AUTO = {"cpu": ("native", "torch"), "cuda": ("epoch", "graph")}  # the first that can be had
OTHERS = {"torch": "PyTorch calls", "graph": "CUDA graphs"}
NATIVE_STEP_WEIGHTS = 30_000  # of the first layer, which the C++ loop transposes twice in each call


class Trainer:
    """Backpropagation and SGD in place, for C = s Σ (a − y)² (documents 1, 2 and 3).

        ∂C/∂W = δᵀ a_prev  (n_out, n_in)    ∂C/∂b = Σ_m δ  (n_out,)
        v ← μ v + ∂C/∂W + λ W               W ← W − η v, and b alike

    The trajectory is that of `mse_loss(model(x), y, reduction)`, autograd and `torch.optim.SGD`.
    Every call updates the model's own parameters, so `model.state_dict()` is always current. Their
    `.grad` is neither read nor written.

    The same inputs give the same bytes, whatever came before. The native backend gives them for
    every number of threads, the torch backend as far as the machine's BLAS library does.

    Args:
        model: an `MLP`, or any `nn.Sequential` of Linear layers, each with or without a Sigmoid
            after it, in float32 or float64, with no frozen or shared parameter.
        reduction: the cost's, as in `manual_bp.functional.mse_loss`, except "none".
        lr: η of `step`, and of `run` without `lrs`. It may be changed at any time.
        momentum: μ.
        weight_decay: λ, for biases too, as in torch.optim.SGD with one parameter group.
        batch_size: m, the largest batch.
        backend: "torch" is a loop of PyTorch calls; "native" a loop in C++, compiled on first use
            (CPU only); "graph" the PyTorch calls recorded as CUDA graphs (CUDA only); "epoch" one
            Triton kernel for a whole epoch (CUDA, one hidden layer, float32). "auto" is native on
            the CPU and epoch on CUDA where they can be had, else torch and graph. With "auto" on
            the CPU, `step` uses PyTorch calls where the first layer is large.

    Attributes:
        backend: "torch", "native", "graph" or "epoch".
        device: of the model.
        dtype: of the model.

    Raises:
        TypeError: a module other than Linear and Sigmoid, another dtype, parameters that are no
            plain tensors, or an option that is no number.
        RuntimeError: hooks, frozen or shared parameters, parameters without memory of their own,
            inference mode, shapes that do not fit, or a backend that cannot be had here.
        ValueError: an unknown reduction or backend, or a number out of range.
    """

    # The loops were made for these values: they are read-only.
    reduction = property(operator.attrgetter("_descent.reduction"))
    momentum = property(operator.attrgetter("_descent.momentum"))
    weight_decay = property(operator.attrgetter("_descent.weight_decay"))
    batch_size = property(operator.attrgetter("_descent.batch_size"))

    def __init__(
        self,
        model: nn.Module,
        *,
        reduction: str = "mean",
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        batch_size: int,
        backend: str = "auto",
    ) -> None:
        backprop.check_cost(reduction)
        if backend not in BACKENDS:
            raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
        if not hasattr(batch_size, "__index__"):
            raise TypeError(f"batch_size {batch_size!r} is not a whole number")
        batch_size = operator.index(batch_size)
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} is less than 1")
        memory.refuse_modes()
        layers = backprop.read(model)
        memory.check_layers(layers)
        first = layers[0].weight
        if first.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"the model is {first.dtype}: float32 or float64 is needed")
        lr = number("lr", lr, first.dtype)
        momentum = number("momentum", momentum, first.dtype)
        weight_decay = number("weight_decay", weight_decay, first.dtype)
        self.lr, self.device, self.dtype = lr, first.device, first.dtype

        def velocity(parameter: Tensor | None) -> Tensor | None:
            if not momentum or parameter is None:
                return None
            return torch.zeros_like(parameter, memory_format=torch.contiguous_format)

        velocities = [(velocity(layer.weight), velocity(layer.bias)) for layer in layers]
        self._descent = Descent(layers, velocities, reduction, momentum, weight_decay, batch_size)
        self._model = TrainedModel(model, self._descent)
        self._model.check()
        memory.check_apart(self._descent.written(), [])
        memory.check_writable(self._descent.written())
        self.backend, self._loop = self._choose(backend)
        self._step_loop = self._loop
        if backend == "auto" and self.backend == "native" and first.numel() > NATIVE_STEP_WEIGHTS:
            self._step_loop = TorchLoop(self._descent)

    def _choose(self, backend: str) -> tuple[str, Loop]:
        names = AUTO.get(self.device.type, ("torch",)) if backend == "auto" else (backend,)
        for name, worse in pairwise(names):
            try:
                return name, self._loop_of(name)
            except LoopUnavailableError as error:
                print(f"manual_bp: {error}; training with {OTHERS[worse]} instead", file=sys.stderr)
        return names[-1], self._loop_of(names[-1])

    def _loop_of(self, backend: str) -> Loop:
        if backend == "native":
            return NativeLoop(self._descent)
        if backend == "torch":
            return TorchLoop(self._descent)
        if self.device.type != "cuda" and backend == "graph":
            raise RuntimeError(f"backend 'graph' needs a model on CUDA, not on {self.device}")
        if backend == "graph":
            return GraphLoop(self._descent)
        try:
            from manual_bp.direct.epoch_kernel import EpochLoop
        except ImportError as error:
            raise LoopUnavailableError(f"no epoch kernel: no Triton ({error})") from None
        return EpochLoop(self._descent)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step on one batch.

        Args:
            x: input of shape (m, n_in), m at most `batch_size`. uint8 is multiplied by 1/255.
            y: target of shape (m, n_out).

        Returns:
            C before the update, a scalar on the device; on a GPU NaN where labels are out of range.

        Raises:
            TypeError: an input that is neither uint8 nor floating, or a model that was converted
                since.
            RuntimeError: shapes that do not fit, an empty batch, or a model that was moved or
                rebuilt since.
        """
        memory.refuse_modes()
        memory.refuse_strangers(x=x, y=y)
        if x.dim() == 0 or not 0 < x.shape[0] <= self.batch_size:
            raise RuntimeError(
                f"x {tuple(x.shape)}: between 1 and batch_size = {self.batch_size} rows are needed"
            )
        task = self._run(self._step_loop, x, y, None, self.lr, norms=False)
        return task.table[0, SQUARED_ERROR] * self._descent.scale(x.shape[0])  # C = s Σ (a − y)²

    def run(
        self,
        images: Tensor,
        targets: Tensor,
        order: Tensor | None = None,
        lrs: Sequence[float] | Tensor | None = None,
        *,
        pixel_scale: float | None = None,
        norms: bool = True,
    ) -> Statistics[float]:
        """One step for each `batch_size` indices of `order`; the last batch may be smaller.

        Args:
            images: N examples on the model's device, uint8 or floating, of shape (N, n_in), or
                (N, ...) with n_in elements each.
            targets: labels of shape (N,), which become one-hot rows; or rows of shape (N, n_out).
            order: indices into `images`, int64, for example `torch.randperm(N)`. None for
                0 … N − 1.
            lrs: a learning rate for each step. None for `lr` throughout.
            pixel_scale: multiplies each element of `images`. None for 1/255 (uint8) or 1
                (floating).
            norms: measure gradient and error-signal norms as well.

        Returns:
            The epoch's figures as floats. The device is waited for once.

        Raises:
            TypeError: images that are neither uint8 nor floating, or a model that was converted
                since.
            RuntimeError: shapes, devices, labels or indices that do not fit, or a model that was
                moved or rebuilt since.
            ValueError: learning rates that are not one number of at least 0 a step.
        """
        return self.launch(images, targets, order, lrs, pixel_scale=pixel_scale, norms=norms).read()

    def launch(
        self,
        images: Tensor,
        targets: Tensor,
        order: Tensor | None = None,
        lrs: Sequence[float] | Tensor | None = None,
        *,
        pixel_scale: float | None = None,
        norms: bool = True,
        progress: Callable[[int], object] = lambda _: None,
    ) -> Statistics[Tensor]:
        """`run` without waiting for the device: `.read()` of the result waits, and gives floats.

        `progress` is called now and then with the number of steps since its last call. An exception
        that it raises ends the epoch there.
        """
        rates = self.lr if lrs is None else lrs
        task = self._run(
            self._loop, images, targets, order, rates, pixel_scale, norms=norms, progress=progress
        )
        return reduce_table(
            task.table,
            self._descent.layers,
            examples=task.examples,
            s=self._descent.scale(task.examples),
            norms=norms,
        )

    def _run(
        self,
        loop: Loop,
        images: Tensor,
        targets: Tensor,
        order: Tensor | None,
        lrs: float | Sequence[float] | Tensor,
        pixel_scale: float | None = None,
        *,
        norms: bool,
        progress: Callable[[int], object] = lambda _: None,
    ) -> Task:
        """The task of these arguments, done."""
        if not callable(progress):
            raise TypeError(f"progress is a {type(progress).__name__}: a function is expected")
        self._model.check()
        task = prepare(
            self._descent, images, targets, order, lrs, pixel_scale=pixel_scale, norms=norms
        )

        def look_again(steps: int) -> None:
            """Whoever was told of progress, or another thread, may have changed the model."""
            progress(steps)
            self._model.check_with(task)

        self._model.check_with(task)
        loop.run(replace(task, progress=look_again))
        for wrong in task.wrong:  # figures of a GPU, of examples that nobody asked for
            task.table.masked_fill_(wrong, math.nan)
        return task

    def state_dict(self) -> dict[str, Any]:
        """Each v by its parameter's name; none without momentum. The model keeps its parameters."""
        return {"momentum": {name: v.clone() for name, v in self._velocities().items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over every v of a `state_dict`.

        Raises:
            RuntimeError: names or shapes that are not this trainer's. Then no v changes.
        """
        if not isinstance(state, dict):
            raise TypeError(f"a state that is a {type(state).__name__}: a dict is expected")
        if not isinstance(state.get("momentum"), dict):
            raise RuntimeError(
                f"a state with {list(state)}: what Trainer.state_dict returned is expected"
            )
        saved, velocities = state["momentum"], self._velocities()
        if set(saved) != set(velocities):
            raise RuntimeError(f"saved momentum for {list(saved)}: {list(velocities)} is expected")
        for name, v in velocities.items():
            memory.refuse_strangers(**{f"saved momentum of {name}": saved[name]})
            if not saved[name].is_floating_point():
                raise TypeError(
                    f"saved momentum of {name} is {saved[name].dtype}: a floating dtype is expected"
                )
            if saved[name].shape != v.shape:
                raise RuntimeError(
                    f"saved momentum of {name} {tuple(saved[name].shape)}: {tuple(v.shape)} is "
                    f"expected"
                )
        for name, v in velocities.items():
            v.copy_(saved[name])

    def _velocities(self) -> dict[str, Tensor]:
        named = self._descent.parameters()
        return {f"{layer.name}{name}": v for layer, name, _, v in named if v is not None}
