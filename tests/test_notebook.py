"""The notebook from one neuron to MNIST: valid, without outputs, and every cell runs."""

import contextlib
import io
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch

from manual_bp import trace

PATH = Path(trace.__file__).with_name("from_one_neuron_to_mnist.ipynb")


def test_the_notebook_is_valid_and_holds_no_outputs() -> None:
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) == 8
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code cells use no magic: a kernel would run them as they run here. On small digits."""
    from manual_bp.training import data

    digits = data.load("digits")
    monkeypatch.setattr(data, "load", lambda name: digits)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), torch.random.fork_rng(devices=[]):
        for cell in nbformat.read(PATH, as_version=4).cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, str(PATH), "exec"), names)
    told = printed.getvalue()
    assert "dC/dw = -0.052016, by the quotient -0.052016" in told
    assert "δ⁽³⁾ = (−1/10) · 9/100 = −9/1000" in told
    assert "1197 images of 8 × 8 pixels" in told
    assert "layer 1 (64→30)" in told
    assert list(tmp_path.iterdir()) == []
