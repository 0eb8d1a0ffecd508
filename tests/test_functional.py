"""The functional layer: what it refuses and how, autocast, dtypes, extremes, properties."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from manual_bp import functional
from tests.correctness import compare
from tests.correctness.operations import (
    LINEAR,
    MSE,
    NETWORK,
    OPERATIONS,
    SIGMOID,
    Operation,
    twin_mse,
)

T = torch.zeros
META = torch.zeros(2, 3, device="meta")

REFUSED: list[tuple[Callable[[], object], type[Exception], str]] = [
    # the call, the error, the whole line it says
    (
        lambda: functional.linear(T(5, 3), T(4, 2)),
        RuntimeError,
        "linear: input (5, 3) and weight (4, 2): the input's last dimension must equal the "
        "weight's n_in = 2",
    ),
    (
        lambda: functional.linear(T(5, 2), T(3, 4, 2)),
        RuntimeError,
        "linear: input (5, 2) and weight (3, 4, 2): the weight must have the shape (n_out, n_in), "
        "or (n_in,)",
    ),
    (
        lambda: functional.linear(T(5, 2), T(())),
        RuntimeError,
        "linear: input (5, 2) and weight (): the weight must have the shape (n_out, n_in), or "
        "(n_in,)",
    ),
    (
        lambda: functional.linear(T(5, 2), T(2), T(1)),
        RuntimeError,
        "linear: weight (2,) and bias (1,): the bias must have the weight's shape without n_in, ()",
    ),
    (
        lambda: functional.linear(T(()), T(4, 2)),
        RuntimeError,
        "linear: input () and weight (4, 2): the input must have at least one dimension, (..., "
        "n_in = 2)",
    ),
    (
        lambda: functional.linear(T(5, 2), T(4, 2), T(2)),
        RuntimeError,
        "linear: weight (4, 2) and bias (2,): the bias must have the weight's shape without n_in, "
        "(4,)",
    ),
    (
        lambda: functional.linear(T(5, 2), T(4, 2), T(1, 4)),
        RuntimeError,
        "linear: weight (4, 2) and bias (1, 4): the bias must have the weight's shape without "
        "n_in, (4,)",
    ),
    (
        lambda: functional.linear([[1.0, 2.0]], T(4, 2)),  # type: ignore[arg-type]
        TypeError,
        "linear: input must be a tensor, not list",
    ),
    (
        lambda: functional.linear(T(5, 2), T(4, 2), 1.0),  # type: ignore[arg-type]
        TypeError,
        "linear: bias must be a tensor, not float",
    ),
    (
        lambda: functional.linear(T(5, 2), None),  # type: ignore[arg-type]
        TypeError,
        "linear: weight must be a tensor, not NoneType",
    ),
    (
        lambda: functional.linear(T(5, 2, dtype=torch.long), T(4, 2)),
        TypeError,
        "linear: input has dtype int64: a floating dtype is needed",
    ),
    (
        lambda: functional.linear(T(5, 2), T(4, 2, dtype=torch.float64)),
        RuntimeError,
        "linear: input float32, weight float64: all must have one dtype; convert with .to(dtype), "
        "or compute under torch.autocast (which leaves float64 as it is)",
    ),
    (
        lambda: functional.linear(T(5, 2), T(4, 2), T(4).half()),
        RuntimeError,
        "linear: input float32, weight float32, bias float16: all must have one dtype; convert "
        "with .to(dtype), or compute under torch.autocast (which leaves float64 as it is)",
    ),
    (
        lambda: functional.linear(META, T(4, 3), T(4)),
        RuntimeError,
        "linear: input on meta, weight on cpu, bias on cpu: all must be on one device; move them "
        "with .to(device)",
    ),
    (
        lambda: functional.sigmoid(T(2, dtype=torch.complex64)),
        TypeError,
        "sigmoid: input has dtype complex64: a floating dtype is needed",
    ),
    (
        lambda: functional.sigmoid(T(2, dtype=torch.bool)),
        TypeError,
        "sigmoid: input has dtype bool: a floating dtype is needed",
    ),
    (lambda: functional.sigmoid(0.5), TypeError, "sigmoid: input must be a tensor, not float"),  # type: ignore[arg-type]
    (
        lambda: functional.mse_loss(T(5, 2), T(5)),
        RuntimeError,
        "mse_loss: input (5, 2) and target (5,): the shapes must be equal, nothing is broadcast; "
        "reshape or expand the target",
    ),
    (
        lambda: functional.mse_loss(T(5, 1), T(1, 5)),
        RuntimeError,
        "mse_loss: input (5, 1) and target (1, 5): the shapes must be equal, nothing is broadcast; "
        "reshape or expand the target",
    ),
    (
        lambda: functional.mse_loss(T(5), T(5), "average"),
        ValueError,
        "mse_loss: reduction 'average' is not one of half_per_example, half_per_element, mean, "
        "sum, none",
    ),
    (
        lambda: functional.mse_loss(T(5), 0.5),
        TypeError,
        "mse_loss: target must be a tensor, not float",
    ),  # type: ignore[arg-type]
    (
        lambda: functional.mse_loss(T(5, dtype=torch.long), T(5, dtype=torch.long)),
        TypeError,
        "mse_loss: input has dtype int64: a floating dtype is needed",
    ),
    (
        lambda: functional.mse_loss(META, T(2, 3)),
        RuntimeError,
        "mse_loss: input on meta, target on cpu: all must be on one device; move them with "
        ".to(device)",
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "line"), REFUSED, ids=[line[:60] for _, _, line in REFUSED]
)
def test_bad_input_gets_one_clear_line(
    call: Callable[[], object], error: type[Exception], line: str
) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == line
    raised = caught.value
    assert (
        raised.__context__ is None or raised.__suppress_context__
    )  # no second traceback, of torch's own refusal


def test_linear_refuses_every_mixture_whether_or_not_torch_does() -> None:
    """F.linear takes several: one tensor on meta, a bias that broadcasts, integers alone."""
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.complex64)
    kinds = [(device, dtype) for dtype in dtypes for device in ("cpu", "meta")]
    inputs = [T(4, 3), T(3), T(2, 4, 3), T(2, 3, 4).mT]
    for input, x, w, b in itertools.product(inputs, kinds, kinds, kinds):
        if {x, w, b} == {x} and x[1].is_floating_point:
            continue
        with pytest.raises((RuntimeError, TypeError), match=r"^linear: "):
            functional.linear(input.to(*x), T(5, 3).to(*w), T(5).to(*b))
    for input, shape in itertools.product(inputs, [(), (1,), (3,), (1, 5), (4, 5), (2, 4, 5)]):
        with pytest.raises(RuntimeError, match=r"^linear: weight "):
            functional.linear(input, T(5, 3), T(shape))


def test_linear_refuses_mixtures_of_fake_tensors() -> None:
    """Their products take two dtypes."""
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.int64)
    with FakeTensorMode():
        for rows, x, w, b in itertools.product([(4, 3), (3,), (2, 4, 3)], dtypes, dtypes, dtypes):
            if not (x == w == b and x.is_floating_point):
                with pytest.raises((RuntimeError, TypeError), match=r"^linear: "):
                    functional.linear(T(rows, dtype=x), T(5, 3, dtype=w), T(5, dtype=b))


@pytest.mark.parametrize("wrong", [T(2, 3).double(), T(2, 5)], ids=["dtype", "shape"])
def test_linear_refuses_while_it_is_compiled(wrong: Tensor) -> None:
    """Before its product is traced: what a compiler makes of one may take two dtypes."""

    def refused(x: Tensor, weight: Tensor) -> Tensor:
        try:
            return functional.linear(x, weight)
        except RuntimeError:
            return x - 1

    x = T(1, 3)
    compare.same(torch.compile(refused, backend="eager", fullgraph=True)(x, wrong), x - 1)
    with pytest.raises(RuntimeError, match=r"^linear: input "):
        torch.compile(functional.linear, backend="eager")(x, wrong)


# Autocast brings float32 and float16 to one dtype, so that line is not said under it; all others
# are.
REFUSED_UNDER_AUTOCAST = [
    (call, error, line.replace("input float32", "input bfloat16"))
    for call, error, line in REFUSED
    if "bias float16" not in line
]


@pytest.mark.parametrize(
    ("call", "error", "line"),
    REFUSED_UNDER_AUTOCAST,
    ids=[r[2][:60] for r in REFUSED_UNDER_AUTOCAST],
)
def test_bad_input_gets_the_same_line_under_autocast(
    call: Callable[[], object], error: type[Exception], line: str
) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(error) as caught:
        call()
    assert str(caught.value) == line


def test_the_right_shapes_beside_the_wrong_ones_pass() -> None:
    functional.linear(T(5, 2), T(4, 2), T(4))
    functional.linear(T(2), T(4, 2))
    functional.linear(T(7, 5, 2), T(4, 2), None)
    functional.sigmoid(T(()))
    functional.mse_loss(T(5, 2), T(5, 2), "half_per_example")
    functional.mse_loss(T(5), T(5, dtype=torch.long))
    functional.mse_loss(T(()), T(()))


@pytest.mark.parametrize("reduction", list(MSE))
def test_mse_promotes_two_dtypes_as_torch(reduction: str) -> None:
    a = torch.rand(5, 4, dtype=torch.float32)
    for target in (
        torch.rand(5, 4, dtype=torch.float64),
        torch.rand(5, 4).half(),
        torch.arange(20).reshape(5, 4),
    ):
        ours, gradients = compare.value_and_gradients(
            lambda a, y: functional.mse_loss(a, y, reduction),
            [a, target],
            requires_grad=[True, False],
        )
        # promoted here, because the backward pass of torch 2.11's own refuses two dtypes
        common = torch.promote_types(a.dtype, target.dtype)
        twin, twin_gradients = compare.value_and_gradients(
            lambda a, y, common=common: twin_mse(a.to(common), y.to(common), reduction),
            [a, target],
            requires_grad=[True, False],
        )
        assert ours.dtype == torch.nn.functional.mse_loss(a, target).dtype
        compare.agree(ours, twin)
        compare.all_of(compare.agree, gradients, twin_gradients)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_sigmoid_at_the_extremes(dtype: torch.dtype) -> None:
    z = torch.tensor(
        [-torch.inf, -1e4, -300.0, -20.0, -8.0, 0.0, 8.0, 20.0, 300.0, 1e4, torch.inf], dtype=dtype
    )
    value, (gradient,) = compare.value_and_gradients(
        functional.sigmoid, [z], cotangent=torch.ones_like(z)
    )
    twin, (twin_gradient,) = compare.value_and_gradients(
        torch.sigmoid, [z], cotangent=torch.ones_like(z)
    )
    compare.same(value, twin)
    compare.same(gradient, twin_gradient, ulps=2)
    assert gradient[5] == 0.25
    assert float(gradient[0]) == float(gradient[-1]) == 0.0


@pytest.mark.parametrize("op", [LINEAR, SIGMOID, MSE["half_per_example"], NETWORK], ids=str)
def test_nan_goes_through_and_is_not_hidden(op: Operation) -> None:
    inputs = list(op.inputs())
    inputs[0] = inputs[0].clone()
    inputs[0][1, 1] = torch.nan
    value, gradients = compare.value_and_gradients(op.ours, inputs)
    twin, twin_gradients = compare.value_and_gradients(op.twin, inputs)
    assert torch.equal(value.isnan(), twin.isnan())
    assert [g.isnan().tolist() for g in gradients] == [g.isnan().tolist() for g in twin_gradients]
    assert value.isnan().any()


@pytest.mark.parametrize("reduction", ["half_per_example", "half_per_element"])
def test_half_precision_cost_does_not_overflow_where_the_mean_fits(reduction: str) -> None:
    a = torch.full((4096, 64), 2.0, dtype=torch.float16)
    cost = functional.mse_loss(a, torch.zeros_like(a), reduction)
    expected = 128.0 if reduction == "half_per_example" else 2.0  # ½ · 64 · 2², ½ · 2²
    assert cost.dtype == torch.float16
    assert float(cost) == expected


def test_none_of_the_arguments_is_changed() -> None:
    for op in OPERATIONS:
        inputs = op.inputs()
        before = [t.clone() for t in inputs]
        compare.value_and_gradients(op.ours, inputs)
        compare.all_of(compare.same, inputs, before)


def test_argument_names_are_torchs() -> None:
    x, weight, bias = LINEAR.inputs()
    compare.agree(
        functional.linear(input=x, weight=weight, bias=bias),
        F.linear(input=x, weight=weight, bias=bias),
    )
    compare.agree(functional.sigmoid(input=x), torch.sigmoid(input=x))
    compare.agree(
        functional.mse_loss(input=x, target=x.sin(), reduction="sum"),
        F.mse_loss(input=x, target=x.sin(), reduction="sum"),
    )


@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_linear_of_one_unit_without_its_dimension(leading: tuple[int, ...], biased: bool) -> None:
    x, weight, bias = LINEAR.inputs(leading=leading)
    inputs = [x, weight[0], bias[0]] if biased else [x, weight[0]]
    ours, gradients = compare.value_and_gradients(functional.linear, inputs)
    # F.linear itself takes such a weight, but fails with a bias and a two-dimensional input.
    twin, twin_gradients = compare.value_and_gradients(lambda x, w, b=0: F.linear(x, w) + b, inputs)
    compare.agree(ours, twin)
    compare.all_of(compare.agree, gradients, twin_gradients, zero=leading == (0,))


sizes = st.integers(0, 4)


@settings(max_examples=60, deadline=None)
@given(
    leading=st.lists(sizes, max_size=3),
    n_in=sizes,
    n_out=sizes,
    biased=st.booleans(),
    seed=st.integers(0, 9),
)
def test_linear_of_any_shape_equals_the_twin(
    leading: list[int], n_in: int, n_out: int, biased: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def make(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1

    inputs = [make(*leading, n_in), make(n_out, n_in)] + ([make(n_out)] if biased else [])
    ours, gradients = compare.value_and_gradients(functional.linear, inputs)
    twin, twin_gradients = compare.value_and_gradients(F.linear, inputs)
    compare.agree(ours, twin, zero=True)
    compare.all_of(compare.agree, gradients, twin_gradients, zero=True)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), max_size=4),
    reduction=st.sampled_from(list(MSE)),
    seed=st.integers(0, 9),
)
def test_mse_of_any_shape_equals_the_twin(shape: list[int], reduction: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    ours, gradients = compare.value_and_gradients(
        lambda a, y: functional.mse_loss(a, y, reduction), inputs
    )
    twin, twin_gradients = compare.value_and_gradients(
        lambda a, y: twin_mse(a, y, reduction), inputs
    )
    compare.agree(ours, twin)
    compare.all_of(compare.agree, gradients, twin_gradients)


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 6),
    n_out=st.integers(1, 5),
    pair=st.permutations(["half_per_example", "half_per_element", "mean"]),
)
def test_the_normalisations_differ_by_their_formulas(m: int, n_out: int, pair: list[str]) -> None:
    s = {
        "half_per_example": 1 / (2 * m),
        "half_per_element": 1 / (2 * m * n_out),
        "mean": 1 / (m * n_out),
    }
    a, y = torch.rand(2, m, n_out, dtype=torch.float64)
    total, totals = compare.value_and_gradients(
        lambda a, y: functional.mse_loss(a, y, "sum"), [a, y]
    )
    for name in pair:
        cost, gradients = compare.value_and_gradients(
            lambda a, y, name=name: functional.mse_loss(a, y, name), [a, y]
        )
        compare.agree(cost, s[name] * total)
        compare.all_of(compare.agree, gradients, [s[name] * t for t in totals])


def test_the_message_of_a_refused_shape_names_both_shapes() -> None:
    with pytest.raises(RuntimeError, match=re.escape("(7, 5, 3)") + ".*" + re.escape("(4, 2)")):
        functional.linear(T(7, 5, 3), T(4, 2))
