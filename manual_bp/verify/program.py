"""`--watch`: run somebody's program as Python would, then check the Functions that ran."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import runpy
import sys
import traceback
import types
from collections.abc import Sequence
from typing import Any

from manual_bp import console
from manual_bp.escape import escaped
from manual_bp.verify.survey import Line, Survey, watch


def run_and_check(arguments: Sequence[str], *, json: bool, **options: Any) -> int:
    """Run `script.py args…` or `-m module args…`, print the table, return the exit status.

    1: a finding, 3: not everything could be looked at, or the program itself failed.
    """
    with console.kept(alone=json) as out:
        with watch() as seen:
            ended = _run(list(arguments))
        with contextlib.suppress(ValueError, AttributeError):  # the program's: closed, or None
            sys.stdout.flush()

        def tell(line: Line) -> None:
            text = f"{line.name}  {line.place}  {line.calls:,}×  {line.verdict}"
            print(escaped(text), file=out, flush=True)

        if not json:
            print("\nFunctions that ran, each checked on what it was given:", file=out, flush=True)
        survey = seen.report(tell=None if json else tell, **options)
        print(_text(survey, json), file=out, flush=True)
    if ended:
        print(f"the program itself {escaped(ended)}", file=sys.stderr)
    if survey.found:
        return 1
    return 0 if survey.ok and not ended else 3


def _text(survey: Survey, json: bool) -> str:
    if json:
        return survey.to_json()
    return "\n".join(survey.details()) if survey.lines else str(survey)


def _run(arguments: list[str]) -> str:
    """Run the program. Returns how it failed, or ""."""
    argv, path = sys.argv, list(sys.path)
    main = sys.modules["__main__"]
    try:
        if arguments[:1] == ["-m"] and len(arguments) > 1:
            sys.argv = arguments[1:]
            sys.path.insert(0, os.getcwd())
            if not _is_there(arguments[1]):
                return f"is not there: no module is named {arguments[1]}"
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            _script(arguments[0])
    except SystemExit as leaving:
        if leaving.code not in (None, 0):
            return f"ended with {leaving.code}"
    except KeyboardInterrupt:
        return "was interrupted"
    except BaseException as error:  # anything at all: it is somebody else's program
        # without the frames of this file
        traceback.print_exception(error.with_traceback(_theirs(error)))
        return f"raised {type(error).__name__}"
    finally:
        sys.argv, sys.path[:] = argv, path
        sys.modules["__main__"] = main
    return ""


def _is_there(module: str) -> bool:
    try:
        return not module.startswith(".") and importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # of its package; an odd name
        return False


def _script(file: str) -> None:
    file = os.path.abspath(file)  # as Python gives it to a program
    with open(file, "rb") as source:
        code = compile(source.read(), file, "exec")
    module = types.ModuleType("__main__")
    module.__dict__.update(__file__=file, __builtins__=__builtins__, __cached__=None)
    sys.modules["__main__"] = module  # for pickle, and for what asks for __main__
    sys.path.insert(0, os.path.dirname(os.path.realpath(file)))
    exec(code, module.__dict__)


def _theirs(error: BaseException) -> types.TracebackType | None:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, runpy.__file__):
        trace = trace.tb_next
    return trace
