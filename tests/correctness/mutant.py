"""What a mutant is, how it is applied and killed, and the tests that kill."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from manual_bp.function import HandDerivedFunction
from tests import test_gradients
from tests.correctness import test_contract, test_tolerances

VALUES = test_gradients.test_value_and_gradients_equal_the_twin
SQUARE = test_gradients.test_linear_with_a_square_weight_and_as_many_examples
EMPTY = test_gradients.test_empty_batches_equal_the_twin
SECOND = test_gradients.test_second_derivatives_equal_the_twin
GRADCHECK = test_gradients.test_gradcheck_with_every_flag
GRADGRADCHECK = test_gradients.test_gradgradcheck
KIND = test_contract.test_number_kind_and_none_over_all_subsets
SUBSETS = test_contract.test_values_over_all_subsets
NO_ALIASING = test_contract.test_no_aliasing_and_no_mutation
LINEAR_IN_G = test_contract.test_linear_in_g
STRIDES = test_contract.test_strides_of_g_do_not_matter
ACCURACY = test_tolerances.test_at_most_twice_the_builtins_error
F64, F16 = torch.float64, torch.float16


@dataclass(frozen=True)
class Mutant:
    """What is wrong, where, and the test that fails for it, with which errors."""

    name: str
    owner: Any
    attribute: str
    replacement: Any
    killer: Callable[..., object]
    arguments: tuple[Any, ...] = ()
    raises: tuple[type[BaseException], ...] = (AssertionError, RuntimeError, pytest.fail.Exception)
    until: str | None = None  # the torch from which the fault does no harm, because torch changed

    @property
    def harmless(self) -> bool:
        return self.until is not None and TorchVersion(torch.__version__) >= self.until

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The real code with this fault in it."""
        with patch.object(self.owner, self.attribute, self.replacement):
            yield

    def __str__(self) -> str:
        return self.name


def lives(mutant: Mutant) -> bool:
    """Whether the killer passes with the fault in the code. It must pass without it."""
    mutant.killer(*mutant.arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning alone must not be what kills it
        with mutant.applied():
            try:
                mutant.killer(*mutant.arguments)
            except mutant.raises:
                return False
    return True


class Context:
    """A ctx whose saved tensors, or what else is given, differ from the real one's."""

    def __init__(self, ctx: Any, **changed: Any) -> None:
        self._ctx = ctx
        self.__dict__.update(changed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


def each(
    index: int, change: Callable[[Any, Tensor, Tensor], Any]
) -> Callable[[Any, Tensor, list[Any]], None]:
    """Change one gradient of the list, where there is one."""

    def apply(ctx: Any, g: Tensor, gradients: list[Any]) -> None:
        if gradients[index] is not None:
            gradients[index] = change(ctx, g, gradients[index])

    return apply


def examples(a: Tensor) -> float:
    """m, the number of examples in a tensor of shape (..., n)."""
    return a.numel() / a.shape[-1] if a.dim() else 1.0


def detached(ctx: Any) -> Any:
    """The ctx with saved tensors that no longer belong to the graph."""
    return Context(
        ctx, saved_tensors=tuple(t if t is None else t.detach() for t in ctx.saved_tensors)
    )


def spoil_rule(function: type[HandDerivedFunction], change: Callable[..., Any]) -> Any:
    """The forward-mode rule of `function`, called by `change`."""
    real = function.tangent_rule
    return staticmethod(lambda ctx, *tangents: change(real, ctx, *tangents))
