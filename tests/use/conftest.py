"""Trained runs that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from manual_bp.training.command import main


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the digits."""
    logdir = tmp_path_factory.mktemp("runs")
    flags = "--dataset digits --hidden 30 --epochs 2 --engine direct --run-name digits"
    main([*flags.split(), "--logdir", str(logdir)])
    return logdir / "digits"
