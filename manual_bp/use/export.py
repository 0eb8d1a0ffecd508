"""`manual-bp export RUN --format FORMAT`: a trained network for other programs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from manual_bp import console
from manual_bp.escape import escaped
from manual_bp.training.options import DATASETS

# Each format: the file's suffix, and what it is for.
FORMATS = {
    "onnx": (".onnx", "for onnxruntime and many other programs"),
    "pt2": (".pt2", "a torch.export program, for PyTorch without this package"),
    "safetensors": (".safetensors", "the weights, for any language"),
    "torch": (".pt", "the weights as a state dict of torch.nn's layers"),
}


def main(argv: Sequence[str] | None = None, prog: str = "manual-bp export") -> int:
    """Write a file. Returns 0, or 1 after a fault with one line on stderr; wrong usage exits 2."""
    args = _parse(argv, prog)
    from manual_bp.training import trained
    from manual_bp.training.errors import UserError
    from manual_bp.use.formats import write

    try:
        run = trained.read(args.run, Path(args.logdir))
        path = args.out or run.folder / f"model{FORMATS[args.format][0]}"
        difference = write(run.model, path, args.format)
    except UserError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 1
    plan = run.plan
    pixels = "bright on dark" if plan.dataset in DATASETS else "as in your pictures"
    names = ", ".join(plan.classes[:20]) + ", …" * (len(plan.classes) > 20)
    print(f"{escaped(path)}: {path.stat().st_size:,} bytes")
    print(f"input x (m, {plan.sizes[0]}): pixels from 0 to 1, {pixels}, row by row")
    print(f"output a (m, {plan.sizes[-1]}): {escaped(names)}")
    print(f"read again: activations differ by {difference:.1g} at most")
    return 0


def _parse(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write a trained network for other programs, read it again, and compare.",
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="a run that train.py wrote: its folder, its name in --logdir, or latest",
    )
    forms = "; ".join(f"{name}: {what}" for name, (_, what) in FORMATS.items())
    parser.add_argument(
        "--format", choices=FORMATS, default="onnx", help=f"{forms} (default: onnx)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the file (default: model.SUFFIX in the run)"
    )
    parser.add_argument(
        "--logdir", default="runs", metavar="DIR", help="folder of run folders (default: runs)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(console.run(main, "manual-bp export"))
