"""The declared bytes are the measured ones, and never more than the torch.nn twin's."""

from __future__ import annotations

import pytest

from tests.correctness.memory import CASES

BY_NAME = {case.name: case for case in CASES}
every_case = pytest.mark.parametrize("name", list(BY_NAME))


@every_case
def test_saved_bytes(name: str) -> None:
    case = BY_NAME[name]
    assert case.measured(case.op.ours) == case.declared


@every_case
def test_never_more_than_the_twin(name: str) -> None:
    case = BY_NAME[name]
    assert case.measured(case.op.ours) <= case.measured(case.op.twin)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ("linear, W frozen", "linear"),
        ("linear, x needs no gradient", "linear"),
        ("linear, b alone trained", "linear, W frozen"),
        ("network, first layer frozen", "network"),
        ("mse mean, nothing trained", "mse mean"),
        ("sigmoid, z needs no gradient", "sigmoid"),
    ],
)
def test_less_where_less_is_needed(less: str, more: str) -> None:
    assert BY_NAME[less].measured(BY_NAME[less].op.ours) < BY_NAME[more].measured(
        BY_NAME[more].op.ours
    )
