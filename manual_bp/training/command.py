"""`main`: the command line from its flags to its exit status."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from manual_bp.training import checkpoint, machine, world
from manual_bp.training.errors import UsageError, UserError
from manual_bp.training.options import parse
from manual_bp.training.run import Result, Run


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


def main(argv: Sequence[str] | None = None) -> Result:
    """Run the command line.

    Raises:
        SystemExit: 1 after a fault, with one line on stderr; 2 after wrong usage; 130 after Ctrl-C
            and 143 after SIGTERM, with the run saved as of its last whole epoch.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # η is not in every encoding
    options, given = parse(argv)
    run: Run | None = None
    try:
        with _sigterm_raises():
            device, device_why = machine.choose_device(checkpoint.device(options, given))
            with machine.current(device), world.join(device) as processes:
                run = Run(options, given, device, device_why, processes)
                with machine.configured(run.threads, run.options.deterministic):
                    return run.go()
    except UserError as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from error
    except BrokenPipeError:  # whoever read the output, such as head, has gone
        _leave_stdout()
        print(
            f"train.py: error: nobody reads the output any more: {_how_to_go_on(run)}",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    except OSError as error:
        _leave_stdout()
        print(f"train.py: error: {error.strerror or error}: {_how_to_go_on(run)}", file=sys.stderr)
        raise SystemExit(1) from error
    except KeyboardInterrupt as error:
        if run is None or run.world.writes:
            print(f"train.py: interrupted: {_how_to_go_on(run)}", file=sys.stderr)
        raise SystemExit(143 if isinstance(error, _Terminated) else 130) from None
    except (RuntimeError, MemoryError) as error:
        known = _known_fault(error)
        if known is None:
            raise
        if run is None or run.world.writes:
            print(f"train.py: error: {known}: {_how_to_go_on(run)}", file=sys.stderr)
        raise SystemExit(1) from error


def _known_fault(error: RuntimeError | MemoryError) -> str | None:
    """What is said of an error that is not a fault of this program, or None."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    if world.is_lost(
        error
    ):  # a collective operation fails when a process that takes part in it has died
        return f"lost another process ({reason})"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"torch.compile failed ({reason}); leave out --compile"
    if isinstance(error, MemoryError) or any(
        word in str(error) for word in ("allocate memory", "out of memory")
    ):
        return f"out of memory ({reason}); take a smaller --batch-size or --hidden"
    return None


def _leave_stdout() -> None:
    """Let what is still to be written go nowhere, or the interpreter complains at its exit."""
    with contextlib.suppress(OSError):  # in a notebook it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _how_to_go_on(run: Run | None) -> str:
    if run is None or run.folder is None:
        return "nothing was saved"
    return f"continue with: python train.py --resume {shlex.quote(str(run.folder.path))}"


@contextlib.contextmanager
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
