"""PyTorch's own sample inputs, fed to ours: equal values and gradients.

Where the built-in raises or warns, ours raises and names the shapes. Integers and complex numbers
are refused: they have no gradient here, and a refusal says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import manual_bp as mbp
from manual_bp import functional
from tests.correctness import compare

OURS: dict[str, Callable[..., Tensor]] = {
    "nn.functional.linear": functional.linear,
    "sigmoid": functional.sigmoid,
    "nn.functional.mse_loss": functional.mse_loss,
}
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def op_infos() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing torch's test suite warns
        from torch.testing._internal.common_methods_invocations import op_db
    return {info.full_name: info for info in op_db if info.full_name in OURS}


def _tensors(sample: Any) -> list[Tensor]:
    return [t for t in (sample.input, *sample.args) if isinstance(t, Tensor)]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(OURS))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sample_inputs(op_infos: dict[str, Any], name: str, dtype: torch.dtype) -> None:
    info = op_infos[name]
    seen = 0
    for sample in [*info.sample_inputs("cpu", dtype), *info.reference_inputs("cpu", dtype)]:
        tensors = [t for t in (sample.input, *sample.args) if isinstance(t, Tensor)]
        rest = sample.args[len(tensors) - 1 :]
        ours, twin = (_run(f, tensors, rest, sample.kwargs) for f in (OURS[name], info.op))
        if dtype == torch.float64:
            compare.all_of(compare.agree, ours, twin, zero=True)
        else:
            for o, t, e in zip(
                ours,
                twin,
                _run(info.op, [t.double() for t in tensors], rest, sample.kwargs),
                strict=True,
            ):
                _near(o, t, e)
        seen += 1
    assert seen >= 6


def _run(
    function: Callable[..., Tensor], tensors: list[Tensor], rest: Any, kwargs: Any
) -> tuple[Tensor, ...]:
    value, gradients = compare.value_and_gradients(
        lambda *t: function(*t, *rest, **kwargs), tensors
    )
    return (value, *gradients)


def _near(ours: Tensor, twin: Tensor, exact: Tensor) -> None:
    """As accurate as the twin, or within 1½ units where the twin is exact by luck."""
    assert (ours.shape, ours.dtype) == (twin.shape, twin.dtype)
    dtype = ours.dtype
    assert torch.equal(ours.isnan(), twin.isnan())
    assert torch.equal(ours.isinf(), twin.isinf())
    finite = twin.isfinite() & exact.isfinite()
    ours, twin, exact = ours[finite].double(), twin[finite].double(), exact[finite]
    if exact.numel():
        unit = torch.finfo(dtype).eps * float(exact.abs().max())
        error, yardstick = float((ours - exact).abs().max()), float((twin - exact).abs().max())
        assert error <= max(2 * yardstick, 1.5 * unit), (
            f"{error:.3g} beside {yardstick:.3g} of {exact.abs().max():.3g}"
        )


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.complex64], ids=str)
@pytest.mark.parametrize("name", list(OURS))
def test_dtypes_without_a_gradient_here_are_refused(name: str, dtype: torch.dtype) -> None:
    x = torch.ones(2, 3).to(dtype)
    arguments = {"nn.functional.linear": (x, x), "sigmoid": (x,), "nn.functional.mse_loss": (x, x)}[
        name
    ]
    with pytest.raises(
        TypeError, match=rf"dtype {str(dtype).removeprefix('torch.')}: a floating dtype is needed"
    ):
        OURS[name](*arguments)


Z = torch.zeros
BUILTIN_FAILS: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]] = {
    "linear: n_in differs": (functional.linear, F.linear, (Z(5, 3), Z(4, 2))),
    "linear: n_in differs, 1-D": (functional.linear, F.linear, (Z(3), Z(4, 2))),
    "linear: 0-D input": (functional.linear, F.linear, (Z(()), Z(4, 2))),
    "linear: bias of another size": (functional.linear, F.linear, (Z(5, 2), Z(4, 2), Z(3))),
    "linear: weight of three dimensions": (
        functional.linear,
        F.linear,
        (Z(5, 2), Z(3, 4, 2), Z(4)),
    ),
    "linear: two dtypes": (functional.linear, F.linear, (Z(5, 2), Z(4, 2).double())),
    "linear: no tensor": (functional.linear, F.linear, ([1.0], Z(4, 2))),
    "sigmoid: no tensor": (functional.sigmoid, torch.sigmoid, (1.0,)),
    "mse: target broadcast": (functional.mse_loss, F.mse_loss, (Z(5, 1), Z(5))),
    "mse: target with a dimension less": (functional.mse_loss, F.mse_loss, (Z(5, 3), Z(3))),
    "mse: input broadcast": (functional.mse_loss, F.mse_loss, (Z(3), Z(5, 3))),
    "mse: scalar target": (functional.mse_loss, F.mse_loss, (Z(5, 3), Z(()))),
    "mse: shapes that do not broadcast": (functional.mse_loss, F.mse_loss, (Z(5, 3), Z(5, 2))),
    "mse: two integers": (functional.mse_loss, F.mse_loss, (Z(5).long(), Z(5).long())),
    "mse: no tensor": (functional.mse_loss, F.mse_loss, (Z(5), 1.0)),
    "mse: unknown reduction": (
        lambda a, y: functional.mse_loss(a, y, reduction="average"),
        lambda a, y: F.mse_loss(a, y, reduction="average"),
        (Z(5), Z(5)),
    ),
}


@pytest.mark.parametrize(
    ("ours", "builtin", "arguments"), BUILTIN_FAILS.values(), ids=list(BUILTIN_FAILS)
)
def test_where_the_builtin_raises_or_warns_ours_raises_one_line(
    ours: Callable[..., Any], builtin: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    with pytest.raises((RuntimeError, TypeError, ValueError, AttributeError, UserWarning)):
        builtin(*arguments)
    with pytest.raises((RuntimeError, TypeError, ValueError)) as caught:
        ours(*arguments)
    line = str(caught.value)
    assert line.startswith(("linear: ", "sigmoid: ", "mse_loss: "))
    assert "\n" not in line
    if all(isinstance(t, Tensor) for t in arguments) and "shape" in line:
        assert sum(str(tuple(t.shape)) in line for t in arguments) >= 2


def module_samples() -> Iterator[
    tuple[type[nn.Module], tuple[Any, ...], dict[str, Any], tuple[Tensor, ...]]
]:
    """The constructors and inputs with which PyTorch tests nn.Linear, nn.Sigmoid and nn.MSELoss."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_modules import module_db
    for info in module_db:
        if info.module_cls in (nn.Linear, nn.Sigmoid, nn.MSELoss):
            for sample in info.module_inputs_func(
                info, device="cpu", dtype=torch.float64, requires_grad=False, training=True
            ):
                made, given = sample.constructor_input, sample.forward_input
                yield info.module_cls, made.args, made.kwargs, (*given.args, *given.kwargs.values())


@pytest.mark.slow
def test_module_samples() -> None:
    seen = set()
    for twin_class, args, kwargs, inputs in module_samples():
        ours_class = {nn.Linear: mbp.Linear, nn.Sigmoid: mbp.Sigmoid, nn.MSELoss: mbp.MSELoss}[
            twin_class
        ]
        torch.manual_seed(0)
        twin = twin_class(*args, **kwargs).double()
        torch.manual_seed(0)
        ours = ours_class(*args, **kwargs).double()
        value, gradients = compare.value_and_gradients(ours, inputs)
        twin_value, twin_gradients = compare.value_and_gradients(twin, inputs)
        compare.agree(value, twin_value)
        compare.all_of(compare.agree, gradients, twin_gradients)
        for p, q in zip(ours.parameters(), twin.parameters(), strict=True):
            compare.agree(p.grad, q.grad)  # type: ignore[arg-type]
        seen.add(twin_class)
    assert seen == {nn.Linear, nn.Sigmoid, nn.MSELoss}
