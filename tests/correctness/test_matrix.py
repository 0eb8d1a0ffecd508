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


def cells() -> list[object]:
    parameters = []
    for column in matrix.COLUMNS:
        for op in matrix.ROWS:
            marks = []
            if any(word in column.name for word in SLOW):
                marks.append(pytest.mark.slow)
            if column.needs_cuda:
                marks.append(
                    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
                )
            expected = matrix.hole(op, column)
            if expected is not None:
                marks.append(
                    pytest.mark.xfail(raises=ExpectedFailure, strict=True, reason=expected.reason)
                )
            parameters.append(pytest.param(op, column, id=f"{column}-{op}", marks=marks))
    return parameters


class ExpectedFailure(Exception):  # noqa: N818 it is what is wanted
    """A cell failed exactly as its entry in HOLES says."""


@pytest.mark.filterwarnings(
    "ignore:An output with one or more elements was resized:UserWarning"
)  # torch's mse_loss
@pytest.mark.parametrize(("op", "column"), cells())
def test_cell(op: Operation, column: matrix.Column) -> None:
    error, expected = matrix.run(op, column), matrix.hole(op, column)
    if error is None:
        return
    if (
        expected is not None
        and type(error).__name__ == expected.error
        and expected.says in str(error)
    ):
        raise ExpectedFailure from error
    raise error


def test_holes_name_columns_that_exist() -> None:
    assert set(matrix.HOLES) <= {column.name for column in matrix.COLUMNS}
    assert len({column.name for column in matrix.COLUMNS}) == len(matrix.COLUMNS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized:UserWarning")
def test_the_readme_shows_this_table() -> None:
    """But for the lines on CUDA and their count, which depend on the machine that printed it."""
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

    assert comparable(shown) == comparable(matrix.table())
