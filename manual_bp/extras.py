"""The extras of the package: what a command needs beside torch."""

from __future__ import annotations

import importlib.util


def missing(*modules: str, extra: str) -> str | None:
    """One line that says which of the modules are not installed, and how to install them."""
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    return f"this needs {', '.join(absent)}: pip install 'manual_bp[{extra}]'"
