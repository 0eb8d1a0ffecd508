"""What a probe returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from manual_bp.verify.report import Finding


@dataclass
class Result:
    """One line for the report, the findings, and notes, which are no faults."""

    status: str = "ok"
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, tensor: str, detail: str) -> None:
        """Record a finding."""
        self.status = "finding"
        if not any(f.kind == kind and f.tensor == tensor for f in self.findings):
            self.findings.append(Finding(kind, tensor, detail))
