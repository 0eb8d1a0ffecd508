"""`manual-bp predict RUN PICTURE …`: what a trained network sees in pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from manual_bp import console
from manual_bp.escape import escaped

if TYPE_CHECKING:  # torch takes a second: --help does without it
    from manual_bp.training.trained import Trained

_UNSURE = 0.2  # an activation below it is no answer
_BAR = 40  # columns of an activation of 1


def main(argv: Sequence[str] | None = None, prog: str = "manual-bp predict") -> int:
    """Print the activations of each picture. Returns 0, or 1 where a picture cannot be read."""
    args = _parse(argv, prog)
    from manual_bp.training import trained
    from manual_bp.training.errors import UserError

    try:
        run = trained.read(args.run, Path(args.logdir))
    except UserError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 1
    print(escaped(f"{run.folder}: {run.plan.dataset}, {run.plan.network}, {run.epoch} epochs"))
    status = 0
    for path in args.picture:
        try:
            lines = _answer(run, path)
        except UserError as error:
            print(f"{prog}: error: {error}", file=sys.stderr)
            status = 1
        else:
            print("\n".join(["", *map(escaped, lines)]))
    return status


def _parse(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Show pictures to a trained network. A picture may have any size and colours. "
        "For a network of digits it is made bright on dark, cut out, scaled and centred as the "
        "digits were; for data of your own it is made grey and scaled, as it is.",
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="a run that train.py wrote: its folder, its name in --logdir, or latest",
    )
    parser.add_argument("picture", nargs="+", type=Path, metavar="PICTURE", help="PNG, JPEG, …")
    parser.add_argument(
        "--logdir", default="runs", metavar="DIR", help="folder of run folders (default: runs)"
    )
    return parser.parse_args(argv)


def _answer(run: Trained, path: Path) -> list[str]:
    """What was done to the picture, its activations as bars, and the answer."""
    import torch

    from manual_bp.use import picture

    found = picture.of_run(run, path)
    x = torch.as_tensor(found.pixels / 255, dtype=next(run.model.parameters()).dtype)
    with torch.no_grad():
        a = run.model(x.reshape(1, -1))[0]  # (n_out,)
    answer = int(a.argmax())
    names = run.plan.classes
    lines = [f"{path}: {names[answer]}   ({', '.join(found.steps)})"]
    width = max(map(len, names))
    for name, value in zip(names, a.tolist(), strict=True):
        bar = "█" * round(_BAR * min(1.0, max(0.0, value)))
        lines.append(f"  {name:<{width}}  {value:6.3f}  {bar}".rstrip())
    if float(a.max()) < _UNSURE:
        lines.append(f"no output reaches {_UNSURE}: the network has not seen such a picture")
    return lines


if __name__ == "__main__":
    sys.exit(console.run(main, "manual-bp predict"))
