"""`mbp.train`: a run from Python, in a script or in a notebook's cell."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import fields
from typing import Any

from manual_bp.extras import missing
from manual_bp.training.command import NEEDS
from manual_bp.training.errors import UsageError
from manual_bp.training.options import Options, restore
from manual_bp.training.result import Result


def train(**flags: Any) -> Result:
    """Train as `train.py` does, by the flags of the same names.

        run = mbp.train(dataset="digits", hidden=[30], epochs=5)
        print(run.test_accuracy, run.folder)

    In a notebook the result shows a table and the picture. A `run_name` that is taken gets a number
    behind.

    Args:
        flags: those of `python train.py --help`, with _ for -: `batch_size=10`, `lr_schedule=…`.

    Raises:
        TypeError: a flag that there is not.
        UsageError: a value that its flag does not take, or flags that contradict each other.
        UserError: the run cannot be had, or ended with a fault; the message says what to do.
        ImportError: what `manual_bp[train]` installs is missing.
    """
    known = [field.name for field in fields(Options)]
    unknown = [name for name in flags if name not in known]
    if unknown:
        raise TypeError(f"train: {unknown[0]!r} is no flag; flags: {', '.join(known)}")
    if lacking := missing(*NEEDS, extra="train"):
        raise ImportError(lacking)
    try:
        options = restore(flags)
    except ValueError as error:
        raise UsageError(str(error)) from None
    from manual_bp.training.launch import prepare

    with ExitStack() as stack:
        run = prepare(options, set(flags), stack)
        if options.dry_run:
            return run.dry_run()
        return run.go(options.logdir, options.run_name, numbered=True)
