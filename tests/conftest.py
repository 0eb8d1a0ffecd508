"""What every test shares: the CPU as the device, one thread a worker, no drawing, and `smoke`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from manual_bp.training import pictures

ROOT = Path(__file__).parent
# A little of every room, by the beginning of a test's name: `python -m pytest -m smoke`.
SMOKE = (
    "test_backprop.py::",
    "test_conversion.py::test_convert",
    "test_functional.py::test_bad_input",
    "test_gradients.py::test_gradcheck_with_every_flag[",
    "test_gradients.py::test_value_and_gradients_equal_the_twin[",
    "test_modules.py::test_state_dicts",
    "test_readme.py::test_every_link",
    "test_slips.py::",
    "test_trace.py::",
    "test_train.py::test_run_folder_holds",
    "test_train.py::test_every_layer_that_trains",
    "test_transforms.py::test_nested_derivatives[",
    "test_worked_examples.py::",
    "correctness/test_contract.py::test_linear_in_g",
    "correctness/test_poisoned.py::test_every_layer",
    "direct/test_direct.py::test_backward_equals_autograd",
    "direct/test_direct.py::test_trajectory_equals_the_functions",
    "test_bench.py::test_bad_configurations",
    "training/test_live_check.py::test_a_wrong_line",
    "training/test_measures.py::",
    "training/test_recipe.py::test_the_recipe",
    "verify/test_messages.py::test_a_factor",
    "view/test_snapshots.py::",
    "verify/test_check.py::test_the_finding",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = f"{item.path.relative_to(ROOT).as_posix()}::{item.name}"
        if name.startswith(SMOKE):
            item.add_marker(pytest.mark.smoke)
    # The long ones first: no worker is left alone with one at the end.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what needs a GPU where there is none; MANUAL_BP_REQUIRE_CUDA=1: let that fail."""
    if item.get_closest_marker("cuda") is None or torch.cuda.is_available():
        return
    if os.environ.get("MANUAL_BP_REQUIRE_CUDA") == "1":
        pytest.fail("no CUDA device, and MANUAL_BP_REQUIRE_CUDA=1 asks for one", pytrace=False)
    pytest.skip("no CUDA device")


@pytest.fixture(scope="session", autouse=True)
def children_hear_ctrl_c() -> None:
    """A program that a shell starts in the background ignores SIGINT, and so do its children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_thread_a_worker() -> None:
    """Several workers on as many cores: a second thread each would only wait."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def auto_is_the_cpu() -> Iterator[None]:
    """On every machine: a run's expected figures were seen on the CPU. A GPU has its own tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: None)
        yield


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Leave what a run draws at its end blank: matplotlib takes longer than a short run trains."""
    for name in ("worst_digits", "confusion", "verdict"):
        patch.setattr(pictures, name, lambda *_: Image.new("P", (1, 1)))
    patch.setattr(pictures, "summary", lambda *_: None)
    patch.setattr(pictures, "png", lambda _: b"")


@pytest.fixture(scope="session", autouse=True)
def blank_pictures() -> Iterator[pytest.MonkeyPatch]:
    """In every run of the tests' own processes, but where `drawn_pictures` is asked for."""
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        yield patch


@pytest.fixture(scope="module")
def drawn_pictures(blank_pictures: pytest.MonkeyPatch) -> Iterator[None]:
    """The true pictures, for the tests of one module."""
    blank_pictures.undo()
    try:
        yield
    finally:
        draw_nothing(blank_pictures)
