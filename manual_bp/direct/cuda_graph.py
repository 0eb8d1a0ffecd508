"""`GraphLoop`: `TorchLoop` on CUDA, with a chunk of steps recorded as a CUDA graph and replayed.

A replay reads everything that differs between chunks from the device: the indices and the learning
rates. After the recording, nothing waits for the GPU until the epoch's statistics are read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.devices import to_device
from manual_bp.direct.task import Task
from manual_bp.direct.torch_loop import LayerViews, TorchLoop


class GraphLoop(TorchLoop):
    """As `TorchLoop`. Parts that are smaller than a whole chunk run unrecorded."""

    _recorded: Task  # a part whose tensors the graph reads and writes
    _replay: Callable[[], object] | None = None
    _key: tuple[object, ...] | None = None  # what the graph was recorded for
    _stream: torch.cuda.Stream | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the graph, which a copy records anew."""
        state = super().__getstate__()
        return {name: state[name] for name in state if name not in GraphLoop.__annotations__}

    @torch.no_grad()
    def run(self, task: Task) -> None:
        """As `Loop.run`."""
        device = task.table.device
        order = torch.arange(task.examples, device=device) if task.order is None else task.order
        rates = to_device(torch.tensor(task.lrs, dtype=task.table.dtype), device)
        task = replace(task, order=order, lrs=rates)
        # The stream that is recorded is one of the current device.
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            if task.examples >= self._recorded_examples:
                self._keep(task)
            super().run(task)

    @property
    def _recorded_examples(self) -> int:
        """The examples of a whole chunk."""
        return self.descent.batch_size * self.steps_per_chunk

    def _keep(self, task: Task) -> None:
        """Copy the data to the addresses that the graph works on.

        Forget the graph where the parameters have moved or the data have another shape.
        """
        addresses = [tensor.data_ptr() for tensor in self.descent.tensors()]
        images, targets = task.images, task.targets
        key = (images.shape, images.dtype, targets.shape, task.pixel_scale, task.norms, *addresses)
        if key == self._key:
            self._recorded.images.copy_(images)
            self._recorded.targets.copy_(targets)
            return
        first = task.part(0, self.steps_per_chunk)
        changing = ("images", "targets", "order", "lrs", "table")
        copies: dict[str, Any] = {name: getattr(first, name).clone() for name in changing}
        self._recorded, self._key, self._replay = replace(first, **copies), key, None

    def _run_part(self, part: Task) -> None:
        if part.examples < self._recorded_examples:
            super()._run_part(part)
            return
        if self._replay is None:
            self._replay = self._record()
        recorded = self._recorded
        for static, now in ((recorded.order, part.order), (recorded.lrs, part.lrs)):
            assert isinstance(static, Tensor)
            assert isinstance(now, Tensor)
            static.copy_(now)
        self._replay()
        # A replay does not tell autograd what it changes, as any operation in place does.
        torch.autograd.graph.increment_version(self.descent.tensors())
        part.table.copy_(recorded.table)

    def _record(self) -> Callable[[], object]:
        """The steps of `_recorded` as a graph; where there can be none, a notice and the calls."""
        work = partial(super()._run_part, self._recorded)
        # The first call cannot be recorded: it makes libraries' handles and this loop's buffers.
        before = [tensor.clone() for tensor in self.descent.tensors()]
        work()
        for tensor, value in zip(self.descent.tensors(), before, strict=True):
            tensor.copy_(value)
        # One stream for this loop. The default stream of torch.cuda.graph is on the device of its
        # first use. And cuBLAS has a workspace a stream, which the first graph there frees.
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: other threads, such as a DataLoader's, may use CUDA meanwhile. The outer
            # `with` resets the current stream, which older torch forgets after a failed capture.
            with (
                torch.cuda.stream(self._stream),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                work()
        except RuntimeError as error:
            print(
                f"manual_bp: no CUDA graph ({str(error).splitlines()[0]}); training call by call",
                file=sys.stderr,
            )
            return work
        return graph.replay

    def _descend(
        self,
        i: int,
        v: LayerViews,
        ones: Tensor,
        lr: float | Tensor,
        two_s: float,
        norm: Tensor | None,
    ) -> None:
        """As `TorchLoop._descend`, with η a scalar on the device."""
        layer, (v_weight, v_bias) = self.layers[i], self.descent.velocities[i]
        gradient = self._gradient(i)
        torch.mm(v.delta_t, v.a_prev, out=gradient)  # ∂C/∂W / 2s = δᵀ a_prev  (n_out, n_in)
        if norm is not None:
            torch.linalg.vector_norm(gradient, out=norm)
        self._update(layer.weight, gradient, v_weight, lr, two_s)
        if layer.bias is not None:
            self._update(layer.bias, v.delta.sum(0), v_bias, lr, two_s)  # ∂C/∂b / 2s = Σ_m δ

    def _update(
        self, parameter: Tensor, gradient: Tensor, velocity: Tensor | None, lr: object, two_s: float
    ) -> None:
        assert isinstance(lr, Tensor)
        gradient.mul_(two_s)
        if self.descent.weight_decay:
            gradient.add_(parameter, alpha=self.descent.weight_decay)
        if velocity is not None:
            velocity.mul_(self.descent.momentum).add_(gradient)  # v ← μ v + ∂C/∂W + λ W
            gradient = velocity
        parameter.addcmul_(gradient, lr, value=-1)  # W ← W − η v
