"""Each cell of the matrix passes or fails as expected, and this room shows that table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.correctness import matrix
from tests.correctness.operations import Operation
from tests.correctness.readme import between

README = Path(__file__).parent / "README.md"
SLOW = ("compile", "ONNX", "Distributed")
# A compiled transform, which takes seconds, meets every operation of ours in these rows.
COMPILED_TRANSFORM, ROWS = "compile of ", ("sigmoid", "network")


def cells() -> list[object]:
    parameters = []
    for column in matrix.COLUMNS:
        for op in matrix.ROWS:
            marks = []
            if any(word in column.name for word in SLOW):
                marks.append(pytest.mark.slow)
            if column.name.startswith(COMPILED_TRANSFORM) and op.name not in ROWS:
                marks.append(pytest.mark.soak)
            if column.needs_cuda:
                marks.append(pytest.mark.cuda)
            parameters.append(pytest.param(op, column, id=f"{column}-{op}", marks=marks))
    return parameters


@pytest.mark.filterwarnings(
    "ignore:An output with one or more elements was resized:UserWarning"
)  # torch's mse_loss
@pytest.mark.parametrize(("op", "column"), cells())
def test_cell(op: Operation, column: matrix.Column) -> None:
    """The cell passes, or fails exactly as its entry in HOLES says."""
    error = matrix.unexplained(op, column)
    if error is not None:
        raise error


def test_holes_name_columns_that_exist() -> None:
    assert set(matrix.HOLES) <= {column.name for column in matrix.COLUMNS}
    assert len({column.name for column in matrix.COLUMNS}) == len(matrix.COLUMNS)


def test_the_readme_shows_this_table() -> None:
    """As `test_cell` proves it, cell by cell; but for the lines on CUDA and their count, which
    depend on the machine that printed the table.
    """
    shown = between("matrix", README.read_text(encoding="utf-8"))
    if not shown.startswith(f"torch {matrix.VERSION},"):
        pytest.skip(f"the table was printed with {shown.split(',')[0]}, this is {matrix.VERSION}")

    left_out = ("CUDA", "need a GPU") if torch.cuda.is_available() else ("CUDA",)

    def comparable(text: str) -> list[str]:
        return [
            line.strip()
            for line in text.strip().splitlines()
            if not any(word in line for word in left_out)
        ]

    assert comparable(shown) == comparable(matrix.table(matrix.expected_cell))
