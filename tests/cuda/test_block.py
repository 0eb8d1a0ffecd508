"""The block of a GPU's figures, without a GPU: what is written is understood, and stands there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from manual_bp.bench import report
from manual_bp.bench.measure import Result, Table
from manual_bp.bench.problem import Configuration
from tests.correctness.readme import between
from tests.cuda.__main__ import CONFIGURATIONS, markdown, understood

ROOT = Path(__file__).parents[2]


def test_the_readme_says_what_was_measured_or_that_nothing_was() -> None:
    text = (ROOT / "manual_bp/direct/README.md").read_text(encoding="utf-8")
    understood(between("cuda", text))


def test_a_written_block_is_understood() -> None:
    tables = [
        Table(
            Configuration.parse(text),
            steps=100,
            threads=1,
            expected_cost=0.1,
            results=[
                Result("direct", "direct", seconds=[0.001 * i, 0.002]),
                Result("jax", "JAX jit+scan", note="not installed"),
            ],
        )
        for i, text in enumerate(CONFIGURATIONS, 1)
    ]
    found = report.as_json(tables, "MNIST", torch.device("cpu")) | {
        "date": "2026-01-31 10:00 UTC",
        "device": "NVIDIA H100 80GB HBM3",
        "commit": "abc1234",
    }
    block = markdown(found, [["", "linear"], ["CUDA", "PASS"]], "9 passed in 1.0s")
    assert "| direct | 15 | 20 | 25 | 30 |" in block
    assert "| JAX jit+scan | – | – | – | – |" in block
    assert "| CUDA | PASS |" in block
    assert understood(block) == {
        "date": "2026-01-31",
        "device": "NVIDIA H100 80GB HBM3",
        "commit": "abc1234",
    }
    for wrong in ("abc1234", "2026-01-31", "| direct | 15"):
        with pytest.raises(ValueError, match=r"not a block|could not convert"):
            understood(block.replace(wrong, "| direct | ?" if "|" in wrong else ""))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_gpu_nothing_is_written(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("<!-- cuda -->\nas it was\n<!-- /cuda -->")
    command = [sys.executable, "-m", "tests.cuda", "--write", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "no CUDA device" in done.stderr
    assert "as it was" in file.read_text()
