from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manual_bp.training.command import main
from manual_bp.training.result import Result
from tests.training import idx


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Result]:
    """`main` on the digits with a log folder of the test's own; further flags as words."""

    def run(*flags: str) -> Result:
        return main(["--dataset", "digits", "--logdir", str(tmp_path / "runs"), *flags])

    return run


@pytest.fixture(scope="session")
def made_up_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with files of MNIST's sizes; not to be changed."""
    root = tmp_path_factory.mktemp("data")
    idx.write(root)
    return root


@pytest.fixture(scope="session")
def forkserver() -> Any:
    """Processes that start with everything imported already, so that killing fifty of them takes
    seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["manual_bp.training.command", "sklearn.datasets", "torch.utils.tensorboard"]
    )
    return context
