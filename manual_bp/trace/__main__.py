"""`python -m manual_bp.trace`: a documents' network, or one image through a trained run."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from manual_bp.notation import NOTATIONS
from manual_bp.worked_examples.networks import NETWORKS, Network, exactly, tensor

if TYPE_CHECKING:  # torch takes a second to import: --help and wrong usage do without it
    from manual_bp.trace.blocks import Block, Step


def main(argv: Sequence[str] | None = None, prog: str = "python -m manual_bp.trace") -> int:
    """Print a trace. Returns 0, or 1 after a fault with one line on stderr; wrong usage exits 2."""
    args = _parse(argv, prog)
    from manual_bp.trace import render

    try:
        blocks = _run(args) if args.run is not None else _network(args)
    except ValueError as error:
        print(f"trace: error: {error}", file=sys.stderr)
        return 1
    print(render.markdown(blocks) if args.format == "markdown" else render.text(blocks), end="")
    return 0


def _parse(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="One example forward, backward and through the update: formula, numbers, "
        "shape, check by autograd.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "name",
        nargs="?",
        choices=NETWORKS,
        metavar="NAME",
        help=f"one of the documents' networks: {', '.join(NETWORKS)} (default: two-two-two)",
    )
    what.add_argument("--network", choices=NETWORKS, metavar="NAME", help="the same")
    what.add_argument(
        "--run",
        metavar="RUN",
        help="a run that train.py wrote: its folder, its name in runs/, or latest, the one in "
        "runs/ written last",
    )
    parser.add_argument(
        "--example", type=int, metavar="I", help="with --run: which test image (default: 0)"
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="a network's weights drawn at random from this seed"
    )
    parser.add_argument(
        "--notation",
        type=int,
        choices=NOTATIONS,
        help="whose symbols: 1 θ/z/a/δ, 2 s/z/w_{i→j}/δ, 3 w/z/a/δ (default: the network's "
        "document; 1 with --run)",
    )
    parser.add_argument(
        "--format", choices=("text", "markdown"), default="text", help="(default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if args.run is None and args.example is not None:
        parser.error("--example chooses an image of a run: give --run too")
    if args.run is not None and args.seed is not None:
        parser.error("--seed draws the weights of a document's network: a run has its own")
    if args.seed is not None and not 0 <= args.seed < 2**63:
        parser.error(f"--seed {args.seed}: 0 to 2^63 − 1 expected")
    return args


def _network(args: argparse.Namespace) -> list[Block]:
    from manual_bp.trace import compute, story
    from manual_bp.trace.blocks import Heading

    network = NETWORKS[args.name or args.network or "two-two-two"]
    model, x, y = network.model(args.seed), tensor(network.x), tensor(network.y)
    trace = compute(model, x, y, cost=network.cost, lr=network.lr)
    drawn = "" if args.seed is None else f", random weights from seed {args.seed}"
    title = Heading(f"Document {network.document}, {network.name}: {network.title}{drawn}")
    notation = args.notation or network.document
    weights = [_weights(network, notation)] if args.seed is None else []
    return [title, *weights, *story(trace, notation, network.units)]


def _weights(network: Network, notation: int) -> Step:
    """The weights as they are meant: 2.197 = 2 ln 3 is what lets σ be worked with a pencil."""
    from manual_bp.trace import numbers
    from manual_bp.trace.blocks import Step

    n = NOTATIONS[notation](network.sizes, network.units)
    meant = [
        (n.weight(layer, (i, j)), weight)
        for layer, matrix in enumerate(network.weights, start=1)
        for i, row in enumerate(matrix)
        for j, weight in enumerate(row)
    ]
    meant += [
        (n.symbol("b", layer, i), bias)
        for layer, row in enumerate(network.biases or (), start=1)
        for i, bias in enumerate(row)
    ]
    lines = []
    for symbol, value in meant:
        exact, rounded = exactly(value), numbers.number(value)
        lines.append(f"{symbol} = {exact}" + (f" = {rounded}" if exact != rounded else ""))
    return Step("weights, for which σ(k ln 3) = 3ᵏ/(1 + 3ᵏ)", f"{len(lines)} numbers", tuple(lines))


def _run(args: argparse.Namespace) -> list[Block]:
    # Training stands above trace and takes a second to import: only if a run is read.
    from manual_bp.trace import compute, story
    from manual_bp.trace.blocks import Heading
    from manual_bp.training import traced_run
    from manual_bp.training.errors import UserError

    number = args.example or 0
    try:
        run = traced_run.read(args.run, number)
    except (UserError, OSError) as error:  # an OSError for a name that no file system takes
        raise ValueError(str(error)) from error
    trace = compute(run.model, run.x, run.y, cost=run.cost, lr=run.lr)
    output = int(trace.layers[-1].a.argmax())
    title = Heading(
        f"{run.folder}: {run.dataset}, test image {number}, label {run.label}, largest output: "
        f"{output}"
    )
    return [title, *story(trace, args.notation or 1)]


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # the only common encoding with σ, δ and ∂
    sys.exit(main())
