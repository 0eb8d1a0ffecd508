"""`main`: the command line from its flags to its exit status."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from manual_bp import console
from manual_bp.escape import escaped
from manual_bp.extras import missing
from manual_bp.training.errors import UsageError, UserError, taken
from manual_bp.training.options import Options, parse

if TYPE_CHECKING:  # torch takes a second: --help and wrong usage do without it
    from manual_bp.training.result import Result
    from manual_bp.training.run import Run

NEEDS = ("torchvision", "tensorboard", "tqdm", "sklearn", "matplotlib", "PIL")


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


def main(argv: Sequence[str] | None = None, prog: str = "train.py") -> Result:
    """Run the command line.

    Args:
        argv: the flags; those of the process by default.
        prog: what the person typed, for messages: "train.py" or "manual-bp train".

    Raises:
        SystemExit: 1 after a fault, with one line on stderr; 2 after wrong usage; 130 after Ctrl-C
            and 143 after SIGTERM, with the run saved as of its last whole epoch.
    """
    console.prepare()
    options, given = parse(argv, prog)
    if lacking := missing(*NEEDS, extra="train"):
        _say(prog, f"error: {lacking}")
        raise SystemExit(1)
    run: Run | None = None
    try:
        _refuse_a_taken_name(options)
        with _sigterm_raises(), contextlib.ExitStack() as stack:
            from manual_bp.training.launch import prepare

            run = prepare(options, given, stack)
            return run.dry_run() if options.dry_run else run.go(options.logdir, options.run_name)
    except UserError as error:
        _say(prog, f"error: {error}")
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from error
    except OSError as error:
        gone = isinstance(error, BrokenPipeError)  # whoever read the output, such as head
        what = "nobody reads the output any more" if gone else error.strerror or str(error)
        if error.filename is not None:
            what = f"{error.filename}: {what}"
        console.leave_stdout()
        _say(prog, f"error: {what}: {_how_to_go_on(run, prog)}")
        raise SystemExit(1) from error
    except KeyboardInterrupt as error:
        if run is None or run.world.speaks():
            _say(prog, f"interrupted: {_how_to_go_on(run, prog)}")
        raise SystemExit(143 if isinstance(error, _Terminated) else 130) from None
    except (RuntimeError, MemoryError) as error:
        known = _known_fault(error)
        if known is None:
            raise
        if run is None or run.world.speaks():
            _say(prog, f"error: {known}: {_how_to_go_on(run, prog)}")
        raise SystemExit(1) from error


def _refuse_a_taken_name(options: Options) -> None:
    """Before anything is imported or read; `RunFolder.create` looks again."""
    if options.run_name is not None and options.resume is None and not options.dry_run:
        path = Path(options.logdir) / options.run_name
        with contextlib.suppress(ValueError):  # a null character, which `create` refuses
            if os.path.lexists(path):
                raise taken(path)


def _say(prog: str, text: str) -> None:
    """On stderr; the lines of a table as they are."""
    print("\n".join(map(escaped, f"{prog}: {text}".split("\n"))), file=sys.stderr)


def _known_fault(error: RuntimeError | MemoryError) -> str | None:
    """What is said of an error that is not a fault of this program, or None."""
    from manual_bp.training import world

    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    if world.is_lost(error):  # a collective operation fails when one of its processes has died
        return f"lost another process ({reason})"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"torch.compile failed ({reason}); leave out --compile"
    words = ("allocate memory", "out of memory")
    if isinstance(error, MemoryError) or any(word in str(error) for word in words):
        return f"out of memory ({reason}); take a smaller --batch-size or --hidden"
    return None


def _how_to_go_on(run: Run | None, prog: str) -> str:
    if run is None:
        return "nothing was saved"
    folder = run.world.folder() if run.folder is None else run.folder.path
    if folder is None:
        return "nothing was saved"
    command = "python train.py" if prog == "train.py" else prog
    return f"continue with: {command} --resume {shlex.quote(str(folder))}"


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
