"""The default engine: the Functions' forward pass, their backward passes, and the update."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from manual_bp import backprop
from manual_bp.devices import to_device
from manual_bp.direct.cuda_graph import Recorder
from manual_bp.normalisation import scale
from manual_bp.training.dataset import PIXEL_SCALE, Part
from manual_bp.training.measures import cost_per_example
from manual_bp.training.network import criterion
from manual_bp.training.plan import Plan
from manual_bp.training.tally import Tally
from manual_bp.training.world import World


class AutogradEngine:
    """SGD with the gradients that autograd collects from the layers' backward passes.

    With several processes each takes its share of every batch, and DistributedDataParallel adds the
    gradients up: N processes with batches of B walk the same way as one with batches of N · B.
    The layers of `model` are Linear and Sigmoid, ours or torch.nn's.
    """

    def __init__(self, plan: Plan, model: nn.Sequential, world: World) -> None:
        self._plan, self._world = plan, world
        self._layers = backprop.read(model)
        self._parameters = list(model.parameters())
        first = self._parameters[0]
        self._dtype, self._device = first.dtype, first.device
        self._targets = torch.eye(plan.sizes[-1], dtype=self._dtype, device=self._device)
        self._cost = criterion(plan.impl, plan.cost if world.size == 1 else "sum")
        self._descent: Any = _Descent(self._parameters, plan.momentum, plan.weight_decay)
        self._low_precision = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[plan.amp]
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=plan.amp == "fp16")
        self._layers_apart = _Forward(model, retain=world.size > 1)
        forward: Any = self._layers_apart.forward  # its __call__ would cost a small step a percent
        if plan.compile:
            forward = torch.compile(self._layers_apart)
        if world.size > 1:
            forward = DistributedDataParallel(forward if plan.compile else self._layers_apart)
        self._forward = forward
        # A step as a CUDA graph: the Functions are Python, and cost nothing in a replay.
        captured = self._device.type == "cuda" and world.size == 1
        captured &= not plan.compile and not self._scaler.is_enabled()
        self._recorder = Recorder() if captured else None
        self._recorded: dict[int, _Recorded] = {}  # by the examples of a step

    def train_epoch(
        self, part: Part, order: Tensor, rates: Sequence[float], progress: Callable[[int], object]
    ) -> dict[str, Tensor]:
        """As `Engine.train_epoch`."""
        # GradScaler leaves out a step whose gradient overflowed in float16; so do the averages.
        tally = Tally(len(self._parameters), self._targets, self._world, self._scaler.is_enabled())
        batches = order.split(self._plan.batch_size)
        on_device: Sequence[Any] = rates
        if self._recorder is not None:
            on_device = to_device(torch.tensor(rates, dtype=self._dtype), self._device).unbind()
        for rows, rate in zip(batches, on_device, strict=True):
            mine = self._world.share(rows)
            images, labels = part.images[mine], part.labels[mine]
            if self._recorder is None:
                norms, outputs = self.step(images, labels, rate, len(rows))
            else:
                norms, outputs = self._replayed(self._recorder, images, labels, rate)
            tally.add(norms, outputs, labels)
            progress(1)
        squared_error, correct, *norms = tally.values().unbind()
        cost, n_out = self._plan.cost, self._plan.sizes[-1]
        parameters = [name for layer in self._layers for name in layer.parameters]
        tags = ["grad_norm/total", *(f"grad_norm/{name}" for name in parameters)]
        tags += [f"delta_norm/{layer.tag}" for layer in self._layers]
        return {
            "cost/train": cost_per_example(cost, squared_error, len(order), n_out),
            "accuracy/train": correct / len(order),
            **dict(zip(tags, norms, strict=True)),
        }

    def _replayed(
        self, recorder: Recorder, images: Tensor, labels: Tensor, learning_rate: Any
    ) -> tuple[Sequence[Tensor], Tensor]:
        """`step` through a recording for so many examples."""
        m = len(images)
        if m not in self._recorded:
            self._recorded[m] = _Recorded(images.clone(), labels.clone(), learning_rate.clone())
        recorded = self._recorded[m]
        recorded.images.copy_(images)
        recorded.labels.copy_(labels)
        recorded.learning_rate.copy_(learning_rate)

        def work() -> None:
            norms, recorded.outputs = self.step(
                recorded.images, recorded.labels, recorded.learning_rate, m
            )
            recorded.norms = torch.stack(list(norms))

        recorder.do(m, work)
        # A replay does not tell autograd what it changes, as any operation in place does.
        torch.autograd.graph.increment_version([*self._parameters, *self._descent.velocities])
        return recorded.norms.clone().unbind(), recorded.outputs.clone()

    def step(
        self, images: Tensor, labels: Tensor, learning_rate: float | Tensor, batch: int
    ) -> tuple[Sequence[Tensor], Tensor]:
        """One step, W ← W − η ∂C/∂W, on this process's share of a batch of `batch` examples.

        Args:
            images: uint8 (m, pixels).
            labels: int64 (m,).
            learning_rate: η; a scalar on the device in a step that is recorded.
            batch: the examples of the whole batch, over all processes.

        Returns:
            The norms of every parameter's gradient and of every layer's δ (scalars), and the
            outputs (m, n_out).
        """
        x = images.to(self._dtype) * PIXEL_SCALE  # (m, pixels)
        offsets = self._offsets(len(x)) if self._plan.compile else None
        with self._precision():
            outputs, pre_activations = self._forward(x, offsets)
            cost = self._cost(outputs, self._targets[labels])
        if self._world.size > 1:
            # Each share is Σ (a − y)² over its rows, and s is that of the whole batch.
            # DistributedDataParallel averages over the processes where a sum is meant.
            s = scale(self._plan.cost, (batch, self._plan.sizes[-1]))
            cost = cost * (s * self._world.size)
        deltas = self._backward(self._scaler.scale(cost), offsets or pre_activations)
        self._scaler.unscale_(self._descent)
        gradients: list[Tensor] = _gradients(self._parameters)
        if self._low_precision is None:
            norms = torch._foreach_norm([*gradients, *deltas])
        else:  # apart, because their dtypes differ; and ‖δ‖ · 65536 is more than float16 holds
            of_deltas = torch._foreach_norm(list(deltas), dtype=self._dtype)
            norms = (*torch._foreach_norm(gradients), *of_deltas)
        if self._world.size > 1 or self._scaler.is_enabled():  # δ of C itself
            factor = self._scaler.scale(x.new_full((), self._world.size))
            k = len(self._parameters)
            norms = (*norms[:k], *(norm / factor for norm in norms[k:]))
        self._descent.lr = learning_rate
        self._scaler.step(self._descent)
        self._scaler.update()
        return norms, outputs.detach()

    def _backward(self, cost: Tensor, pre_activations: list[Tensor]) -> Sequence[Tensor]:
        """Fill `.grad` of the parameters with ∂cost/∂W and ∂cost/∂b; return δ = ∂cost/∂z (m, n)."""
        if self._world.size > 1:  # DistributedDataParallel sums gradients in `backward` alone
            for parameter in self._parameters:
                parameter.grad = None
            cost.backward()
            return _gradients(pre_activations)
        k = len(self._parameters)
        gradients = torch.autograd.grad(cost, [*self._parameters, *pre_activations])
        for parameter, gradient in zip(self._parameters, gradients[:k], strict=True):
            parameter.grad = gradient
        return gradients[k:]

    def gradients(self, batch: Part) -> list[Tensor]:
        """As `Engine.gradients`."""
        x, y = batch.batch(self._dtype)
        outputs, _ = self._layers_apart(x, None)
        cost = criterion(self._plan.impl, self._plan.cost)(outputs, y)
        return list(torch.autograd.grad(cost, self._parameters))

    def _offsets(self, m: int) -> list[Tensor]:
        """Zeros to add to each z: their gradient is δ, which a compiled graph keeps to itself."""
        dtype = self._low_precision or self._dtype
        zeros = functools.partial(torch.zeros, dtype=dtype, device=self._device, requires_grad=True)
        return [zeros(m, layer.weight.shape[0]) for layer in self._layers]

    def _precision(self) -> AbstractContextManager[Any]:
        if self._low_precision is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._low_precision)

    def state_dict(self) -> dict[str, Any]:
        momentum = [velocity.clone() for velocity in self._descent.velocities]
        return {"momentum": momentum, "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for velocity, saved in zip(self._descent.velocities, state["momentum"], strict=True):
            if not isinstance(saved, Tensor) or saved.shape != velocity.shape:
                expected = tuple(velocity.shape)
                raise ValueError(f"its momentum: a tensor of shape {expected} is expected")
            velocity.copy_(saved)
        self._scaler.load_state_dict(state["scaler"])


def _gradients(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.grad for t in tensors if t.grad is not None]


class _Recorded:
    """What a recorded step reads, and what it gives."""

    norms: Tensor  # of parameters and δs
    outputs: Tensor  # a (m, n_out)

    def __init__(self, images: Tensor, labels: Tensor, learning_rate: Tensor) -> None:
        self.images, self.labels, self.learning_rate = images, labels, learning_rate


class _Descent:
    """v ← μ v + ∂C/∂W + λ W, then W ← W − η v: the steps of `torch.optim.SGD`.

    `torch.optim.SGD` itself takes a sixth of a small step for its bookkeeping.
    """

    # GradScaler reads whether the gradient overflowed, which waits for a GPU, unless a step takes
    # `found_inf`, which is on the device.
    _step_supports_amp_scaling = True
    found_inf: Tensor

    def __init__(
        self, parameters: list[nn.Parameter], momentum: float, weight_decay: float
    ) -> None:
        self.param_groups = [{"params": parameters}]  # where GradScaler looks
        self.lr: float | Tensor = 0.0  # η
        self._parameters, self._momentum, self._weight_decay = parameters, momentum, weight_decay
        self.velocities = [torch.zeros_like(W) for W in parameters] if momentum else []

    @torch.no_grad()
    def step(self) -> None:
        changing = [*self._parameters, *self.velocities] if hasattr(self, "found_inf") else []
        before = [t.clone() for t in changing]
        for i, W in enumerate(self._parameters):
            v = W.grad
            assert v is not None
            if self._weight_decay:
                v = v.add(W, alpha=self._weight_decay)  # ∂C/∂W + λ W
            if self._momentum:
                v = self.velocities[i].mul_(self._momentum).add_(v)  # v ← μ v + ∂C/∂W + λ W
            if isinstance(self.lr, Tensor):
                W.addcmul_(v, self.lr, value=-1)  # W ← W − η v
            else:
                W.add_(v, alpha=-self.lr)
        for t, old in zip(changing, before, strict=True):  # a gradient that overflowed is left out
            t.copy_(torch.where(self.found_inf > 0, old, t))


class _Forward(nn.Module):
    """The layers one by one: the output, and every z, which keeps ∂C/∂z as `.grad` if `retain`."""

    def __init__(self, layers: nn.Sequential, retain: bool) -> None:
        super().__init__()
        self.layers, self._retain = layers, retain
        self._linear = [isinstance(layer, nn.Linear) for layer in layers]

    def forward(self, a: Tensor, offsets: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        pre_activations: list[Tensor] = []
        for layer, linear in zip(self.layers, self._linear, strict=True):
            a = layer(a)
            if linear:
                if offsets is not None:
                    a = a + offsets[len(pre_activations)]
                elif self._retain:
                    a.retain_grad()
                pre_activations.append(a)
        return a, pre_activations
