"""Every exhibit: the faulty ones are found, the right kind comes first, and nothing is found on the
correct ones.
"""

from __future__ import annotations

import gallery_activations
import gallery_elementwise
import gallery_hard_cases
import gallery_kinks
import gallery_layers
import gallery_linear
import gallery_losses
import gallery_memory
import gallery_products
import gallery_quantisers
import gallery_slips
import gallery_styles
import gallery_torch
import pytest
from gallery import EXHIBITS, Exhibit

from manual_bp.verify import KINDS, Report, check

MODULES = (
    gallery_activations,
    gallery_elementwise,
    gallery_hard_cases,
    gallery_kinks,
    gallery_layers,
    gallery_linear,
    gallery_losses,
    gallery_memory,
    gallery_products,
    gallery_quantisers,
    gallery_slips,
    gallery_styles,
    gallery_torch,
)
FAULTY = [e for e in EXHIBITS if e.kind is not None]
CORRECT = [e for e in EXHIBITS if e.kind is None]
REPORTS: dict[int, Report] = {}


def report(exhibit: Exhibit) -> Report:
    """One check for each exhibit, shared by the tests."""
    if id(exhibit) not in REPORTS:
        REPORTS[id(exhibit)] = check(
            exhibit.function, exhibit.inputs(), reference=exhibit.reference
        )
    return REPORTS[id(exhibit)]


def _names(exhibits):
    return [f"{i}-{e.name}" for i, e in enumerate(exhibits)]


@pytest.mark.parametrize("exhibit", FAULTY, ids=_names(FAULTY))
def test_names_the_fault_first(exhibit):
    found = report(exhibit).findings
    assert found, report(exhibit)
    assert found[0].kind == exhibit.kind, report(exhibit)
    if exhibit.tensor:
        assert exhibit.tensor in [f.tensor for f in found if f.kind == exhibit.kind], report(
            exhibit
        )


@pytest.mark.parametrize("exhibit", CORRECT, ids=_names(CORRECT))
def test_finds_nothing_on_a_correct_one(exhibit):
    assert report(exhibit).ok, report(exhibit)


def test_no_probe_tripped():
    tripped = {e.name: report(e).incomplete for e in EXHIBITS if report(e).incomplete}
    assert not tripped


def test_every_kind_is_exhibited():
    # compile-wrong is shown in test_check, where a compiler is at hand
    assert {e.kind for e in FAULTY} == set(KINDS) - {"compile-wrong"}


def test_tally(capsys):
    """The figures of manual_bp/verify/README.md."""
    found = [report(e).findings for e in FAULTY]
    detected = sum(bool(f) for f in found)
    first = sum(bool(f) and f[0].kind == e.kind for f, e in zip(found, FAULTY, strict=True))
    alarms = sum(not report(e).ok for e in CORRECT)
    with capsys.disabled():
        print(
            f"\nverify: {detected} of {len(FAULTY)} faulty found, {first} with the right kind "
            f"first, "
            f"{alarms} false alarms on {len(CORRECT)} correct"
        )
    assert detected == len(FAULTY) >= 40
    assert first >= 0.95 * len(FAULTY)
    assert alarms == 0
    assert len(CORRECT) >= 25
