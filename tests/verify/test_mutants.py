"""Each operation is right, and each way of bending its backward is named."""

from __future__ import annotations

import pytest
from mutants import OPERATIONS, build, differentiated, mutations

from manual_bp.verify import check

SHARES = 3


@pytest.mark.parametrize(
    "share", [0, *(pytest.param(n, marks=pytest.mark.soak) for n in range(1, SHARES))]
)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_mutation_is_named(name, share):
    """A share bends each operation in a third of the ways, and in each way a third of them."""
    function, sets = OPERATIONS[name]
    shapes = sets[0]
    inputs = build(shapes, 3)
    misnamed = {}
    first = (list(OPERATIONS).index(name) + share + 1) % SHARES
    for label, before, after, kinds in list(mutations(name, shapes))[first::SHARES]:
        found = check(differentiated(function, before, after), inputs).findings
        if not found or found[0].kind not in kinds:
            misnamed[label] = ([f.kind for f in found], kinds)
    assert not misnamed


@pytest.mark.parametrize("name", OPERATIONS)
def test_right_at_every_shape(name):
    function, sets = OPERATIONS[name]
    for shapes in sets:
        report = check(differentiated(function), build(shapes, 4))
        assert report.ok, report
