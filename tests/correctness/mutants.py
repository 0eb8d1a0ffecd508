"""Wrong versions of the real code, each with the test that must notice.

A mutant replaces one attribute of the code while its killer runs. It is told by what it does wrong,
not by a line of source, so that the code may be rewritten and the mutants stay.

`python -m tests.correctness.mutants` kills each and prints by which test; `--write README.md` puts
the count there.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import nullcontext
from typing import Any

import torch

from manual_bp import functional
from manual_bp.ops import function
from tests import test_autocast, test_functional
from tests.correctness import mutants_linear, mutants_linear_sigmoid, mutants_mse, mutants_sigmoid
from tests.correctness.mutant import Mutant, lives
from tests.correctness.operations import LINEAR, SIGMOID
from tests.correctness.readme import write
from tests.ops import test_transforms


class _ForwardModeStaysOff:
    """forward_ad as the forward-mode rule sees it, without the switch that turns forward mode on
    again.
    """

    def __getattr__(self, name: str) -> Any:
        return (
            (lambda _: nullcontext())
            if name == "_set_fwd_grad_enabled"
            else getattr(torch.autograd.forward_ad, name)
        )


SHARED = (
    Mutant(
        "forward mode off inside the forward-mode rule",
        function,
        "forward_ad",
        _ForwardModeStaysOff(),
        test_transforms.test_nested_derivatives,
        (SIGMOID, test_transforms.NESTS["jacfwd of jacfwd"]),
    ),
    Mutant(
        "the tangents of saved tensors counted twice",
        function,
        "_primal",
        lambda t: t,
        test_transforms.test_nested_derivatives,
        (LINEAR, test_transforms.NESTS["jacfwd of jacfwd"]),
    ),
    Mutant(
        "autocast not noticed",
        functional,
        "_autocast_enabled",
        lambda _: False,
        test_autocast.test_autocast_casts_as_it_casts_the_twin,
        (LINEAR, torch.float32, torch.bfloat16, False),
    ),
    Mutant(
        "targets broadcast",
        functional,
        "_check_mse_loss",
        lambda *_: None,
        test_functional.test_bad_input_gets_one_clear_line,
        next(r for r in test_functional.REFUSED if "broadcast" in r[2]),
    ),
)
MUTANTS = (
    *mutants_linear.MUTANTS,
    *mutants_sigmoid.MUTANTS,
    *mutants_linear_sigmoid.MUTANTS,
    *mutants_mse.MUTANTS,
    *SHARED,
)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    living = [mutant for mutant in MUTANTS if lives(mutant)]
    if "--write" not in sys.argv:
        for mutant in MUTANTS:
            verdict = "LIVES, although there is" if mutant in living else "killed by"
            print(f"{mutant}: {verdict} {mutant.killer.__module__}.{mutant.killer.__name__}")
    write(
        "mutants",
        f"{len(MUTANTS)} wrong versions of the code, {len(living)} survivors.",
        sys.argv[1:],
    )
