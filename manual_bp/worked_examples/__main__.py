"""`python -m manual_bp.worked_examples [NAME]`: worked by hand, by the code, and by autograd."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from manual_bp import console
from manual_bp.notation import NOTATIONS, minus
from manual_bp.trace import draw
from manual_bp.worked_examples import NAMES, NETWORKS

if TYPE_CHECKING:
    from manual_bp.worked_examples import Worked


def report(name: str) -> str:
    """One example as text: its docstring, its sums over paths, each value beside autograd's."""
    # torch takes a second to import: --help and wrong usage do without it
    from manual_bp.worked_examples import EXAMPLES

    example = EXAMPLES[name]
    work = example()
    title, by_hand = (inspect.getdoc(example) or "").partition("\nArgs:")[0].split("\n\n", 1)
    lines = [f"=== {name} ===", "", title]
    if name in NETWORKS:
        network = NETWORKS[name]
        notation = NOTATIONS[network.document](network.sizes, network.units)
        lines += ["", *draw.text(notation)]
    if "λ" in by_hand:
        lines += ["", "λ = ln 3 ≈ 1.0986"]
    lines += ["", by_hand.rstrip(), ""]
    if work.partials:
        lines += ["Every path, term by term:", "", *map(str, work.partials), ""]
        terms = [partial.terms for partial in work.partials]
        lines += [f"partial-derivative terms: {' + '.join(map(str, terms))} = {sum(terms)}", ""]
    return "\n".join([*lines, *_table(work), ""])


def _table(work: Worked) -> list[str]:
    width = max(map(len, work.values))
    lines = [f"{'computed':<{width}}  {'value':>18}  {'autograd':>18}"]
    for symbol, value in work.values.items():
        other = f"{work.autograd[symbol]:18.12g}" if symbol in work.autograd else ""
        lines.append(f"{symbol:<{width}}  " + minus(f"{value:18.12g}  {other}").rstrip())
    error = minus(f"{work.max_relative_error:.1e}")
    return [*lines, f"largest relative error against autograd: {error}"]


def main(
    argv: Sequence[str] | None = None, prog: str = "python -m manual_bp.worked_examples"
) -> int:
    """Print one example, or all of them. Returns the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description="The documents' networks, worked.")
    parser.add_argument(
        "name",
        nargs="?",
        choices=NAMES,
        metavar="NAME",
        help=f"one of {', '.join(NAMES)}; default: all",
    )
    args = parser.parse_args(argv)
    for name in [args.name] if args.name else NAMES:
        print(report(name))
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main, "python -m manual_bp.worked_examples"))
