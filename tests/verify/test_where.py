"""Which elements are wrong, and what the gradient is there: said, not counted."""

from __future__ import annotations

import pytest
import torch
from gallery import make

from manual_bp.verify import check

X = torch.tensor([[0.0, 1.3, -0.4], [0.7, 0.0, 2.1], [-1.2, 0.9, 0.3], [1.6, -0.8, -2.2]])
MASK = torch.tensor([[1.0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]])


def saving(f):
    return lambda ctx, *args: (ctx.save_for_backward(*args), f(*args))[1]


def spoiled(spoil):
    """y = x³ + x rowwise summed with its neighbour, so that no gradient is right by chance."""

    def backward(ctx, g):
        x = ctx.saved_tensors[0]
        dx = g.flip(-1) * (3 * x**2 + 1)
        return (spoil(dx.clone(), *ctx.saved_tensors), *[None] * (len(ctx.saved_tensors) - 1))

    return make("Spoiled", saving(lambda x, *rest: (x**3 + x).flip(-1)), backward)


def times(factor, inside):
    return lambda dx, *saved: torch.where(inside(*saved), factor * dx, dx)


def column(dx, *_):
    dx[:, 1] *= 0.5
    return dx


def row(dx, *_):
    dx[:1] = 0
    return dx


def later(dx, *_):
    dx[2:] *= -1
    return dx


CASES = {
    "x[:, 1] (4 of 12 elements): the gradient is half the derivative there": column,
    "x[0, :] (3 of 12 elements): the gradient is 0 there": row,
    "x[2:, :] (6 of 12 elements): the gradient is of the other sign there": later,
    "where x = 0 (2 of 12 elements): the gradient is 3 times the derivative there": times(
        3, lambda x, *_: x == 0
    ),
    "where x > 0 (6 of 12 elements): the gradient is twice the derivative there": times(
        2, lambda x, *_: x > 0
    ),
    "where |x| > 1.25 (4 of 12 elements): the gradient is 0 there": times(
        0, lambda x, *_: x.abs() > 1.25
    ),
}


@pytest.mark.parametrize("text", CASES)
def test_the_wrong_elements_are_described(text):
    (finding,) = check(spoiled(CASES[text]), (X,), names=["x"]).findings
    assert finding.kind == "wrong-values"
    assert f"wrong at {text}" in finding.detail


def test_by_a_mask_that_is_another_argument():
    function = spoiled(times(0.25, lambda x, mask: mask == 0))
    (finding,) = check(function, (X.clone().requires_grad_(), MASK), names=["x", "mask"]).findings
    assert "wrong at where mask = 0 (4 of 12 elements)" in finding.detail
    assert "0.25 times the derivative there" in finding.detail


def test_by_an_index_that_names_a_row_twice():
    index = torch.tensor([1, 3, 1, 0])

    def backward(ctx, g):
        table, index = ctx.saved_tensors
        out = torch.zeros_like(table).index_add(0, index, g * 3 * table[index] ** 2)
        return torch.where((torch.bincount(index, minlength=4) > 1)[:, None], out / 2, out), None

    function = make("Rows", saving(lambda table, index: table[index] ** 3), backward)
    table = torch.randn(4, 3).abs() + 0.5
    (finding,) = check(function, (table, index), names=["table", "index"]).findings
    assert "half the derivative there" in finding.detail
    assert "table[1, :]" in finding.detail or "occur more than once" in finding.detail


def test_a_text_that_is_true_of_any_function_is_not_said():
    scalar = make(
        "Total", saving(lambda x: (x**3).sum()), lambda ctx, g: g * ctx.saved_tensors[0].sin()
    )
    single = make("Cube", saving(lambda x: x**3), lambda ctx, g: g * ctx.saved_tensors[0].sin())
    for function in (scalar, single):
        (finding,) = check(function, (X + 3,)).findings
        assert "elementwise" not in finding.detail
        assert "factor of its own" not in finding.detail


def test_bessels_correction_is_named():
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (x - x.mean(0)) / (x.std(0, correction=0) * x.shape[0])

    function = make("Deviation", saving(lambda x: x.std(0)), backward)
    (finding,) = check(function, (torch.randn(7, 3),)).findings
    assert finding.kind == "constant-factor"
    assert "Bessel's correction" in finding.detail


def test_a_missing_conj_is_named():
    def backward(ctx, g):
        return g * 2 * ctx.saved_tensors[0]

    function = make("Square", saving(lambda z: z * z), backward)
    (finding,) = check(function, (torch.randn(3, dtype=torch.complex128),)).findings
    right = make(
        "Square", saving(lambda z: z * z), lambda ctx, g: g * 2 * ctx.saved_tensors[0].conj()
    )
    assert check(right, (torch.randn(3, dtype=torch.complex128),)).ok
    assert finding.kind == "wrong-values"
    real = make(
        "Size",
        saving(lambda z: (z * z.conj()).real),
        lambda ctx, g: g * 2 * ctx.saved_tensors[0].conj(),
    )
    (finding,) = check(real, (torch.randn(3, dtype=torch.complex128),)).findings
    assert "a conj is missing" in finding.detail


def test_reading_a_part_of_grad_output_is_named():
    function = make(
        "Mean", saving(lambda x: x**2), lambda ctx, g: g.mean() * 2 * ctx.saved_tensors[0]
    )
    (finding,) = check(function, (X + 3,)).findings
    assert finding.kind == "ignores-grad-output"
    assert "its sum or mean" in finding.detail
