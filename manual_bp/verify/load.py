"""MODULE_OR_FILE:NAME as the object it names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any


def load(target: str) -> Any:
    """Import a module, or run a file, and take a name from it.

    Dots in the name go through classes and modules.

    Raises:
        ValueError: no such module, file or name, or importing the module raises.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise ValueError(f"{target!r}: expected MODULE_OR_FILE:NAME, {_meant(target.rstrip(':'))}")
    found: Any = _module(place)
    for part in name.split("."):
        if not hasattr(found, part):
            known = (
                [n for n in vars(found) if not n.startswith("_")]
                if hasattr(found, "__dict__")
                else []
            )
            raise ValueError(
                f"{target!r}: {place} has no {name}; it has {', '.join(known[:12]) or 'nothing'}"
            )
        found = getattr(found, part)
    return found


def _meant(place: str) -> str:
    """The names in a module that could be meant: its own callables."""
    try:
        module = _module(place)
    except ValueError:
        return "such as my_ops.py:MyFunction or my.ops:MyFunction"
    known = [
        n
        for n, v in vars(module).items()
        if callable(v) and getattr(v, "__module__", "") == module.__name__
    ]
    known = [n for n in known if not n.startswith("_")]
    return (
        f"add :NAME, one of {', '.join(known[:12])}, as in {place}:{known[0]}"
        if known
        else "such as torch:sin"
    )


def _module(place: str) -> Any:
    path = Path(place)
    try:
        if path.suffix == ".py":
            if not path.is_file():
                raise ValueError(f"{place}: no such file")
            # Not the stem alone: a file may have the name of a module, such as random.py.
            name = f"verified_{path.stem}"
            spec = importlib.util.spec_from_file_location(name, path)
            if spec is None or spec.loader is None:
                raise ValueError(f"{place}: not a Python file")
            module = importlib.util.module_from_spec(spec)
            # as `python file.py` does, for the file's own imports
            sys.path.insert(0, str(path.resolve().parent))
            sys.modules[name] = module
            spec.loader.exec_module(module)
            return module
        sys.path.insert(0, "")
        return importlib.import_module(place)
    except (ValueError, KeyboardInterrupt):
        raise
    except BaseException as error:  # anything, sys.exit too: it runs somebody's module
        line = _line(error)
        if "relative import" in line and path.suffix == ".py":
            line += f": it belongs to a package, name it so: PACKAGE.{path.stem}:NAME"
        raise ValueError(f"{place}: importing it raises {line}") from error


def _line(error: BaseException) -> str:
    """The error's class, and the first line of its message."""
    try:
        lines = str(error).splitlines()
    except Exception:  # somebody's exception
        lines = []
    return ": ".join([type(error).__name__, *lines[:1]])
