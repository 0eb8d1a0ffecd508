"""Every mutant dies by the test named beside it, and that test passes on the real code."""

from __future__ import annotations

import warnings

import pytest

from tests.correctness.mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_mutant_is_killed(mutant: Mutant) -> None:
    mutant.killer(*mutant.arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning alone must not be what kills it
        with mutant.applied():
            try:
                mutant.killer(*mutant.arguments)
            except (AssertionError, RuntimeError, pytest.fail.Exception):
                return
    pytest.fail(f"{mutant} lives: {mutant.killer.__module__}.{mutant.killer.__name__} passed with it")


def test_there_are_enough_and_each_is_another() -> None:
    assert len(MUTANTS) >= 30
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)
