"""A gradient checker for anybody's Function that names the fault.

    import manual_bp as mbp
    mbp.verify.check(MyFunction, (torch.randn(4, 3), torch.randn(5, 3))).raise_if_failed()

`python -m manual_bp.verify FILE:NAME --inputs "randn(4,3) randn(5,3)"` does the same from a
terminal.
"""

from manual_bp.verify.check import check
from manual_bp.verify.kinds import KINDS
from manual_bp.verify.report import Finding, Report, Row, VerificationError

__all__ = ["KINDS", "Finding", "Report", "Row", "VerificationError", "check"]
