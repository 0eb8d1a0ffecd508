"""Columns of the matrix: the ways PyTorch runs, stores, copies, ships and distributes code."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn
from torch.func import grad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from tests.correctness import compare, distributed
from tests.correctness.checks_compile import judge
from tests.correctness.operations import OPERATIONS, Operation
from tests.correctness.poison import poisoned

Function = Callable[..., Any]


def _as_the_twin(
    op: Operation, run: Callable[[Function], Function], comparison: Function = compare.agree
) -> None:
    """run(ours) gives the twin's value and gradients, and the poison shows that our rule ran."""
    inputs = op.inputs()
    value, gradients = compare.value_and_gradients(run(op.ours), inputs)
    twin_value, twin_gradients = compare.value_and_gradients(op.twin, inputs)
    comparison(value, twin_value)
    compare.all_of(comparison, gradients, twin_gradients)
    with poisoned():
        wrong = compare.value_and_gradients(op.ours, inputs)[1]
        seen = compare.value_and_gradients(run(op.ours), inputs)[1]
    judge(seen, wrong, gradients)


def backward(op: Operation) -> None:
    _as_the_twin(op, lambda f: f)


def checkpoint_reentrant(op: Operation) -> None:
    _as_the_twin(op, lambda f: lambda *t: checkpoint(f, *t, use_reentrant=True))


def checkpoint_non_reentrant(op: Operation) -> None:
    _as_the_twin(op, lambda f: lambda *t: checkpoint(f, *t, use_reentrant=False))


def _under(context: Callable[[], Any]) -> Callable[[Function], Function]:
    def run(function: Function) -> Function:
        def inside(*t: Tensor) -> Tensor:
            with context():
                return function(*t)  # type: ignore[no-any-return]

        return inside

    return run


def saved_tensors_hooks(op: Operation) -> None:
    """Saved tensors that went through NumPy and back."""
    _as_the_twin(
        op,
        _under(
            lambda: torch.autograd.graph.saved_tensors_hooks(
                lambda t: t.detach().numpy().copy(), lambda stored: torch.from_numpy(stored)
            )
        ),
    )


def save_on_cpu(op: Operation) -> None:
    _as_the_twin(op, _under(torch.autograd.graph.save_on_cpu))


def _autocast(op: Operation, device: str, dtype: torch.dtype) -> None:
    """As accurate as the twin under the same autocast, and of its dtypes."""
    inputs = op.inputs(torch.float32, device=device)
    with torch.autocast(device, dtype=dtype):
        casts = op.twin(*inputs).dtype
    cotangent = compare.make_cotangent(op.twin(*inputs)).to(casts)
    run = _under(lambda: torch.autocast(device, dtype=dtype))
    ours = compare.value_and_gradients(run(op.ours), inputs, cotangent=cotangent)
    twin = compare.value_and_gradients(run(op.twin), inputs, cotangent=cotangent)
    exact = compare.value_and_gradients(
        op.twin, [t.double() for t in inputs], cotangent=cotangent.double()
    )
    compare.accurate(ours[0], twin[0], exact[0])
    compare.all_of(compare.accurate, ours[1], twin[1], exact[1])


def autocast_bfloat16(op: Operation) -> None:
    _autocast(op, "cpu", torch.bfloat16)


def autocast_float16(op: Operation) -> None:
    _autocast(op, "cpu", torch.float16)


def grad_scaler(op: Operation, device: str = "cpu") -> None:
    """A GradScaler step gives the twin's unscaled gradients, and skips an overflow."""

    def step(function: Function, scale: float) -> tuple[list[Tensor], list[Tensor], float]:
        parameters = [nn.Parameter(t) for t in op.inputs(torch.float32, device=device)]
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        scaler = torch.amp.GradScaler(device, init_scale=scale)
        with torch.autocast(device, dtype=torch.float16):
            cost = function(*parameters).float().sin().sum()
        scaler.scale(cost).backward()
        scaler.unscale_(optimizer)
        gradients = [p.grad.clone() for p in parameters if p.grad is not None]
        scaler.step(optimizer)
        scaler.update()
        return gradients, [p.detach() for p in parameters], scaler.get_scale()

    ours, after, scale = step(op.ours, 256.0)
    twin, _, _ = step(op.twin, 256.0)
    exact = compare.value_and_gradients(
        lambda *t: op.twin(*t).sin().sum(), op.inputs(device=device), cotangent=_one(device)
    )
    # Not rounded once but by a chain of casts: measured against the twin's own distance from
    # float64.
    for o, t, e in zip(ours, twin, exact[1], strict=True):
        error, yardstick = (o.double() - e).abs().max(), (t.double() - e).abs().max()
        if not error <= 2 * max(yardstick, torch.finfo(torch.float16).eps / 2 * e.abs().max()):
            raise AssertionError(f"error {error:.3g} beside torch's {yardstick:.3g}")
    if any(
        torch.equal(a, b)
        for a, b in zip(after, op.inputs(torch.float32, device=device), strict=True)
    ):
        raise AssertionError("the step was not taken")
    assert scale == 256.0
    _, unmoved, lowered = step(lambda *t: op.ours(*t) * torch.inf, 256.0)
    compare.all_of(compare.same, unmoved, op.inputs(torch.float32, device=device))
    if lowered != 128.0:
        raise AssertionError("the overflow was not noticed")


def _one(device: str) -> Tensor:
    return torch.ones((), dtype=torch.float64, device=device)


def distributed_data_parallel(op: Operation) -> None:
    results = distributed.ran()
    compare.all_of(compare.agree, results["clean", op.name], distributed.alone(op, op.twin))
    with poisoned():
        wrong = distributed.alone(op, op.ours)
    judge(results["poisoned", op.name], wrong, results["clean", op.name])


def arguments(op: Operation, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """What the row's module takes: the inputs that are not its parameters."""
    if any(True for _ in op.module().parameters()):
        return op.inputs(dtype)[:1]
    return op.inputs(dtype)


def trained(op: Operation) -> nn.Module:
    """The row's module after three steps of descent, where it has anything to train."""
    torch.manual_seed(0)
    module = op.module()
    parameters = list(module.parameters())
    if parameters:
        optimizer = torch.optim.SGD(parameters, lr=0.5)
        for _ in range(3):
            optimizer.zero_grad()
            module(*arguments(op)).square().sum().backward()
            optimizer.step()
    return module.requires_grad_(False)


def export(op: Operation) -> None:
    """torch.export of a trained module: equal outputs, any number of examples."""
    module = trained(op)
    examples = torch.export.Dim("examples", min=2)
    shapes = tuple({0: examples} for _ in arguments(op))
    program = torch.export.export(module, arguments(op), dynamic_shapes=shapes)
    for m in (5, 9):
        given = tuple(
            t[:1].expand(m, *t.shape[1:]) * torch.linspace(0.5, 1, m)[:, None]
            for t in arguments(op)
        )
        compare.same(program.module()(*given), module(*given))


class _Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.ModuleList([trained(op) for op in OPERATIONS])
        self.counts = [len(arguments(op)) for op in OPERATIONS]

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        waiting = list(tensors)
        return [
            module(*[waiting.pop(0) for _ in range(count)])
            for module, count in zip(self.rows, self.counts, strict=True)
        ]


@cache
def _onnx() -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Tensor]]:
    """All trained modules in one ONNX model, evaluated by onnx's own reference implementation."""
    from onnx.reference import ReferenceEvaluator

    everything = _Everything()
    given = tuple(t for op in OPERATIONS for t in arguments(op))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(everything, given, dynamo=True, verbose=False)
    evaluator = ReferenceEvaluator(program.model_proto)  # type: ignore[union-attr]
    outputs = evaluator.run(
        None, {n: t.numpy() for n, t in zip(evaluator.input_names, given, strict=True)}
    )
    names = [op.name for op in OPERATIONS]
    return dict(zip(names, outputs, strict=True)), dict(zip(names, everything(*given), strict=True))


def onnx(op: Operation) -> None:
    exported, eager = _onnx()
    compare.agree(torch.from_numpy(np.asarray(exported[op.name])), eager[op.name])


def _same_module(op: Operation, module: nn.Module, other: nn.Module) -> None:
    compare.same(other(*arguments(op)), module(*arguments(op)))


def deepcopy(op: Operation) -> None:
    module = trained(op)
    other = copy.deepcopy(module)
    assert type(other) is type(module)
    _same_module(op, module, other)


def pickled(op: Operation) -> None:
    module = trained(op)
    other = pickle.loads(pickle.dumps(module))
    assert type(other) is type(module)
    _same_module(op, module, other)


def state_dict(op: Operation) -> None:
    """From the twin and back to it, strictly."""
    module, twin = trained(op), op.twin_module()
    twin.load_state_dict(module.state_dict(), strict=True)
    compare.agree(twin(*arguments(op)), module(*arguments(op)))
    back = op.module()
    back.load_state_dict(twin.state_dict(), strict=True)
    _same_module(op, module, back)


def functional_call(op: Operation) -> None:
    """torch.func.functional_call with other parameters, and its gradient to them."""
    module, twin = op.module().double(), op.twin_module().double()
    given = arguments(op, torch.float64)
    parameters = {n: (p + 1).sin().detach() for n, p in module.named_parameters()}
    if not parameters:
        compare.agree(torch.func.functional_call(module, {}, given), twin(*given))
        return

    def cost(which: nn.Module) -> Callable[[dict[str, Tensor]], Tensor]:
        return lambda p: torch.func.functional_call(which, p, given).sin().sum()

    ours, theirs = (
        torch.func.grad(cost(module))(parameters),
        torch.func.grad(cost(twin))(parameters),
    )
    compare.all_of(compare.agree, ours.values(), theirs.values())


def cuda(op: Operation) -> None:
    """On the GPU: value and gradients there agree with the twin's there, without TF32."""
    inputs = op.inputs(device="cuda")
    ours, twin = (
        compare.value_and_gradients(op.ours, inputs),
        compare.value_and_gradients(op.twin, inputs),
    )
    compare.agree(ours[0], twin[0])
    compare.all_of(compare.agree, ours[1], twin[1])


def cuda_autocast_bfloat16(op: Operation) -> None:
    _autocast(op, "cuda", torch.bfloat16)


def cuda_autocast_float16(op: Operation) -> None:
    _autocast(op, "cuda", torch.float16)


def cuda_grad_scaler(op: Operation) -> None:
    grad_scaler(op, "cuda")


def symbolic_trace(op: Operation) -> None:
    """torch.fx records the call of our function, and its graph runs our rule."""
    _as_the_twin(op, torch.fx.symbolic_trace)


def make_fx_fake(op: Operation) -> None:
    """The gradient traced on fake tensors, with torch.func inside, computes the twin's."""
    inputs = op.inputs()
    every = tuple(range(len(inputs)))
    traced = make_fx(grad(lambda *t: op.ours(*t).sum(), every), tracing_mode="fake")(*inputs)
    compare.all_of(
        compare.agree,
        traced(*inputs),
        grad(lambda *t: op.twin(*t).sum(), every)(*inputs),
        zero=True,
    )
