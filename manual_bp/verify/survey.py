"""The Functions that a program ran, each checked on what it was given: a line a Function."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import Any

from manual_bp.verify.apply import listening_to
from manual_bp.verify.checker import check
from manual_bp.verify.recorder import BYTES, Recorded, Recorder
from manual_bp.verify.report import WIDTH, Report, VerificationError, plain


@dataclass(frozen=True)
class Line:
    """One Function's verdict. `report` is of the run that tells most, None if there was none."""

    name: str
    place: str
    calls: int
    verdict: str
    status: str  # ok, finding, question, incomplete, or left out
    site: str = ""
    report: Report | None = None


@dataclass(frozen=True)
class Survey:
    """The result of `watch`: `lines`, and `ok` if every Function of the program's own is."""

    lines: list[Line]

    @property
    def ok(self) -> bool:
        """Whether every Function was checked, or left out with a reason, and nothing was found."""
        return all(line.status in ("ok", "left out") for line in self.lines)

    @property
    def found(self) -> bool:
        """Whether there is a finding."""
        return any(line.status == "finding" for line in self.lines)

    def raise_if_failed(self) -> None:
        """Do nothing when `ok`.

        Raises:
            VerificationError: an AssertionError with the table and the details as its message.
        """
        if not self.ok:
            raise VerificationError(str(self))

    def to_json(self, indent: int | None = 2) -> str:
        """Everything as JSON."""
        lines = [asdict(line) for line in self.lines]
        return json.dumps(plain({"ok": self.ok, "lines": lines}), indent=indent, ensure_ascii=False)

    def __str__(self) -> str:
        if not self.lines:
            return "no autograd Function and no torch.library operator ran"
        table = [row(line, widths(self.lines)) for line in self.lines]
        return "\n".join([*table, *self.details()])

    def details(self) -> list[str]:
        """The reports of what is not ok, each with the line that called."""
        found = []
        for line in self.lines:
            if line.report is not None and line.status != "ok":
                text = f"called in {line.site}, written in {line.place}"
                found += ["", str(line.report), *textwrap.wrap(text, WIDTH, initial_indent="  ")]
        return found


def widths(lines: list[Line]) -> tuple[int, int]:
    """Of the names and of the places, in characters."""
    return max(len(n.name) for n in lines), min(60, max(len(n.place) for n in lines))


def row(line: Line, width: tuple[int, int]) -> str:
    """One line of the table."""
    calls = f"{line.calls:,} call{'s' if line.calls > 1 else ''}"
    return f"{line.name:<{width[0]}}  {line.place:<{width[1]}}  {calls:>10}  {line.verdict}"


class Seen:
    """What ran inside a `watch` block."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def report(
        self,
        *,
        seed: int = 0,
        leave_out: Mapping[str, str] | None = None,
        tell: Callable[[Line], None] | None = None,
        **options: Any,
    ) -> Survey:
        """Check every Function on what it was given.

        Args:
            seed: of the random cotangents and directions.
            leave_out: patterns of names, such as "Round*", each with the reason.
            tell: is given each line as soon as it is known.
            **options: for `check`.
        """
        lines = []
        for line in self.lines(seed=seed, leave_out=leave_out, **options):
            lines.append(line)
            if tell is not None:
                tell(line)
        return Survey(lines)

    def lines(
        self, *, seed: int = 0, leave_out: Mapping[str, str] | None = None, **options: Any
    ) -> Iterator[Line]:
        """What `report` gathers, line by line, in the order of the names."""
        for recorded in sorted(self.recorder.found.values(), key=lambda r: (r.name, r.place)):
            self.recorder.paused = True  # a check inside the block is not the program
            try:
                line = _line(recorded, seed, leave_out or {}, options)
            finally:
                self.recorder.paused = False
            yield line


@contextmanager
def watch(limit: int = BYTES) -> Iterator[Seen]:
    """Record what every Function inside the block is given; `report` checks them.

    The block computes what it would have: the arguments are copied before each Function's first
    calls, in at most `limit` bytes.

        >>> with watch() as seen:
        ...     pass  # train
        >>> print(seen.report())
        no autograd Function and no torch.library operator ran
    """
    with listening_to(Recorder(limit)) as recorder:
        yield Seen(recorder)


def _line(
    recorded: Recorded, seed: int, leave_out: Mapping[str, str], options: dict[str, Any]
) -> Line:
    name, place, calls = recorded.name, recorded.place, recorded.calls
    if not recorded.own:
        return Line(name, place, calls, "left out: torch's own", "left out")
    for pattern, reason in leave_out.items():
        if fnmatch(name, pattern) or fnmatch(f"{place}:{name}", pattern):
            return Line(name, place, calls, f"left out: {reason}", "left out")
    if not recorded.runs:
        return Line(name, place, calls, f"not checked: {recorded.missed}", "incomplete")
    # the runs that asked for a gradient; the others only where there is none
    runs = [run for run in recorded.runs.values() if run.grad] or list(recorded.runs.values())
    try:
        checked = [(check(recorded.target, run.args, seed=seed, **options), run) for run in runs]
    except ValueError:  # wrong usage, such as a probe that does not exist
        raise
    except Exception as error:  # the others are still to be checked
        reason = f"not checked: the check raised {type(error).__name__}: {error}"
        return Line(name, place, calls, reason.splitlines()[0], "incomplete")
    report, run = max(checked, key=lambda pair: (len(pair[0].findings), not pair[0].ok))
    status = "ok" if report.ok else "incomplete"
    status = "finding" if report.findings else "question" if report.questions else status
    return Line(name, place, calls, report.verdict, status, run.site, report)
