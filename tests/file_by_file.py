"""One sentence per file: the first of each file's own description. `python -m tests.file_by_file --write README.md`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.correctness import readme

ROOT = Path(__file__).parents[1]


def table() -> str:
    """The package's files by folder, each with its first sentence."""
    lines = [f"- [`train.py`](train.py): {sentence(ROOT / 'train.py')}"]
    folder = None
    for path in sorted((ROOT / "manual_bp").rglob("*"), key=lambda p: (p.parent, p.name)):
        if path.suffix not in {".py", ".cpp", ".h"}:
            continue
        if path.parent != folder:
            folder = path.parent
            where = folder.relative_to(ROOT)
            lines += ["", f"**[`{where}/`]({where})**: {sentence(folder / '__init__.py')}", ""]
        if path.name != "__init__.py":
            lines.append(f"- `{path.name}`: {sentence(path)}")
    return "\n".join(lines)


def sentence(path: Path) -> str:
    """The first sentence of a file's docstring, or of the comment at its head."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        found = re.match(r'"""(.*?)(?:\n\n|""")', text, re.DOTALL)
        assert found is not None, f"{path} has no docstring"
        head = found[1]
    else:
        head = " ".join(line.removeprefix("//") for line in text.split("\n\n")[0].splitlines())
    head = " ".join(head.split())
    first = re.match(r".*?\.(?=\s|$)", head)
    return (first[0] if first else head).rstrip(":.") + "."


if __name__ == "__main__":
    readme.write("files", table(), sys.argv[1:])
