"""What the page costs a run: the share of its CPU time that snapshots and look.html take.

`python -m tests.view.page_cost [FLAGS]` prints a line; FLAGS are those of train.py. Both times are
taken in one run, so a busy machine stretches both. Of a checkpoint that part counts by which it
takes longer to write than one without snapshots, which is written beside it.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from manual_bp.training.command import main as train
from manual_bp.training.look import Look
from manual_bp.training.run_folder import RunFolder
from manual_bp.view.snapshots import Snapshots


def main() -> None:
    flags = sys.argv[1:] or ["--dataset", "mnist"]
    spent = {"page": 0.0, "beside": 0.0}  # beside: by this measurement

    def timed(call: Callable[..., Any], what: str) -> Callable[..., Any]:
        def run(*args: Any, **keywords: Any) -> Any:
            start = time.process_time()
            try:
                return call(*args, **keywords)
            finally:
                spent[what] += time.process_time() - start

        return run

    write = RunFolder.write_checkpoint
    with contextlib.ExitStack() as stack:
        elsewhere = RunFolder(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        logdir = stack.enter_context(tempfile.TemporaryDirectory())

        def write_twice(self: RunFolder, state: dict[str, Any]) -> None:
            start = time.process_time()
            write(self, state)
            middle = time.process_time()
            write(elsewhere, {name: value for name, value in state.items() if name != "snapshots"})
            end = time.process_time()
            spent["page"] += (middle - start) - (end - middle)
            spent["beside"] += end - middle

        stack.enter_context(mock.patch.object(RunFolder, "write_checkpoint", write_twice))
        for kind, name in (
            (Look, "write"),
            (Look, "end"),
            (Snapshots, "add"),
            (Snapshots, "state"),
        ):
            call = timed(getattr(kind, name), "page")
            stack.enter_context(mock.patch.object(kind, name, call))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        start = time.process_time()
        train([*flags, "--logdir", logdir])
        rest = time.process_time() - start - spent["page"] - spent["beside"]
    share = spent["page"] / rest
    print(f"{' '.join(flags)}: {spent['page']:.2f} s more than {rest:.2f} s, {100 * share:.1f} %")


if __name__ == "__main__":
    main()
