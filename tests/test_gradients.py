"""Each operation against PyTorch's gradient checkers and against the built-in twin."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from manual_bp import functional
from tests.correctness import compare
from tests.correctness.operations import OPERATIONS, Operation

every_operation = pytest.mark.parametrize("op", OPERATIONS, ids=str)


def leaves(op: Operation, **options: object) -> tuple[Tensor, ...]:
    return tuple(t.requires_grad_() for t in op.inputs(**options))  # type: ignore[arg-type]


@every_operation
def test_gradcheck_with_every_flag(op: Operation) -> None:
    assert gradcheck(
        op.ours,
        leaves(op),
        check_forward_ad=True,
        check_backward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        check_undefined_grad=True,
        check_grad_dtypes=True,
    )


@every_operation
@pytest.mark.parametrize("non_contiguous", [False, True])
def test_gradgradcheck(op: Operation, non_contiguous: bool) -> None:
    assert gradgradcheck(
        op.ours,
        leaves(op, leading=(2,)),
        check_fwd_over_rev=True,
        check_rev_over_rev=True,
        check_batched_grad=True,
        check_undefined_grad=True,
        check_grad_dtypes=True,
        gen_non_contig_grad_outputs=non_contiguous,
    )


@every_operation
@pytest.mark.parametrize("leading", [(5,), (1,), (), (2, 3), (2, 1, 3), (3, 1, 1, 2)], ids=str)
def test_value_and_gradients_equal_the_twin(op: Operation, leading: tuple[int, ...]) -> None:
    inputs = op.inputs(leading=leading)
    value, gradients = compare.value_and_gradients(op.ours, inputs)
    twin_value, twin_gradients = compare.value_and_gradients(op.twin, inputs)
    compare.agree(value, twin_value)
    compare.all_of(compare.agree, gradients, twin_gradients)


@pytest.mark.parametrize("leading", [(3,), (), (3, 3)], ids=str)
def test_linear_with_a_square_weight_and_as_many_examples(leading: tuple[int, ...]) -> None:
    """All sizes are 3: a transposed product or a sum over the wrong dimension has a right shape."""
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.rand(shape, generator=generator, dtype=torch.float64)
        for shape in ((*leading, 3), (3, 3), (3,))
    ]
    value, gradients = compare.value_and_gradients(functional.linear, inputs)
    twin_value, twin_gradients = compare.value_and_gradients(F.linear, inputs)
    compare.agree(value, twin_value)
    compare.all_of(compare.agree, gradients, twin_gradients)


@every_operation
@pytest.mark.parametrize("leading", [(0,), (2, 0)], ids=str)
def test_empty_batches_equal_the_twin(op: Operation, leading: tuple[int, ...]) -> None:
    inputs = op.inputs(leading=leading)
    value, gradients = compare.value_and_gradients(op.ours, inputs)
    if op.name in ("mse half_per_example", "network"):  # 0/0 examples, as torch's mean of nothing
        assert value.isnan()
        assert [g.shape for g in gradients] == [t.shape for t in inputs]
        return
    twin_value, twin_gradients = compare.value_and_gradients(op.twin, inputs)
    compare.agree(value, twin_value, zero=True)
    compare.all_of(compare.agree, gradients, twin_gradients, zero=True)


@every_operation
def test_strides_of_the_inputs_do_not_matter(op: Operation) -> None:
    contiguous = op.inputs()
    expected, expected_gradients = compare.value_and_gradients(op.ours, contiguous)
    for restride in (_column_major, _every_other):
        value, gradients = compare.value_and_gradients(op.ours, [restride(t) for t in contiguous])
        compare.agree(value, expected)
        compare.all_of(compare.agree, gradients, expected_gradients)


def _column_major(tensor: Tensor) -> Tensor:
    return tensor.mT.contiguous().mT if tensor.dim() >= 2 else tensor


def _every_other(tensor: Tensor) -> Tensor:
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan, dtype=tensor.dtype)
    wide[..., ::2] = tensor
    return wide[..., ::2]


@every_operation
def test_expanded_inputs_of_stride_0(op: Operation) -> None:
    inputs = [
        t[:1].expand_as(t) if batched else t
        for t, batched in zip(op.inputs(), op.batched, strict=True)
    ]
    value, gradients = compare.value_and_gradients(op.ours, inputs)
    twin_value, twin_gradients = compare.value_and_gradients(op.twin, inputs)
    compare.agree(value, twin_value)
    compare.all_of(compare.agree, gradients, twin_gradients)


@every_operation
def test_second_derivatives_equal_the_twin(op: Operation) -> None:
    inputs = op.inputs()

    def gradient_of(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        def differentiated(*tensors: Tensor) -> Tensor:
            value = function(*tensors)
            first = torch.autograd.grad(
                value, tensors, compare.make_cotangent(value), create_graph=True
            )
            penalty = [
                (i + 1) * (g.sin() * compare.make_cotangent(g)).sum() for i, g in enumerate(first)
            ]
            return value.sum() + torch.stack(penalty).sum()

        return compare.value_and_gradients(differentiated, inputs)[1]

    compare.all_of(compare.agree, gradient_of(op.ours), gradient_of(op.twin))


@every_operation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_backward_pass_in_inference_mode_leaves_the_next_one_alone(
    op: Operation, dtype: torch.dtype
) -> None:
    inputs = leaves(op, dtype=dtype)
    value = op.ours(*inputs)
    with torch.inference_mode():
        torch.autograd.grad(
            value, inputs, torch.ones_like(value)
        )  # what it keeps must not be inference tensors
    value = op.ours(*inputs)
    cotangent = torch.ones_like(value, requires_grad=True)
    gradients = torch.autograd.grad(value, inputs, cotangent, create_graph=True)
    torch.stack([g.sum() for g in gradients]).sum().backward()
    assert cotangent.grad is not None
    assert not cotangent.grad.is_inference()


@every_operation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_gradients_keep_the_dtype(op: Operation, dtype: torch.dtype) -> None:
    value, gradients = compare.value_and_gradients(op.ours, op.inputs(dtype))
    assert value.dtype == dtype
    assert {g.dtype for g in gradients} == {dtype}


@every_operation
def test_meta_tensors_carry_shapes_through_both_passes(op: Operation) -> None:
    inputs = [t.to("meta") for t in op.inputs()]
    value, gradients = compare.value_and_gradients(
        op.ours, inputs, cotangent=torch.empty_like(op.ours(*inputs))
    )
    assert value.device.type == "meta"
    assert value.shape == op.ours(*op.inputs()).shape
    assert [(g.shape, g.device.type) for g in gradients] == [(t.shape, "meta") for t in inputs]
