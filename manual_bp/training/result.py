"""`Result`: what a run leaves to the program that started it."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from manual_bp.training import terminal


@dataclass(frozen=True)
class Result:
    """What `main` and `mbp.train` return; in a notebook a table and the picture."""

    folder: Path | None  # None after --dry-run, and in processes that write nothing
    metrics: list[dict[str, Any]]  # one row an epoch, and the last with the test result
    test_cost: float
    test_accuracy: float  # a share, 0 to 1
    model: nn.Sequential

    def _repr_html_(self) -> str:
        """The rows of the terminal as a table, the test result, and summary.png."""
        tags = [tag for tag in terminal.FIGURES if tag in self.metrics[0]]
        rows = [tags, *([f"{row[tag]:.5g}" for tag in tags] for row in self.metrics[:-1])]
        table = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
        said = f"test: cost {self.test_cost:.5f}, accuracy {100 * self.test_accuracy:.2f} %"
        picture = ""
        if self.folder is not None and (self.folder / "summary.png").is_file():
            data = base64.b64encode((self.folder / "summary.png").read_bytes()).decode()
            said += f", {html.escape(str(self.folder))}"
            picture = f'<img alt="the run on one page" src="data:image/png;base64,{data}">'
        return f"<table>{table}</table><p>{said}</p>{picture}"
