"""The normalisations s of the cost C = s Σ (a − y)²: one table, which everything asks.

m is the number of examples, n_out the last dimension of a, and a 1-D a is one example. Without
torch, so that a command can print its help at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Reduction(NamedTuple):
    """One normalisation s, as text and as numbers."""

    s: str  # as it is written
    k: int  # s divides by k,
    per_example: bool  # by m,
    per_element: bool  # and by n_out
    who: str  # whose it is


REDUCTIONS = {
    "half_per_example": Reduction("1/(2m)", 2, True, False, "documents 1 and 2"),
    "half_per_element": Reduction("1/(2 m n_out)", 2, True, True, "document 3"),
    "mean": Reduction("1/(m n_out)", 1, True, True, "torch.nn.MSELoss"),
    "sum": Reduction("1", 1, False, False, 'torch.nn.MSELoss(reduction="sum")'),
    # "none" is (a − y)² elementwise without the sum, not ½ (a − y)²
    "none": Reduction("1", 1, False, False, 'torch.nn.MSELoss(reduction="none")'),
}
COSTS = tuple(name for name in REDUCTIONS if name != "none")  # those that are one number


def scale(reduction: str, shape: Sequence[int]) -> float:
    """s of C = s Σ (a − y)² for an output a (..., n_out). NaN if s divides by a count of 0."""
    _, k, per_example, per_element, _ = REDUCTIONS[reduction]
    *leading, n_out = shape or (1,)
    divisor = k * (math.prod(leading) if per_example else 1) * (n_out if per_element else 1)
    return 1 / divisor if divisor else math.nan
