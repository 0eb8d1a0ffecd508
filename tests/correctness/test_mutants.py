"""Every mutant dies by the test named beside it, and that test passes on the real code."""

from __future__ import annotations

import pytest

from tests.correctness.mutant import Mutant, lives
from tests.correctness.mutants import MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_mutant_is_killed(mutant: Mutant) -> None:
    if mutant.harmless:
        pytest.skip(f"torch {mutant.until} mended what this fault needs")
    assert not lives(mutant), (
        f"{mutant.killer.__module__}.{mutant.killer.__name__} passed with it: a test is missing"
    )


def test_there_are_enough_and_each_is_another() -> None:
    assert len(MUTANTS) >= 30
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)
