"""The same report, byte for byte, for the same seed: on an idle machine and on a busy one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from gallery_linear import Base
from torch import nn

from manual_bp.verify import check

TIMES = 8


def _reports(count: int) -> set[str]:
    found = set()
    for _ in range(count):
        torch.manual_seed(0)
        calls = [
            (Base, (torch.randn(4, 3), torch.randn(5, 3), torch.randn(5))),
            (F.softmax, (torch.randn(3, 4), -1)),
            (nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)), (torch.randn(30, 6),)),
            (lambda x: x.cumprod(0), (torch.rand(40, 40) + 0.5,)),
        ]
        found.add("\n".join(check(function, inputs).to_json() for function, inputs in calls))
    return found


@pytest.fixture
def busy() -> Iterator[None]:
    """Twice as many spinning processes as there are cores."""
    loop = "while True: pass"
    count = 2 * (os.cpu_count() or 1)
    spinning = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def test_twice():
    assert len(_reports(2)) == 1


@pytest.mark.soak
def test_idle_and_busy(request: pytest.FixtureRequest):
    idle = _reports(TIMES)
    request.getfixturevalue("busy")
    assert idle | _reports(TIMES) == idle
    assert len(idle) == 1


def test_no_clock_is_read():
    import manual_bp.verify

    package = Path(manual_bp.verify.__file__).parent
    reads = [
        path.name
        for path in package.rglob("*.py")
        if path.name not in ("survey.py", "plugin.py") and "import time" in path.read_text("utf-8")
    ]
    assert not reads
