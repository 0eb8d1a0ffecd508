"""The algorithm as a loop of PyTorch calls on preallocated buffers: no autograd, no `.grad`, no
optimizer.

Several steps share one gather of the images and one evaluation of the statistics: a chunk. Within
it, each step runs on views made once. The scalar 2s of ∂C/∂a = 2s(a − y) is not multiplied into δ
but into each update's factor, so that the update is one matrix product: W ← W − η 2s · (δ/2s)ᵀ
a_prev.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.direct.epoch import Epoch
from manual_bp.direct.layers import Layer
from manual_bp.direct.statistics import CORRECT, FIRST_NORM, NORMS_PER_LAYER, SQUARED_ERROR
from manual_bp.ops.mse import scale

CHUNK_EXAMPLES = 512  # a chunk's inputs stay in the cache: 512 · 784 · 4 bytes = 1.6 MB
GRAM_BATCH = 32  # up to this batch size ‖δᵀa‖ is cheaper through Gram matrices than by forming δᵀa


@dataclass
class LayerViews:
    """One layer's rows of the chunk's buffers, for one step."""

    a_prev: Tensor  # (m, n_in)
    a: Tensor  # (m, n_out)
    delta: Tensor  # (m, n_out)
    delta_t: Tensor  # (n_out, m)


@dataclass
class Chunk:
    """Buffers for `steps` batches of m examples, seen as a whole and step by step."""

    m: int
    x: Tensor  # (steps · m, n_in)
    y: Tensor  # (steps · m, n_out)
    a: list[Tensor]  # by layer, (steps · m, n_out)
    delta: list[Tensor]
    y_steps: tuple[Tensor, ...]
    steps: list[list[LayerViews]]
    ones: Tensor  # (m,)


class EagerEngine:
    """The loop over `layers`.

    Args:
        layers: of the model; their parameters are updated in place.
        buffers: momentum v of each layer's weight and bias; None without momentum, or without a
            bias.
        reduction: the cost's.
        momentum: μ.
        weight_decay: λ.
        batch_size: examples a step.
    """

    def __init__(
        self,
        layers: list[Layer],
        buffers: list[tuple[Tensor | None, Tensor | None]],
        *,
        reduction: str,
        momentum: float,
        weight_decay: float,
        batch_size: int,
    ) -> None:
        self.layers = layers
        self.buffers = buffers
        self.reduction = reduction
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.steps_per_chunk = max(1, CHUNK_EXAMPLES // batch_size)
        self._chunks: dict[tuple[int, int], Chunk] = {}
        self._gradients: list[Tensor | None] = [None] * len(layers)
        self._zero = layers[0].weight.new_zeros(())

    def __getstate__(self) -> dict[str, Any]:
        """Without the buffers: pickle would make of each view a tensor with memory of its own."""
        return {**self.__dict__, "_chunks": {}, "_gradients": [None] * len(self.layers)}

    @torch.no_grad()
    def run(self, epoch: Epoch) -> None:
        """As `Engine.run`."""
        images, targets = epoch.images, epoch.targets
        step = 0
        for start, m, count in self._plan(epoch.examples):
            rows = slice(start, start + m * count)
            chunk = self._chunk(m, count)
            if epoch.order is None:
                self._load(chunk, images[rows], targets[rows], epoch.pixel_scale)
            else:
                picked = epoch.order[rows]
                self._load(
                    chunk,
                    images.index_select(0, picked),
                    targets.index_select(0, picked),
                    epoch.pixel_scale,
                )
            steps = slice(step, step + count)
            self._steps(chunk, epoch.lrs[steps], epoch.table[steps], epoch.norms)
            epoch.progress(count)
            step += count

    def _plan(self, n: int) -> Iterator[tuple[int, int, int]]:
        """(first row, batch size, number of steps) of each chunk; the last batch may be smaller."""
        full, rest = divmod(n, self.batch_size)
        for first in range(0, full, self.steps_per_chunk):
            yield first * self.batch_size, self.batch_size, min(self.steps_per_chunk, full - first)
        if rest:
            yield full * self.batch_size, rest, 1

    def _load(self, chunk: Chunk, images: Tensor, targets: Tensor, pixel_scale: float) -> None:
        chunk.x.copy_(images)
        chunk.y.copy_(targets)
        if pixel_scale != 1:
            chunk.x.mul_(pixel_scale)

    def _steps(
        self, chunk: Chunk, lrs: Iterable[float | Tensor], table: Tensor, norms: bool
    ) -> None:
        two_s = 2 * scale(self.reduction, chunk.steps[0][-1].a.shape)
        by_gram = chunk.m <= GRAM_BATCH
        for views, y, lr, row in zip(chunk.steps, chunk.y_steps, lrs, table, strict=True):
            self._forward(views)
            self._error_signals(views, y)
            for i, v in enumerate(views):
                norm = row[FIRST_NORM + NORMS_PER_LAYER * i + 1] if norms and not by_gram else None
                self._descend(i, v, chunk.ones, lr, two_s, norm)
        self._statistics(chunk, table, two_s, norms, by_gram)

    def _forward(self, views: list[LayerViews]) -> None:
        for layer, v in zip(self.layers, views, strict=True):
            if layer.bias is None:
                torch.mm(v.a_prev, layer.weight.t(), out=v.a)  # z = a_prev Wᵀ  (m, n_out)
            else:
                torch.addmm(
                    layer.bias, v.a_prev, layer.weight.t(), out=v.a
                )  # z = a_prev Wᵀ + b  (m, n_out)
            if layer.sigmoid:
                v.a.sigmoid_()  # a = σ(z)  (m, n_out)

    def _error_signals(self, views: list[LayerViews], y: Tensor) -> None:
        last = len(views) - 1
        for i in range(last, -1, -1):
            v = views[i]
            if i == last:
                torch.sub(v.a, y, out=v.delta)  # ∂C/∂a / 2s = a − y  (m, n_out)
            else:
                torch.mm(
                    views[i + 1].delta, self.layers[i + 1].weight, out=v.delta
                )  # ∂C/∂a = δ_next W  (m, n_out)
            if self.layers[i].sigmoid:
                v.delta.lerp_(
                    self._zero, v.a
                )  # ∂C/∂a ⊙ (1 − a): from ∂C/∂a the a-th part of the way to 0  (m, n_out)
                v.delta.mul_(v.a)  # δ = ∂C/∂a ⊙ (1 − a) ⊙ a  (m, n_out)

    def _descend(
        self,
        i: int,
        v: LayerViews,
        ones: Tensor,
        lr: float | Tensor,
        two_s: float,
        norm: Tensor | None,
    ) -> None:
        """W ← W − η (2s δᵀ a_prev + λ W), b likewise with 2s δᵀ 1; with momentum μ: v ← μ v + ∂C, W
        ← W − η v.
        """
        assert isinstance(lr, float)
        weight, bias = self.layers[i].weight, self.layers[i].bias
        if norm is not None:
            gradient = self._gradient(i)
            torch.mm(v.delta_t, v.a_prev, out=gradient)  # ∂C/∂W / 2s = δᵀ a_prev  (n_out, n_in)
            torch.linalg.vector_norm(gradient, out=norm)
        if self.momentum:
            weight_buffer, bias_buffer = self.buffers[i]
            assert weight_buffer is not None
            if norm is None:
                weight_buffer.addmm_(v.delta_t, v.a_prev, beta=self.momentum, alpha=two_s)
            else:
                weight_buffer.mul_(self.momentum).add_(gradient, alpha=two_s)
            if self.weight_decay:
                weight_buffer.add_(weight, alpha=self.weight_decay)
            weight.add_(weight_buffer, alpha=-lr)
            if bias is not None and bias_buffer is not None:
                bias_buffer.addmv_(v.delta_t, ones, beta=self.momentum, alpha=two_s)
                if self.weight_decay:
                    bias_buffer.add_(bias, alpha=self.weight_decay)
                bias.add_(bias_buffer, alpha=-lr)
            return
        keep = 1 - lr * self.weight_decay
        if norm is None:
            weight.addmm_(v.delta_t, v.a_prev, beta=keep, alpha=-lr * two_s)
        else:
            if self.weight_decay:
                weight.mul_(keep)
            weight.add_(gradient, alpha=-lr * two_s)
        if bias is not None:
            bias.addmv_(v.delta_t, ones, beta=keep, alpha=-lr * two_s)

    def _statistics(
        self, chunk: Chunk, table: Tensor, two_s: float, norms: bool, by_gram: bool
    ) -> None:
        """Fill the chunk's rows of the table: a handful of calls for all its steps together."""
        steps, m = table.shape[0], chunk.m
        a = chunk.a[-1]
        torch.sum((a - chunk.y).square().view(steps, -1), 1, out=table[:, SQUARED_ERROR])
        right = a.argmax(1) == chunk.y.argmax(1)
        table[:, CORRECT] = right.view(steps, m).sum(1)
        if not norms:
            return
        for i, (a_prev, delta) in enumerate(zip([chunk.x, *chunk.a], chunk.delta, strict=False)):
            d = delta.view(steps, m, -1)
            column = FIRST_NORM + NORMS_PER_LAYER * i
            table[:, column] = d.square().sum((1, 2))
            if by_gram:
                p = a_prev.view(steps, m, -1)
                # ‖δᵀ a‖² = Σ_ij (δ δᵀ)_ij (a aᵀ)_ij, from matrices of (m, m)
                table[:, column + 1] = (
                    (torch.bmm(d, d.mT) * torch.bmm(p, p.mT)).sum((1, 2)).clamp_min_(0)
                )
            else:
                table[:, column + 1].square_()
            if self.layers[i].bias is not None:
                table[:, column + 2] = d.sum(1).square().sum(1)
        table[:, FIRST_NORM:] *= two_s**2

    def _gradient(self, i: int) -> Tensor:
        gradient = self._gradients[i]
        if gradient is None:
            gradient = self._gradients[i] = torch.empty_like(self.layers[i].weight)
        return gradient

    def _chunk(self, m: int, steps: int) -> Chunk:
        """The first m · steps rows of the buffers, which are made once and shared by every shape of
        chunk.
        """
        chunk = self._chunks.get((m, steps))
        if chunk is None:
            chunk = self._chunks[m, steps] = self._make_chunk(m, steps)
        return chunk

    def _make_chunk(self, m: int, steps: int) -> Chunk:
        whole = self._chunks.get((self.batch_size, self.steps_per_chunk))
        weight = self.layers[0].weight
        widths = [weight.shape[1]] + [layer.weight.shape[0] for layer in self.layers]
        n = m * steps
        if whole is not None:
            x, y = whole.x[:n], whole.y[:n]
            a, delta = [t[:n] for t in whole.a], [t[:n] for t in whole.delta]
        else:
            x, y = weight.new_empty(n, widths[0]), weight.new_empty(n, widths[-1])
            a, delta = ([weight.new_empty(n, width) for width in widths[1:]] for _ in range(2))
        split_a_prev, split_a, split_delta = (
            [t.split(m) for t in group] for group in ([x, *a], a, delta)
        )
        views = [
            [
                LayerViews(split_a_prev[i][k], split_a[i][k], d[k], d[k].t())
                for i, d in enumerate(split_delta)
            ]
            for k in range(steps)
        ]
        return Chunk(m, x, y, a, delta, y.split(m), views, weight.new_ones(m))
