"""`EagerEngine` on CUDA: a chunk of steps is captured once as a CUDA graph, and replayed by one
launch.

Everything that differs between chunks is read from the device: the indices, the learning rates. But
for the recording, nothing is waited for until the epoch's statistics are read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.direct.eager import Chunk, EagerEngine, LayerViews
from manual_bp.direct.epoch import Epoch
from manual_bp.direct.transfer import to_device


class GraphEngine(EagerEngine):
    """As `EagerEngine`; the last chunk of an epoch, when it is shorter, runs uncaptured."""

    _images: Tensor
    _targets: Tensor
    _indices: Tensor
    _rates: Tensor
    _table: Tensor
    _key: tuple[object, ...] | None = None
    _replay: Callable[[], object] | None = None
    _stream: torch.cuda.Stream | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the graph, which is recorded anew, and the copies it works on."""
        recorded = GraphEngine.__annotations__
        return {
            name: value for name, value in super().__getstate__().items() if name not in recorded
        }

    @torch.no_grad()
    def run(self, epoch: Epoch) -> None:
        """As `Engine.run`."""
        if epoch.images.device.type == "cuda":
            with torch.cuda.device(
                epoch.images.device
            ):  # whose stream is captured, whichever device is current
                self._run(epoch)
        else:
            self._run(epoch)

    def _run(self, epoch: Epoch) -> None:
        images, targets, table = epoch.images, epoch.targets, epoch.table
        pixel_scale, norms = epoch.pixel_scale, epoch.norms
        order = epoch.order
        if order is None:
            order = torch.arange(images.shape[0], device=images.device)
        rates = to_device(torch.tensor(epoch.lrs, dtype=table.dtype), table.device)
        if order.shape[0] >= self.batch_size * self.steps_per_chunk:  # there is a whole chunk
            self._keep(images, targets, pixel_scale, norms)
        step = 0
        for start, m, count in self._plan(order.shape[0]):
            rows, steps = slice(start, start + m * count), slice(step, step + count)
            step += count
            epoch.progress(count)
            if (m, count) != (self.batch_size, self.steps_per_chunk):
                self._chunk_steps(
                    images, targets, order[rows], rates[steps], pixel_scale, table[steps], norms
                )
                continue
            if self._replay is None:
                self._indices, self._rates, self._table = (
                    order[rows].clone(),
                    rates[steps].clone(),
                    table[steps].clone(),
                )
                self._replay = self._record(partial(self._captured, pixel_scale, norms))
            self._indices.copy_(order[rows])
            self._rates.copy_(rates[steps])
            self._replay()
            # Autograd is to know that they changed, as after any operation in place: a launched
            # graph does not tell.
            torch.autograd.graph.increment_version(self._trained())
            table[steps].copy_(self._table)

    def _keep(self, images: Tensor, targets: Tensor, pixel_scale: float, norms: bool) -> None:
        """Copy the data to where the graph was recorded, for it works on fixed addresses.

        Where the parameters have moved, or anything else is not as it was, it is to be recorded
        anew.
        """
        addresses = tuple(tensor.data_ptr() for tensor in self._trained())
        key = (images.shape, images.dtype, targets.shape, pixel_scale, norms, addresses)
        if key == self._key:
            self._images.copy_(images)
            self._targets.copy_(targets)
        else:
            self._key, self._replay = key, None
            self._images, self._targets = images.clone(), targets.clone()

    def _captured(self, pixel_scale: float, norms: bool) -> None:
        self._chunk_steps(
            self._images, self._targets, self._indices, self._rates, pixel_scale, self._table, norms
        )

    def _chunk_steps(
        self,
        images: Tensor,
        targets: Tensor,
        order: Tensor,
        rates: Tensor,
        pixel_scale: float,
        table: Tensor,
        norms: bool,
    ) -> None:
        m = order.shape[0] // rates.shape[0]
        chunk: Chunk = self._chunk(m, rates.shape[0])
        self._load(
            chunk, images.index_select(0, order), targets.index_select(0, order), pixel_scale
        )
        self._steps(chunk, rates, table, norms)

    def _record(self, work: Callable[[], None]) -> Callable[[], object]:
        """`work` as a graph; or `work` itself, with a notice, where it cannot be captured."""
        tensors = self._trained()
        before = [tensor.clone() for tensor in tensors]
        # The first call cannot be captured: libraries make their handles, and this its buffers.
        work()
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
        # A stream of its own: torch.cuda.graph's is on the device that was current when it was
        # first used, and cuBLAS's workspace, which belongs to a stream, would be freed with the
        # first of all graphs recorded there.
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, such as a DataLoader's, may go on using CUDA. The outer `with` puts the
            # current stream back where the inner one fails to: in older versions after a capture
            # that was invalidated.
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

    def _trained(self) -> list[Tensor]:
        tensors = [tensor for layer in self.layers for tensor in (layer.weight, layer.bias)]
        tensors += [buffer for pair in self.buffers for buffer in pair]
        return [tensor for tensor in tensors if tensor is not None]

    def _descend(
        self,
        i: int,
        v: LayerViews,
        ones: Tensor,
        lr: float | Tensor,
        two_s: float,
        norm: Tensor | None,
    ) -> None:
        """As `EagerEngine._descend`, with η a scalar on the device: W ← W − η 2s δᵀ a_prev."""
        gradient = self._gradient(i)
        torch.mm(v.delta_t, v.a_prev, out=gradient)  # ∂C/∂W / 2s = δᵀ a_prev  (n_out, n_in)
        if norm is not None:
            torch.linalg.vector_norm(gradient, out=norm)
        self._apply(self.layers[i].weight, gradient, self.buffers[i][0], lr, two_s)
        bias = self.layers[i].bias
        if bias is not None:
            self._apply(
                bias, v.delta.sum(0), self.buffers[i][1], lr, two_s
            )  # ∂C/∂b / 2s = Σ_m δ  (n_out,)

    def _apply(
        self, parameter: Tensor, gradient: Tensor, buffer: Tensor | None, lr: object, two_s: float
    ) -> None:
        assert isinstance(lr, Tensor)
        gradient.mul_(two_s)
        if self.weight_decay:
            gradient.add_(parameter, alpha=self.weight_decay)
        if buffer is not None:
            buffer.mul_(self.momentum).add_(gradient)  # v ← μ v + ∂C/∂W + λ W
            gradient = buffer
        parameter.addcmul_(gradient, lr, value=-1)  # W ← W − η v
