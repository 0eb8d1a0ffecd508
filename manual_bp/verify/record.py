"""What a check has gathered so far, and the one place that catches a probe's own error."""

from __future__ import annotations

from collections.abc import Callable

from manual_bp.verify.crash import CrashError
from manual_bp.verify.probes.result import Result
from manual_bp.verify.report import Finding, Report, Row


class Record:
    """Findings, rows, notes and statuses in the order in which they came up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.findings: list[Finding] = []
        self.rows: list[Row] = []
        self.checks: dict[str, str] = {}
        self.notes: list[str] = []
        self.incomplete: list[str] = []
        self.questions: list[Finding] = []
        self.skip: frozenset[str] = frozenset()
        self.tell: Callable[[Report, str], None] = lambda report, probe: None
        self.looked_at = self.elements = 0

    def found(self, kind: str) -> bool:
        """Whether there is a finding of this kind."""
        return any(f.kind == kind for f in self.findings)

    def probe(self, name: str, probe: Callable[[], Result], group: str = "") -> bool:
        """Run one probe; True when it found nothing.

        A probe that raises leaves the report incomplete, with a line that says so. One whose name
        or `group` is in `skip` is not run.
        """
        self.tell(self.report(), name)
        if {name.replace(" ", "-"), group} & self.skip:
            self.checks[name] = "left out, as asked"
            return True
        try:
            result = probe()
        except CrashError as crash:
            result = Result("incomplete")
            self.incomplete.append(f"{name}: not looked at, the {crash.stage} raises {crash.line}")
        except Exception as error:  # of the probe, not the function: the report must go on
            result = Result("incomplete")
            line = str(error).splitlines()[0] if str(error) else "no message"
            self.incomplete.append(
                f"{name}: could not be looked at ({type(error).__name__}: {line})"
            )
        return self.take(name, result)

    def take(self, name: str, result: Result) -> bool:
        """Add what a probe returned; True when it found nothing."""
        self.checks[name] = result.status
        self.findings += result.findings
        self.notes += [n for n in result.notes if n not in self.notes]
        return not result.findings

    def report(self) -> Report:
        """All of it."""
        return Report(
            self.name,
            self.findings,
            self.rows,
            self.checks,
            self.notes,
            self.incomplete,
            self.looked_at,
            self.elements,
            self.questions,
        )
