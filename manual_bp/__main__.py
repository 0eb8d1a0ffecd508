"""`manual-bp COMMAND`, or `python -m manual_bp COMMAND`: every command of the package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import manual_bp
from manual_bp import console

# Each command: where its `main(argv, prog)` is, and what it does.
COMMANDS = {
    "train": ("training.command", "train a network on MNIST through the hand-derived layers"),
    "verify": ("verify.__main__", "check the backward pass of an autograd Function"),
    "trace": ("trace.__main__", "one example forward and back, every number written out"),
    "look": ("view.__main__", "a page that shows a run's passes forward and back, step by step"),
    "predict": ("use.predict", "show pictures to a trained network"),
    "export": ("use.export", "write a trained network for other programs"),
    "examples": ("worked_examples.__main__", "the documents' networks, worked by hand"),
    "bench": ("bench.__main__", "speed and memory beside what a user would pick instead"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit status; wrong usage is 2, with one line on stderr."""
    command, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    prog = f"manual-bp {command}" if command in COMMANDS else "manual-bp"
    return console.run(lambda: _run(command, rest, prog), prog)


def _run(command: str, rest: list[str], prog: str) -> int:
    if command == "--version":
        print(f"manual_bp {manual_bp.__version__}")
        return 0
    if command in ("--help", "-h"):
        lines = [f"  {name:<9} {what}" for name, (_, what) in COMMANDS.items()]
        print("usage: manual-bp COMMAND …, where COMMAND is one of\n")
        print("\n".join([*lines, "", "manual-bp COMMAND --help tells more; --version"]))
        return 0
    if command not in COMMANDS:
        names = ", ".join(COMMANDS)
        console.say(f"manual-bp: error: {command!r} is not one of {names}")
        return 2
    module = import_module(f"manual_bp.{COMMANDS[command][0]}")
    status = module.main(rest, prog=prog)
    if command == "train":
        import_module("manual_bp.training.world").leave()  # under torchrun alone
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())
