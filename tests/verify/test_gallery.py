"""Every exhibit: the faulty ones are found, the right kind comes first, and nothing is found on the
correct ones.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import gallery_activations
import gallery_elementwise
import gallery_hard_cases
import gallery_kinks
import gallery_layers
import gallery_linear
import gallery_losses
import gallery_memory
import gallery_places
import gallery_products
import gallery_quantisers
import gallery_slips
import gallery_styles
import gallery_torch
import pytest
from gallery import EXHIBITS

from manual_bp import verify
from manual_bp.verify import KINDS, check

MODULES = (
    gallery_activations,
    gallery_elementwise,
    gallery_hard_cases,
    gallery_kinks,
    gallery_layers,
    gallery_linear,
    gallery_losses,
    gallery_memory,
    gallery_places,
    gallery_products,
    gallery_quantisers,
    gallery_slips,
    gallery_styles,
    gallery_torch,
)
FAULTY = [e for e in EXHIBITS if e.kind is not None]
CORRECT = [e for e in EXHIBITS if e.kind is None]


def _third(exhibits):
    """Parameters: every third exhibit of a kind; `-m ""`, which CI runs, takes the others too."""
    seen = Counter()
    for i, e in enumerate(exhibits):
        left_out = seen[e.kind] % 3
        seen[e.kind] += 1
        yield pytest.param(e, id=f"{i}-{e.name}", marks=pytest.mark.soak if left_out else ())


@pytest.mark.parametrize("exhibit", list(_third(FAULTY)))
def test_names_the_fault_first(exhibit):
    report = check(exhibit.function, exhibit.inputs(), reference=exhibit.reference)
    found = report.findings
    assert found, report
    assert found[0].kind == exhibit.kind, report
    if exhibit.tensor:
        assert exhibit.tensor in [f.tensor for f in found if f.kind == exhibit.kind], report
    assert not report.incomplete, report


@pytest.mark.parametrize("exhibit", list(_third(CORRECT)))
def test_finds_nothing_on_a_correct_one(exhibit):
    report = check(exhibit.function, exhibit.inputs(), reference=exhibit.reference)
    assert report.ok, report


def test_every_kind_is_exhibited():
    # compile-wrong is shown in test_check, where a compiler is at hand
    assert {e.kind for e in FAULTY} == set(KINDS) - {"compile-wrong"}


def test_the_readme_counts_the_exhibits():
    """Each of them is its own test above: all faults are found, with no false alarm."""
    readme = Path(verify.__file__).with_name("README.md").read_text(encoding="utf-8")
    assert f"{len(FAULTY)} faulty Functions and {len(CORRECT)} correct ones" in " ".join(
        readme.split()
    )
    assert len(FAULTY) >= 40
    assert len(CORRECT) >= 25
