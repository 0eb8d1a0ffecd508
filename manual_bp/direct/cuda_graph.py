"""`GraphLoop`: `TorchLoop` on CUDA, with the chunks of steps recorded as CUDA graphs and replayed.

A replay reads everything that differs between chunks from the device: the gathered examples and
the learning rates. Nothing waits for the GPU until the epoch's statistics are read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from manual_bp.devices import to_device
from manual_bp.direct.task import Descent, Task
from manual_bp.direct.torch_loop import Chunk, LayerViews, TorchLoop

CHUNK_EXAMPLES = 8192  # of 784 pixels: 26 MB
MOST_STEPS, LEAST_STEPS = 256, 4  # of a chunk: a recorded call takes memory, and so does a batch
STREAMS = 32  # of a device: torch hands them out in turn, again and again

# Who records on which stream. cuBLAS has a workspace a stream, which the first graph that is
# destroyed there frees: the graphs of a second owner would write into memory of others.
_owners: WeakValueDictionary[tuple[torch.device, int], Recorder] = WeakValueDictionary()


class Recorder:
    """Work that repeats on the same tensors: called once, then recorded, and then replayed."""

    def __init__(self) -> None:
        self._replays: dict[Hashable, Callable[[], object] | None] = {}  # None: called once
        self._stream: torch.cuda.Stream | None = None
        self._refused = False

    def __reduce__(self) -> tuple[type[Recorder], tuple[()]]:
        """A copy records anew: a graph can be neither copied nor pickled."""
        return Recorder, ()

    def forget(self) -> None:
        """Record everything anew, because tensors have moved."""
        self._replays = {}

    def do(self, key: Hashable, work: Callable[[], object]) -> None:
        """Do `work`, on the current device. The same key promises the same calls."""
        # The first call cannot be recorded: it makes libraries' handles and buffers.
        if key in self._replays and not self._refused:
            replay = self._replays[key] or self._record(work)
            self._replays[key] = replay
            if replay is not None:
                replay()
                return
        self._replays.setdefault(key, None)
        work()

    def _record(self, work: Callable[[], object]) -> Callable[[], object] | None:
        """`work` as a graph; a notice where there can be none."""
        graph = torch.cuda.CUDAGraph()
        try:
            stream = self._stream = self._stream or self._own_stream()
            # thread_local: other threads, such as a DataLoader's, may use CUDA meanwhile. The outer
            # `with` resets the current stream, which older torch forgets after a failed capture.
            with (
                torch.cuda.stream(stream),
                torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
            ):
                work()
        except RuntimeError as error:
            self._refused = True
            print(
                f"manual_bp: no CUDA graph ({str(error).splitlines()[0]}); training call by call",
                file=sys.stderr,
            )
            return None
        return graph.replay

    def _own_stream(self) -> torch.cuda.Stream:
        """A stream that no other living recorder has."""
        for _ in range(STREAMS):
            stream = torch.cuda.Stream()
            if _owners.setdefault((stream.device, stream.cuda_stream), self) is self:
                return stream
        raise RuntimeError(f"{STREAMS} others record on this device")


@dataclass(frozen=True)
class Inputs:
    """What a recorded chunk reads, beside `Chunk.y`, and the rows that it fills."""

    pixels: Tensor  # (steps · m, n_in), as in `Task.images`
    lrs: Tensor  # η (steps,)
    table: Tensor  # (steps, 2 + 3 layers)


class GraphLoop(TorchLoop):
    """As `TorchLoop`, with η on the device."""

    def __init__(self, descent: Descent) -> None:
        super().__init__(descent)
        steps = CHUNK_EXAMPLES // descent.batch_size
        self.steps_per_chunk = max(LEAST_STEPS, min(steps, MOST_STEPS))
        self._recorder = Recorder()
        self._inputs: dict[Hashable, Inputs] = {}
        self._addresses: list[int] = []

    def __getstate__(self) -> dict[str, Any]:
        """Without the buffers."""
        return {**super().__getstate__(), "_inputs": {}}

    @torch.no_grad()
    def run(self, task: Task) -> None:
        """As `Loop.run`."""
        device = task.table.device
        order = torch.arange(task.examples, device=device) if task.order is None else task.order
        rates = to_device(torch.tensor(task.lrs, dtype=task.table.dtype), device)
        # The stream that is recorded is one of the current device.
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            super().run(replace(task, order=order, lrs=rates))

    def _run_part(self, part: Task) -> None:
        addresses = [tensor.data_ptr() for tensor in self.descent.tensors()]
        if addresses != self._addresses:
            self._recorder.forget()
            self._addresses = addresses
        steps, columns = part.table.shape
        chunk = self._chunk(part.examples // steps, steps)
        shape = (chunk.m, steps, part.images.dtype)
        inputs = self._inputs.get(shape)
        if inputs is None:
            inputs = self._inputs[shape] = Inputs(
                part.images.new_empty(len(chunk.x), part.images.shape[1]),
                part.table.new_empty(steps),
                part.table.new_empty(steps, columns),
            )
        assert isinstance(part.order, Tensor)
        assert isinstance(part.lrs, Tensor)
        torch.index_select(part.images, 0, part.order, out=inputs.pixels)
        part.fill_targets(chunk.y)
        inputs.lrs.copy_(part.lrs)
        work = partial(self._steps, chunk, inputs, part.pixel_scale, part.norms)
        self._recorder.do((shape, part.pixel_scale, part.norms), work)
        # A replay does not tell autograd what it changes, as any operation in place does.
        torch.autograd.graph.increment_version(self.descent.tensors())
        part.table.copy_(inputs.table)

    def _steps(self, chunk: Chunk, inputs: Inputs, pixel_scale: float, norms: bool) -> None:
        """The calls that are recorded.

        Backpropagation is linear: δ of the output times η 2s makes every δ contain η 2s, and then
        W ← W − δᵀ a_prev is one call. Where v or norms need δ itself, the update has the factor.
        """
        chunk.x.copy_(inputs.pixels)
        if pixel_scale != 1:
            chunk.x.mul_(pixel_scale)
        two_s = 2 * self.descent.scale(chunk.m)
        rates, ones = inputs.lrs, chunk.ones.expand(len(inputs.lrs), -1)
        scaled = not (self.descent.momentum or norms)
        if not self.descent.momentum:
            rates = rates * two_s  # η 2s  (steps,)
            ones = ones if scaled else rates[:, None] * ones  # (steps, m)
        rows = zip(chunk.steps, chunk.y_steps, rates, ones, inputs.table, strict=True)
        for views, y, rate, one, row in rows:
            self._forward(views)
            self._error_signals(views, y, rate if scaled else None)
            for i, v in enumerate(views):
                self._descend(i, v, one, rate, two_s, self._norm(row, i) if norms else None)
        self._measure(chunk, inputs.table, two_s, norms, by_gram=False)

    def _descend_at_once(
        self, i: int, v: LayerViews, ones: Tensor, lr: Any, two_s: float, norm: Tensor | None
    ) -> None:
        """W ← W − η (2s δᵀ a_prev + λ W), and b with δᵀ 1; `lr` is η 2s on the device."""
        weight, bias = self.layers[i].weight, self.layers[i].bias
        decay = self.descent.weight_decay / two_s
        if decay:
            weight.addcmul_(weight, lr, value=-decay)  # W ← W − η λ W
        if norm is None:
            weight.addmm_(v.delta_t, v.a_prev, alpha=-1)  # W ← W − δᵀ a_prev, η 2s in δ
        else:
            gradient = self._gradient(i, v, norm)
            weight.addcmul_(gradient, lr, value=-1)  # W ← W − η 2s δᵀ a_prev
        if bias is not None:
            if decay:
                bias.addcmul_(bias, lr, value=-decay)
            bias.addmv_(v.delta_t, ones, alpha=-1)  # b ← b − δᵀ 1, η 2s in δ or in 1

    def _move(self, parameter: Tensor, v: Tensor, lr: Any) -> None:
        parameter.addcmul_(v, lr, value=-1)  # W ← W − η v
