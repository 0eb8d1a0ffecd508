"""Wrong versions of the real code, each with the test that must notice.

A mutant replaces one attribute of the code while its killer runs. It is told by what it does wrong,
not by a line of source, so that the code may be rewritten and the mutants stay.

`python -m tests.correctness.mutants` kills each and prints by which test;
`--write tests/correctness/README.md` puts the count there.
"""

from __future__ import annotations

import sys
import warnings

from tests.correctness import (
    mutants_backprop,
    mutants_function,
    mutants_linear,
    mutants_mse,
    mutants_sigmoid,
)
from tests.correctness.mutant import lives
from tests.correctness.readme import write

MUTANTS = (
    *mutants_linear.MUTANTS,
    *mutants_sigmoid.MUTANTS,
    *mutants_mse.MUTANTS,
    *mutants_function.MUTANTS,
    *mutants_backprop.MUTANTS,
)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    living = [mutant for mutant in MUTANTS if not mutant.harmless and lives(mutant)]
    if "--write" not in sys.argv:
        for mutant in MUTANTS:
            verdict = "LIVES, although there is" if mutant in living else "killed by"
            print(f"{mutant}: {verdict} {mutant.killer.__module__}.{mutant.killer.__name__}")
    write(
        "mutants",
        f"{len(MUTANTS)} wrong versions of the code, {len(living)} survivors.",
        sys.argv[1:],
    )
