"""`EpochLoop`: a network with one hidden layer, trained by one launch of a Triton kernel.

P programs run at once, and each owns a slice of the hidden units: its rows of W₁ and b₁, its
columns of W₂. A step has one exchange: the programs add up their shares of z₂ = a₁ W₂ᵀ through
memory and wait for one another. All else is their own. b₂ is computed by all of them alike.

With TRITON_INTERPRET=1 Triton runs the kernel on the CPU, where it is proved.
"""

# No `from __future__ import annotations`: Triton reads the annotations of a kernel.
import sys
from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from manual_bp.devices import to_device
from manual_bp.direct.cuda_graph import GraphLoop
from manual_bp.direct.task import Descent, LoopUnavailableError, Task

SLICE_STEPS = 100_000  # of a launch: between two of them Python sees Ctrl-C and progress is told
MOST = {"batch": 64, "hidden": 512, "outputs": 64}  # what a program holds in its registers
PROGRAMS = 16  # at most: far fewer than a GPU has multiprocessors, so all of them run at once
BLOCK_PIXELS = 64  # columns of x and W₁ at a time


@triton.jit
def descend(parameter, gradient, v, rate, momentum, decay):
    v = momentum * v + gradient + decay * parameter  # v ← μ v + ∂C/∂W + λ W
    return parameter - rate * v, v  # W ← W − η v


@triton.jit(do_not_specialize=["m", "examples"])
def train(
    images,  # (N, n_in) uint8 or float32
    targets,  # (N, n_out)
    order,  # (examples,) rows of both
    rates,  # (steps,) η
    W1,  # (n_hidden, n_in)
    b1,
    W2,  # (n_out, n_hidden)
    b2,
    v_W1,  # the velocities, or None where μ is 0
    v_b1,
    v_W2,
    v_b2,
    table,  # (P, steps, 8): each program's part of the rows of statistics.py
    shares,  # (2, P, BM, BO): of z₂, of this step and of the one before
    arrived,  # the programs that have come to the exchanges, counted from 0
    n_in,
    n_hidden,
    n_out,
    m,
    examples,
    pixel_scale,
    two_s,
    two_s_last,  # of a smaller last batch
    momentum,
    decay,
    PROGRAMS: tl.constexpr,
    BM: tl.constexpr,  # rows of a block, at least m
    BH: tl.constexpr,  # hidden units of a program
    BO: tl.constexpr,  # at least n_out
    BK: tl.constexpr,
    SIGMOID_OUTPUT: tl.constexpr,
):
    program = tl.program_id(0)
    rows, outs, pixels = tl.arange(0, BM), tl.arange(0, BO), tl.arange(0, BK)
    hidden = program * BH + tl.arange(0, BH)
    is_hidden, is_out = hidden < n_hidden, outs < n_out
    is_W2 = is_out[:, None] & is_hidden[None, :]
    at_W1 = hidden[:, None] * n_in + pixels[None, :]
    at_W2 = outs[:, None] * n_hidden + hidden[None, :]
    cell = rows[:, None] * BO + outs[None, :]
    w2 = tl.load(W2 + at_W2, mask=is_W2, other=0.0)  # (BO, BH)
    bias1 = tl.load(b1 + hidden, mask=is_hidden, other=0.0)  # (BH,)
    bias2 = tl.load(b2 + outs, mask=is_out, other=0.0)  # (BO,)
    v2, v_bias1, v_bias2 = tl.zeros_like(w2), tl.zeros_like(bias1), tl.zeros_like(bias2)
    if v_W1 is not None:
        v2 = tl.load(v_W2 + at_W2, mask=is_W2, other=0.0)
        v_bias1 = tl.load(v_b1 + hidden, mask=is_hidden, other=0.0)
        v_bias2 = tl.load(v_b2 + outs, mask=is_out, other=0.0)
    steps = tl.cdiv(examples, m)
    for step in range(steps):
        count = tl.minimum(m, examples - step * m)
        factor = tl.where(count == m, two_s, two_s_last)
        eta = tl.load(rates + step)
        is_row = rows < count
        is_target = is_row[:, None] & is_out[None, :]
        picked = tl.load(order + step * m + rows, mask=is_row, other=0)  # (BM,)
        at_x = picked[:, None] * n_in + pixels[None, :]

        z1 = tl.zeros((BM, BH), tl.float32)
        for k in range(0, n_in, BK):
            inside = (k + pixels < n_in)[None, :]
            x = tl.load(images + at_x + k, mask=is_row[:, None] & inside, other=0)
            x = x.to(tl.float32) * pixel_scale  # (BM, BK)
            w = tl.load(W1 + at_W1 + k, mask=is_hidden[:, None] & inside, other=0.0)
            z1 = tl.dot(x, tl.trans(w), z1, input_precision="ieee")  # x W₁ᵀ  (BM, BH)
        z1 += bias1[None, :]  # z₁ = x W₁ᵀ + b₁
        a1 = tl.where(is_hidden[None, :], tl.sigmoid(z1), 0.0)  # a₁ = σ(z₁)
        z2 = tl.dot(a1, tl.trans(w2), input_precision="ieee")  # this program's share  (BM, BO)
        if PROGRAMS > 1:
            # Two sets of shares, by turns: whoever writes one has seen all others read it.
            now = shares + (step % 2) * PROGRAMS * BM * BO
            tl.store(now + program * BM * BO + cell, z2)
            tl.debug_barrier()
            tl.atomic_add(arrived, 1, sem="release", scope="gpu")
            while tl.atomic_add(arrived, 0, sem="acquire", scope="gpu") < PROGRAMS * (step + 1):
                pass
            tl.debug_barrier()
            z2 = tl.zeros((BM, BO), tl.float32)
            for other in tl.static_range(PROGRAMS):
                z2 += tl.load(now + other * BM * BO + cell, cache_modifier=".cg")
        a2 = z2 + bias2[None, :]  # z₂ = a₁ W₂ᵀ + b₂  (BM, BO)
        if SIGMOID_OUTPUT:
            a2 = tl.sigmoid(a2)  # a₂ = σ(z₂)

        y = tl.load(targets + picked[:, None] * n_out + outs[None, :], mask=is_target, other=0.0)
        error = tl.where(is_target, a2 - y, 0.0)
        delta2 = factor * error  # ∂C/∂a₂ = 2s (a₂ − y)  (BM, BO)
        if SIGMOID_OUTPUT:
            delta2 = delta2 * (1 - a2) * a2  # δ₂ = ∂C/∂a₂ ⊙ (1 − a₂) ⊙ a₂
        error1 = tl.dot(delta2, w2, input_precision="ieee")  # ∂C/∂a₁ = δ₂ W₂  (BM, BH)
        delta1 = error1 * (1 - a1) * a1  # δ₁ = ∂C/∂a₁ ⊙ (1 − a₁) ⊙ a₁

        dW2 = tl.dot(tl.trans(delta2), a1, input_precision="ieee")  # ∂C/∂W₂ = δ₂ᵀ a₁  (BO, BH)
        db2, db1 = tl.sum(delta2, 0), tl.sum(delta1, 0)  # ∂C/∂b = Σ_m δ
        w2, v2 = descend(w2, dW2, v2, eta, momentum, decay)
        bias2, v_bias2 = descend(bias2, db2, v_bias2, eta, momentum, decay)
        bias1, v_bias1 = descend(bias1, db1, v_bias1, eta, momentum, decay)
        squares = tl.zeros((BH, BK), tl.float32)
        for k in range(0, n_in, BK):
            inside = (k + pixels < n_in)[None, :]
            x = tl.load(images + at_x + k, mask=is_row[:, None] & inside, other=0)
            x = x.to(tl.float32) * pixel_scale
            dW1 = tl.dot(tl.trans(delta1), x, input_precision="ieee")  # ∂C/∂W₁ = δ₁ᵀ x  (BH, BK)
            inside = is_hidden[:, None] & inside
            w = tl.load(W1 + at_W1 + k, mask=inside, other=0.0)
            v = tl.zeros_like(w)
            if v_W1 is not None:
                v = tl.load(v_W1 + at_W1 + k, mask=inside, other=0.0)
            w, v = descend(w, dW1, v, eta, momentum, decay)
            tl.store(W1 + at_W1 + k, w, mask=inside)
            if v_W1 is not None:
                tl.store(v_W1 + at_W1 + k, v, mask=inside)
            squares += dW1 * dW1
        tl.debug_barrier()  # every thread sees W₁ before the next step reads it

        row = table + (program * steps + step) * 8
        once = (program == 0).to(tl.float32)  # of what all programs know
        nowhere = float("-inf")
        found = tl.argmax(tl.where(is_target, a2, nowhere), 1)
        right = is_row & (found == tl.argmax(tl.where(is_target, y, nowhere), 1))
        tl.store(row + 0, once * tl.sum(error * error))  # Σ (a₂ − y)²
        tl.store(row + 1, once * tl.sum(right.to(tl.float32)))
        tl.store(row + 2, tl.sum(delta1 * delta1))  # ‖δ₁‖²
        tl.store(row + 3, tl.sum(squares))  # ‖∂C/∂W₁‖²
        tl.store(row + 4, tl.sum(db1 * db1))  # ‖∂C/∂b₁‖²
        tl.store(row + 5, once * tl.sum(delta2 * delta2))
        tl.store(row + 6, tl.sum(dW2 * dW2))
        tl.store(row + 7, once * tl.sum(db2 * db2))
    tl.store(W2 + at_W2, w2, mask=is_W2)
    tl.store(b1 + hidden, bias1, mask=is_hidden)
    if program == 0:
        tl.store(b2 + outs, bias2, mask=is_out)
    if v_W1 is not None:
        tl.store(v_W2 + at_W2, v2, mask=is_W2)
        tl.store(v_b1 + hidden, v_bias1, mask=is_hidden)
        if program == 0:
            tl.store(v_b2 + outs, v_bias2, mask=is_out)


class EpochLoop:
    """The `Loop` of one launch for an epoch: one hidden layer, float32, on CUDA.

    Raises:
        LoopUnavailableError: a device, a network or a batch that the kernel is not for.
    """

    def __init__(self, descent: Descent) -> None:
        reason = _misfit(descent)
        if reason is not None:
            raise LoopUnavailableError(f"no epoch kernel: {reason}")
        self.descent = descent
        hidden, outputs = (layer.weight.shape[0] for layer in descent.layers)
        self._units = _block(triton.cdiv(hidden, PROGRAMS))  # BH, of a program
        self._programs = triton.cdiv(hidden, self._units)
        self._rows, self._outs = _block(descent.batch_size), _block(outputs)
        self._launched = False
        self._instead: GraphLoop | None = None

    @torch.no_grad()
    def run(self, task: Task) -> None:
        """As `Loop.run`, in slices that are cut by their number of steps."""
        if self._instead is not None:
            self._instead.run(task)
            return
        device, images = task.table.device, task.images
        order = torch.arange(task.examples, device=device) if task.order is None else task.order
        ready = replace(
            task,
            images=(images if images.dtype == torch.uint8 else images.float()).contiguous(),
            targets=_rows(task, self.descent.layers[-1].weight.shape[0]),
            order=order.contiguous(),
            lrs=to_device(torch.tensor(task.lrs, dtype=torch.float32), device),
        )
        before = None
        for first in range(0, task.table.shape[0], SLICE_STEPS):
            part = ready.part(first, SLICE_STEPS)
            try:
                self._launch(part)
            except Exception as error:  # Triton has many; the first launch compiles
                if self._launched or device.type != "cuda":
                    raise
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                print(
                    f"manual_bp: no epoch kernel ({reason}); training with CUDA graphs instead",
                    file=sys.stderr,
                )
                self._instead = GraphLoop(self.descent)
                self._instead.run(task)
                return
            self._launched = True
            task.progress(part.table.shape[0])
            if device.type == "cuda" and task.table.shape[0] > SLICE_STEPS:
                # One slice runs and one waits: more of them would outlast Ctrl-C.
                event = torch.cuda.Event()
                event.record()
                if before is not None:
                    before.synchronize()
                before = event

    def _launch(self, part: Task) -> None:
        """The steps of `part`, whose rates and order are on the device."""
        descent, programs = self.descent, self._programs
        if not all(tensor.is_contiguous() for tensor in descent.tensors()):
            raise RuntimeError("a parameter is not contiguous any more: make a new Trainer")
        (first, last), pairs = descent.layers, descent.velocities
        steps, columns = part.table.shape
        table = part.table.new_empty(programs, steps, columns)
        n, m = part.examples, part.batch
        train[(programs,)](
            part.images,
            part.targets,
            part.order,
            part.lrs,
            *(first.weight, first.bias, last.weight, last.bias),
            *(v for pair in pairs for v in pair),
            table,
            table.new_empty(2, programs, self._rows, self._outs),
            torch.zeros(1, dtype=torch.int32, device=table.device),
            *(first.weight.shape[1], first.weight.shape[0], last.weight.shape[0]),
            *(m, n, part.pixel_scale),
            *(2 * descent.scale(m), 2 * descent.scale(n % m or m)),
            *(descent.momentum, descent.weight_decay),
            PROGRAMS=programs,
            BM=self._rows,
            BH=self._units,
            BO=self._outs,
            BK=BLOCK_PIXELS,
            SIGMOID_OUTPUT=last.sigmoid,
            num_warps=4 if self._rows <= 32 else 8,
            num_stages=3,
            enable_fp_fusion=True,  # x y + z rounded once
            launch_cooperative_grid=programs > 1,  # all programs run at once, or the launch fails
        )
        torch.sum(table, 0, out=part.table)
        # Tells autograd what changed, as any operation in place does.
        torch.autograd.graph.increment_version(descent.tensors())


def _rows(task: Task, n_out: int) -> Tensor:
    """y of every image, (N, n_out)."""
    if not task.has_labels:
        return task.targets.contiguous()
    rows = task.table.new_empty(len(task.targets), n_out)
    replace(task, order=None).fill_targets(rows)
    return rows


def _block(n: int) -> int:
    """The side of a block that holds n: a power of 2, and at least 16 for a matrix product."""
    return max(16, int(triton.next_power_of_2(n)))


def _misfit(descent: Descent) -> str | None:
    """What the kernel is not for."""
    layers, first = descent.layers, descent.layers[0].weight
    if first.device.type != "cuda" and not triton.knobs.runtime.interpret:
        return f"the model is on {first.device}"
    if first.dtype != torch.float32:
        return f"the model is {first.dtype}"
    if len(layers) != 2 or not layers[0].sigmoid:
        return "it takes one hidden layer with a sigmoid"
    if any(layer.bias is None for layer in layers):
        return "a layer has no bias"
    if not all(tensor.is_contiguous() for tensor in descent.tensors()):
        return "a parameter is not contiguous"
    hidden, outputs = (layer.weight.shape[0] for layer in layers)
    for name, n in (("batch", descent.batch_size), ("hidden", hidden), ("outputs", outputs)):
        if n > MOST[name]:
            return f"{name} {n} is more than {MOST[name]}"
    return None
