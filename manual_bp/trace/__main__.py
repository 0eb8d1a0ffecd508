"""`python -m manual_bp.trace`: a documents' network, or one image through a trained run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from manual_bp import console
from manual_bp.escape import escaped
from manual_bp.notation import NOTATIONS
from manual_bp.trace import render
from manual_bp.trace.blocks import Block, Heading
from manual_bp.trace.worksheet import worksheet
from manual_bp.worked_examples.networks import NETWORKS, random_network, tensor


def main(argv: Sequence[str] | None = None, prog: str = "python -m manual_bp.trace") -> int:
    """Print a trace. Returns 0, or 1 after a fault with one line on stderr; wrong usage exits 2."""
    args = _parse(argv, prog)
    try:
        blocks = _run(args) if args.run is not None else _network(args)
        printed = render.FORMATS[args.format](worksheet(blocks) if args.blanks else blocks)
    except ValueError as error:
        print(f"trace: error: {escaped(error)}", file=sys.stderr)
        return 1
    print("\n".join(map(escaped, printed.split("\n"))), end="")
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
        "--sizes",
        type=int,
        nargs="+",
        metavar="N",
        help="a random network: the width of each layer, the input's first, each 1 to 4",
    )
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
        "--seed",
        type=int,
        metavar="N",
        help="random weights of one decimal; with --sizes the example too (default there: 0)",
    )
    parser.add_argument(
        "--notation",
        type=int,
        choices=NOTATIONS,
        help="whose symbols: 1 θ/z/a/δ, 2 s/z/w_{i→j}/δ, 3 w/z/a/δ (default: the network's "
        "document; 1 with --run)",
    )
    parser.add_argument(
        "--blanks", action="store_true", help="an exercise: blanks to fill in, then the answers"
    )
    parser.add_argument(
        "--format",
        choices=("text", "markdown", "latex", "html", "svg"),
        default="text",
        help="svg is the drawing of the network alone (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if args.run is None and args.example is not None:
        parser.error("--example chooses an image of a run: give --run too")
    if args.run is not None and args.seed is not None:
        parser.error("--seed draws the weights of a document's network: a run has its own")
    if args.seed is not None and not 0 <= args.seed < 2**63:
        parser.error(f"--seed {args.seed}: 0 to 2^63 − 1 expected")
    sizes = args.sizes
    if sizes and not (2 <= len(sizes) <= 6 and min(sizes) >= 1 and max(sizes) <= 4):
        shown = " ".join(map(str, sizes))
        parser.error(f"--sizes {shown}: 2 to 6 layers of 1 to 4 units each expected")
    return args


def _network(args: argparse.Namespace) -> list[Block]:
    from manual_bp.trace import compute, story  # with torch, which takes a second to import

    if args.sizes:
        network = random_network(args.sizes, args.notation or 1, args.seed or 0)
        title = f"{network.title}, random weights from seed {args.seed or 0}"
    else:
        network = NETWORKS[args.name or args.network or "two-two-two"]
        title = f"Document {network.document}, {network.name}: {network.title}"
        if args.seed is not None:
            network = network.drawn(args.seed)
            title += f", random weights from seed {args.seed}"
    x, y = tensor(network.x), tensor(network.y)
    trace = compute(network.model(), x, y, cost=network.cost, lr=network.lr)
    return [Heading(title), *story(trace, args.notation or network.document, network.units)]


def _run(args: argparse.Namespace) -> list[Block]:
    # Training stands above trace and takes a second to import: only if a run is read.
    from manual_bp.trace import compute, story
    from manual_bp.training import traced_run
    from manual_bp.training.errors import UserError

    number = args.example or 0
    try:
        run = traced_run.read(args.run, number)
    except (UserError, OSError) as error:  # an OSError for a name that no file system takes
        raise ValueError(str(error)) from error
    trace = compute(run.model, run.x, run.y, cost=run.cost, lr=run.lr)
    output = run.classes[int(trace.layers[-1].a.argmax())]
    title = Heading(
        f"{run.folder}: {run.dataset}, test image {number}, label {run.label}, largest output: "
        f"{output}"
    )
    return [title, *story(trace, args.notation or 1)]


if __name__ == "__main__":
    sys.exit(console.run(main, "python -m manual_bp.trace"))
