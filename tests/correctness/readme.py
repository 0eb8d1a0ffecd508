"""Puts a generated table between its markers: `<!-- name -->` … `<!-- /name -->`."""

from __future__ import annotations

import argparse
from pathlib import Path


def between(name: str, text: str) -> str:
    """What stands between the markers of `name` in `text`."""
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"the markers {start.strip()} and {end} must each be there once")
    return text.split(start)[1].split(end)[0].strip()


def write(name: str, table: str, arguments: list[str]) -> None:
    """Print `table`, or with `--write FILE` put it between the markers in FILE."""
    parser = argparse.ArgumentParser(
        description=f"Print the table {name!r}, or write it into a file."
    )
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put the table between the markers in FILE"
    )
    path = parser.parse_args(arguments).write
    if path is None:
        print(table)
        return
    text = path.read_text(encoding="utf-8")
    between(name, text)
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    head, rest = text.split(start)
    tail = rest.split(end)[1]
    path.write_text(f"{head}{start}\n{table}\n\n{end}{tail}", encoding="utf-8")
