"""The rows of `third_party` whose packages the tests need anyway: torch, torchvision, onnx."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from manual_bp import twins
from tests.correctness import third_party
from tests.correctness.poison import poisoned
from tests.correctness.third_party_models import MODELS, Model
from tests.correctness.third_party_tools import TOOLS, Tool, count

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's
HERE = ("torch", "torchvision", "onnx")
SOAK = ("alexnet", "vgg11")  # which have a hundred million weights
SLOW = ("convnext_tiny", "densenet121", "efficientnet_v2_s", "googlenet", "inception_v3")
SLOW += ("torch.onnx.export",)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small models: on a busy machine two threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def marked(row: Model | Tool) -> object:
    marks = [pytest.mark.soak] if row.name in SOAK else []
    if row.name in SLOW or getattr(row, "distributed", False):
        marks.append(pytest.mark.soak)
    return pytest.param(row, id=row.name, marks=marks)


def model(name: str) -> Model:
    return next(row for row in MODELS if row.name == name)


@pytest.mark.parametrize("row", [marked(row) for row in MODELS if row.package in HERE])
def test_a_model_computes_the_same_once_converted(row: Model) -> None:
    assert third_party.convert(row).verdict == "PASS"


@pytest.mark.parametrize("tool", [marked(tool) for tool in TOOLS if tool.package in HERE])
def test_a_tool_gives_the_same_or_needs_to_torch(tool: Tool) -> None:
    verdict, ran = third_party.judge(tool)
    assert verdict.startswith(f"needs to_torch: {tool.why}" if tool.why else "PASS")
    if "gradients" in tool.compared and not tool.why:
        assert ran == "Linear, Sigmoid"


def test_a_wrong_derivative_fails() -> None:
    with poisoned():
        verdict = third_party.convert(model("mobilenet_v3_small")).verdict
    assert verdict.startswith("FAIL: further apart than ")


def test_a_layer_that_is_not_called_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "_PAST_THE_LAYER", {})
    verdict = third_party.convert(model("swin, version 1")).verdict
    assert verdict.endswith("is not called, and `left` does not say so")


def test_a_tool_that_differs_fails_unless_it_says_why() -> None:
    kinds = Tool("kinds", "torch", lambda m: [count(type(m[0]) is nn.Linear)], "kinds")
    assert third_party.judge(kinds)[0] == "FAIL: off by 100.00% of the largest element"
    broken = Tool("broken", "torch", lambda m: [1 / 0], "nothing")
    assert third_party.judge(broken)[0] == (
        "FAIL on torch.nn itself: ZeroDivisionError: division by zero"
    )


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(third_party, "installed", lambda package: False)
    lines = third_party.tables().splitlines()
    assert sum("not installed" in line for line in lines) == len(MODELS) + len(TOOLS)
