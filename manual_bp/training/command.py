"""`main`: the command line from its flags to its exit status."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from manual_bp.training import machine, world
from manual_bp.training.errors import UsageError, UserError
from manual_bp.training.options import parse
from manual_bp.training.run import Result, Run


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


def main(argv: Sequence[str] | None = None) -> Result:
    """Run the command line.

    Raises:
        SystemExit: 1 after a fault, with one line on stderr; 2 after wrong usage; 130 after Ctrl-C and 143 after
            SIGTERM, with the run saved as of its last whole epoch.
    """
    options, given = parse(argv)
    run: Run | None = None
    try:
        with _sigterm_raises():
            device, device_why = machine.choose_device(options.device)
            with machine.current(device), world.join(device) as processes:
                run = Run(options, given, device, device_why, processes)
                with machine.configured(run.threads, run.options.deterministic):
                    return run.go()
    except UserError as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from error
    except BrokenPipeError:  # whoever read the output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its exit
        raise SystemExit(1) from None
    except KeyboardInterrupt as error:
        if run is None or run.world.writes:
            print(f"train.py: interrupted: {_how_to_go_on(run)}", file=sys.stderr)
        raise SystemExit(143 if isinstance(error, _Terminated) else 130) from None
    except RuntimeError as error:
        # A collective operation fails when a process that takes part in it has died.
        if run is None or run.world.size == 1 or not world.is_lost(error):
            raise
        if run.world.writes:
            reason = str(error).splitlines()[0][:120]
            print(f"train.py: error: lost another process ({reason}): {_how_to_go_on(run)}", file=sys.stderr)
        raise SystemExit(1) from error


def _how_to_go_on(run: Run | None) -> str:
    if run is None or run.folder is None:
        return "nothing was saved"
    return f"continue with: python train.py --resume {shlex.quote(str(run.folder.path))}"


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise, so that a run ends in order. Only the main thread may set a handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
