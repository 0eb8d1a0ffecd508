"""The error is at most twice the built-in's in the same precision; that assertion can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.correctness import compare
from tests.correctness.operations import LINEAR, MSE, OPERATIONS, Operation

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DRAWS = 8  # inputs pooled in one comparison: in a single draw the built-in may be exact by luck


def check_accuracy(op: Operation, dtype: torch.dtype, leading: tuple[int, ...] = (64,)) -> None:
    """`op` and the twin in `dtype` against the twin in float64 on the same numbers."""
    ours, twin, exact = [], [], []
    for seed in range(DRAWS):
        inputs = op.inputs(dtype, leading, seed)
        g = compare.make_cotangent(op.twin(*inputs))
        ours.append(_flat(op.ours, inputs, g))
        twin.append(_flat(op.twin, inputs, g))
        exact.append(_flat(op.twin, [t.double() for t in inputs], g.double()))
    compare.all_of(compare.accurate, _pooled(ours), _pooled(twin), _pooled(exact))


def _flat(function: Callable[..., Tensor], inputs: object, g: Tensor) -> tuple[Tensor, ...]:
    value, gradients = compare.value_and_gradients(function, inputs, cotangent=g)  # type: ignore[arg-type]
    return (value, *gradients)


def _pooled(draws: list[tuple[Tensor, ...]]) -> Iterator[Tensor]:
    return (torch.stack(tensors) for tensors in zip(*draws, strict=True))


@pytest.mark.parametrize("op", OPERATIONS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("leading", [(64,), (3, 7), (1,), ()], ids=str)
def test_at_most_twice_the_builtins_error(
    op: Operation, dtype: torch.dtype, leading: tuple[int, ...]
) -> None:
    check_accuracy(op, dtype, leading)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_at_most_twice_the_builtins_error_in_a_layer_of_mnists_size(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(64, 784, generator=generator, dtype=torch.float64).to(dtype)
    weight = ((torch.rand(128, 784, generator=generator, dtype=torch.float64) - 0.5) / 14).to(dtype)
    g = ((torch.rand(64, 128, generator=generator, dtype=torch.float64) - 0.4) / 64).to(dtype)
    ours, twin = (
        _flat(LINEAR.ours, [x, weight, weight[:, 0]], g),
        _flat(LINEAR.twin, [x, weight, weight[:, 0]], g),
    )
    exact = _flat(LINEAR.twin, [t.double() for t in (x, weight, weight[:, 0])], g.double())
    compare.all_of(compare.accurate, ours, twin, exact)


def test_a_scaled_float16_gradient_of_a_million_elements_does_not_underflow() -> None:
    """2 s = 2e-6 is subnormal in float16, but GradScaler's factor is multiplied first."""
    generator = torch.Generator().manual_seed(0)
    a, y = (
        torch.rand(100_000, 10, generator=generator, dtype=torch.float64).half() for _ in range(2)
    )
    g = torch.tensor(1024.0, dtype=torch.float16)
    ours = _flat(MSE["mean"].ours, [a, y], g)[1].double()
    exact = _flat(MSE["mean"].twin, [a.double(), y.double()], g.double())[1]
    assert float((ours - exact).abs().max()) <= 2 * torch.finfo(torch.float16).eps * float(
        exact.abs().max()
    )


def test_a_scaled_float16_gradient_of_a_sum_does_not_overflow() -> None:
    a, y = (torch.full((3, 4), value, dtype=torch.float16) for value in (0.5, 0.499))
    g = torch.tensor(2.0**15, dtype=torch.float16)  # 2 g is more than float16 holds
    ours = _flat(MSE["sum"].ours, [a, y], g)[1].double()
    exact = _flat(MSE["sum"].twin, [a.double(), y.double()], g.double())[1]
    assert float((ours - exact).abs().max()) <= 2 * torch.finfo(torch.float16).eps * float(
        exact.abs().max()
    )


# The test of the test: an operation whose gradient is wrong by this much must fail the assertion
# above.


class _Distort(torch.autograd.Function):
    """The identity, with a backward that applies `change` to the gradient."""

    @staticmethod
    def forward(ctx: object, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change  # type: ignore[attr-defined]
        return x.clone()

    @staticmethod
    def backward(ctx: object, g: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.change(g), None  # type: ignore[attr-defined]


def _one_element(g: Tensor) -> Tensor:
    changed = g.clone()
    changed.view(-1)[0] += g.abs().max() / 10
    return changed


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "sign flipped": lambda g: -g,
    "5 % too large": lambda g: g * 1.05,
    "half": lambda g: g / 2,
    "zero": torch.zeros_like,
    "one element off by a tenth of the largest": _one_element,
    "rows reversed": lambda g: g.flip(0),
}


@pytest.mark.parametrize("op", OPERATIONS, ids=str)
@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES], ids=str)
def test_a_wrong_gradient_fails_the_same_assertion(
    op: Operation, wrong: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    distorted = replace(op, ours=lambda x, *others: op.ours(_Distort.apply(x, wrong), *others))
    if dtype == torch.float64:
        expected = compare.value_and_gradients(op.twin, op.inputs())[1]
        with pytest.raises(AssertionError, match="further apart than"):
            compare.all_of(
                compare.agree, compare.value_and_gradients(distorted.ours, op.inputs())[1], expected
            )
        return
    with pytest.raises(AssertionError, match="error above"):
        check_accuracy(distorted, dtype)


def test_comparisons_refuse_what_they_cannot_judge() -> None:
    one, none = torch.ones(3), torch.zeros(3)
    for comparison in (compare.same, compare.agree):
        with pytest.raises(AssertionError, match="a missing gradient would pass"):
            comparison(none, none)
        comparison(none, none, zero=True)
        with pytest.raises(AssertionError):
            comparison(one * 1e-30, none, zero=True)
        with pytest.raises(AssertionError, match="dtype"):
            comparison(one, one.double())
        with pytest.raises(AssertionError, match="shape"):
            comparison(one, one[None])
        with pytest.raises(AssertionError):
            comparison(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 1.0]))
        with pytest.raises(AssertionError):
            comparison(torch.tensor([1.0, 1.0]), torch.tensor([1.0, torch.inf]))
    with pytest.raises(AssertionError, match="a missing gradient would pass"):
        compare.accurate(none, none, none.double())
    with pytest.raises(AssertionError, match="would let an error of 5 %"):
        compare.accurate(one, one * 1.2, one.double())
    with pytest.raises(AssertionError):
        compare.accurate(one * torch.nan, one, one.double())
    compare.same(torch.tensor([1.0 + 2**-22]), torch.tensor([1.0]), ulps=2)
    with pytest.raises(AssertionError, match="more than 2 ulp"):
        compare.same(torch.tensor([1.0 + 2**-21]), torch.tensor([1.0]), ulps=2)
