"""`TorchLoop`: the steps as PyTorch calls on buffers made once. No autograd, `.grad` or optimizer.

Several steps make a chunk: they share one gather of the images and one reduction of the statistics.
The scalar 2s of ∂C/∂a = 2s (a − y) is left out of δ and put into the factor of each update. So one
matrix product updates W:  W ← W − (η 2s) (δ/2s)ᵀ a_prev.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.direct.statistics import CORRECT, FIRST_NORM, NORMS_PER_LAYER, SQUARED_ERROR
from manual_bp.direct.task import Descent, Task

CHUNK_EXAMPLES = 512  # a chunk's inputs stay in the cache: 512 · 784 · 4 bytes = 1.6 MB
GRAM_BATCH = 32  # up to this m, Gram matrices give ‖δᵀa‖ faster than δᵀa itself


@dataclass
class LayerViews:
    """One layer's rows of a chunk's buffers, for one step."""

    a_prev: Tensor  # (m, n_in)
    a: Tensor  # (m, n_out)
    delta: Tensor  # δ / 2s  (m, n_out)
    delta_t: Tensor  # (n_out, m)


@dataclass
class Chunk:
    """Buffers for several batches of m examples, seen as a whole and step by step."""

    m: int
    x: Tensor  # (steps · m, n_in)
    y: Tensor  # (steps · m, n_out)
    a: list[Tensor]  # by layer, (steps · m, n_out)
    delta: list[Tensor]
    y_steps: tuple[Tensor, ...]
    steps: list[list[LayerViews]]
    ones: Tensor  # (m,)


class TorchLoop:
    """The `Loop` of PyTorch calls, on any device."""

    def __init__(self, descent: Descent) -> None:
        self.descent, self.layers = descent, descent.layers
        self.steps_per_chunk = max(1, CHUNK_EXAMPLES // descent.batch_size)
        self._chunks: dict[tuple[int, int], Chunk] = {}
        self._gradients: list[Tensor | None] = [None] * len(self.layers)
        self._zero = self.layers[0].weight.new_zeros(())

    def __getstate__(self) -> dict[str, Any]:
        """Without the buffers: pickle would give each view memory of its own."""
        return {**self.__dict__, "_chunks": {}, "_gradients": [None] * len(self.layers)}

    @torch.no_grad()
    def run(self, task: Task) -> None:
        """As `Loop.run`."""
        for part in self._parts(task):
            self._run_part(part)
            task.progress(part.table.shape[0])

    def _parts(self, task: Task) -> Iterator[Task]:
        """A part for each chunk, of equal batches. A smaller last batch is a part of its own."""
        whole, rest = divmod(task.examples, task.batch or 1)
        for first in range(0, whole, self.steps_per_chunk):
            yield task.part(first, min(self.steps_per_chunk, whole - first))
        if rest:
            yield task.part(whole, 1)

    def _run_part(self, part: Task) -> None:
        steps = part.table.shape[0]
        chunk = self._chunk(part.examples // steps, steps)
        if part.order is None:
            chunk.x.copy_(part.images)
        else:
            chunk.x.copy_(part.images.index_select(0, part.order))
        part.fill_targets(chunk.y)
        if part.pixel_scale != 1:
            chunk.x.mul_(part.pixel_scale)
        two_s = 2 * self.descent.scale(chunk.m)
        by_gram = chunk.m <= GRAM_BATCH
        rows = zip(chunk.steps, chunk.y_steps, part.lrs, part.table, strict=True)
        for views, y, lr, row in rows:
            self._forward(views)
            self._error_signals(views, y)
            for i, v in enumerate(views):
                norm = self._norm(row, i) if part.norms and not by_gram else None
                self._descend(i, v, chunk.ones, lr, two_s, norm)
        self._measure(chunk, part.table, two_s, part.norms, by_gram)

    def _forward(self, views: list[LayerViews]) -> None:
        for layer, v in zip(self.layers, views, strict=True):
            weight_t = layer.weight.t()
            if layer.bias is None:
                torch.mm(v.a_prev, weight_t, out=v.a)  # z = a_prev Wᵀ  (m, n_out)
            else:
                torch.addmm(layer.bias, v.a_prev, weight_t, out=v.a)  # z = a_prev Wᵀ + b
            if layer.sigmoid:
                v.a.sigmoid_()  # a = σ(z)  (m, n_out)

    def _error_signals(
        self, views: list[LayerViews], y: Tensor, rate: Tensor | None = None
    ) -> None:
        """δ / 2s of every layer, times `rate` where there is one."""
        last = len(views) - 1
        for i in range(last, -1, -1):
            v = views[i]
            if i == last:
                torch.sub(v.a, y, out=v.delta)  # ∂C/∂a / 2s = a − y  (m, n_out)
                if rate is not None:
                    v.delta.mul_(rate)
            else:
                W_next = self.layers[i + 1].weight
                torch.mm(views[i + 1].delta, W_next, out=v.delta)  # ∂C/∂a = δ_next W_next
            if self.layers[i].sigmoid:
                v.delta.lerp_(self._zero, v.a)  # ∂C/∂a ⊙ (1 − a): a of the way from ∂C/∂a to 0
                v.delta.mul_(v.a)  # δ = ∂C/∂a ⊙ (1 − a) ⊙ a  (m, n_out)

    def _descend(
        self, i: int, v: LayerViews, ones: Tensor, lr: Any, two_s: float, norm: Tensor | None
    ) -> None:
        """v ← μ v + 2s δᵀ a_prev + λ W, W ← W − η v, and b with δᵀ 1. Without μ: at once."""
        weight, bias = self.layers[i].weight, self.layers[i].bias
        momentum, decay = self.descent.momentum, self.descent.weight_decay
        v_weight, v_bias = self.descent.velocities[i]
        if v_weight is None:
            self._descend_at_once(i, v, ones, lr, two_s, norm)
            return
        if norm is None:
            v_weight.addmm_(v.delta_t, v.a_prev, beta=momentum, alpha=two_s)
        else:
            v_weight.mul_(momentum).add_(self._gradient(i, v, norm), alpha=two_s)
        if decay:
            v_weight.add_(weight, alpha=decay)
        self._move(weight, v_weight, lr)
        if bias is not None and v_bias is not None:
            v_bias.addmv_(v.delta_t, ones, beta=momentum, alpha=two_s)
            if decay:
                v_bias.add_(bias, alpha=decay)
            self._move(bias, v_bias, lr)

    def _descend_at_once(
        self, i: int, v: LayerViews, ones: Tensor, lr: Any, two_s: float, norm: Tensor | None
    ) -> None:
        """W ← W − η (2s δᵀ a_prev + λ W), and b with δᵀ 1."""
        weight, bias = self.layers[i].weight, self.layers[i].bias
        keep = 1 - lr * self.descent.weight_decay
        if norm is None:
            weight.addmm_(v.delta_t, v.a_prev, beta=keep, alpha=-lr * two_s)
        else:
            gradient = self._gradient(i, v, norm)
            if keep != 1:
                weight.mul_(keep)
            weight.add_(gradient, alpha=-lr * two_s)
        if bias is not None:
            bias.addmv_(v.delta_t, ones, beta=keep, alpha=-lr * two_s)

    def _move(self, parameter: Tensor, v: Tensor, lr: Any) -> None:
        parameter.add_(v, alpha=-lr)  # W ← W − η v

    def _measure(
        self, chunk: Chunk, table: Tensor, two_s: float, norms: bool, by_gram: bool
    ) -> None:
        """Fill the chunk's rows of the table: a handful of calls for all its steps together."""
        steps, m = table.shape[0], chunk.m
        a = chunk.a[-1]
        torch.sum((a - chunk.y).square().view(steps, -1), 1, out=table[:, SQUARED_ERROR])
        right = a.argmax(1) == chunk.y.argmax(1)
        torch.sum(right.view(steps, m), 1, dtype=table.dtype, out=table[:, CORRECT])
        if not norms:
            return
        for i, (a_prev, delta) in enumerate(zip([chunk.x, *chunk.a], chunk.delta, strict=False)):
            d = delta.view(steps, m, -1)
            column = FIRST_NORM + NORMS_PER_LAYER * i
            torch.sum(d.square(), (1, 2), out=table[:, column])  # ‖δ‖²
            if by_gram:
                p = a_prev.view(steps, m, -1)
                products = torch.bmm(d, d.mT) * torch.bmm(p, p.mT)  # (steps, m, m)
                # ‖δᵀ a‖² = Σ_ij (δ δᵀ)_ij (a aᵀ)_ij, which rounding may bring below 0
                table[:, column + 1] = products.sum((1, 2)).clamp_min_(0)
            if self.layers[i].bias is not None:
                torch.sum(d.sum(1).square(), 1, out=table[:, column + 2])  # ‖Σ_m δ‖²
        if not by_gram:
            table[:, FIRST_NORM + 1 :: NORMS_PER_LAYER].square_()
        table[:, FIRST_NORM:].mul_(two_s**2)

    def _norm(self, row: Tensor, i: int) -> Tensor:
        """Where a step's ‖δᵀ a_prev‖ of layer i is kept."""
        return row[FIRST_NORM + NORMS_PER_LAYER * i + 1]

    def _gradient(self, i: int, v: LayerViews, norm: Tensor) -> Tensor:
        """∂C/∂W / 2s of layer i in a buffer, and its norm."""
        gradient = self._gradients[i]
        if gradient is None:
            gradient = self._gradients[i] = torch.empty_like(self.layers[i].weight)
        torch.mm(v.delta_t, v.a_prev, out=gradient)  # ∂C/∂W / 2s = δᵀ a_prev  (n_out, n_in)
        torch.linalg.vector_norm(gradient, out=norm)
        return gradient

    def _chunk(self, m: int, steps: int) -> Chunk:
        """The first m · steps rows of the buffers, which chunks of every shape share."""
        chunk = self._chunks.get((m, steps))
        if chunk is None:
            chunk = self._chunks[m, steps] = self._make_chunk(m, steps)
        return chunk

    def _make_chunk(self, m: int, steps: int) -> Chunk:
        whole = self._chunks.get((self.descent.batch_size, self.steps_per_chunk))
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
