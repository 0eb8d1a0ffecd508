"""What is measured on the layers once an epoch, against autograd and against networks made to
measure.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from manual_bp import MLP
from manual_bp.training import probe
from manual_bp.training.data import Part


def by_autograd(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, float]:
    """slope/*, saturated/* and passed/* from retained gradients of the cost."""
    outputs: list[Tensor] = [x]
    for module in model:
        outputs.append(module(outputs[-1]))
        outputs[-1].retain_grad()
    (outputs[-1] - y).square().sum().backward()
    found = {}
    for (name, module), out in zip(model.named_children(), outputs[1:], strict=True):
        if isinstance(module, nn.Sigmoid):
            slope = torch.sigmoid(z) * torch.sigmoid(-z)  # noqa: F821 - set by the linear layer before
            found[f"slope/{linear}"] = slope.mean().item()  # noqa: F821
            found[f"saturated/{linear}"] = (slope < 0.01).double().mean().item()  # noqa: F821
            found[f"passed/{linear}"] = (z.grad.norm() / out.grad.norm()).item()  # noqa: F821
        else:
            z, linear = out, name  # noqa: F841
    return found


@pytest.mark.parametrize("output", ["sigmoid", "linear"])
def test_layers_agree_with_autograd(output: str) -> None:
    torch.manual_seed(0)
    model = MLP([6, 5, 4, 10], output=output, dtype=torch.float64)  # type: ignore[arg-type]
    with torch.no_grad():
        model[0].weight *= 8  # so that some are saturated
    x, y = torch.randn(30, 6, dtype=torch.float64), torch.rand(30, 10, dtype=torch.float64)
    found = {tag: value.item() for tag, value in probe.layers(model, x, y).items()}
    expected = by_autograd(model, x, y)
    assert 0 < expected["saturated/0"] < 1
    assert {
        tag: value for tag, value in found.items() if not tag.startswith(("dead", "stuck"))
    } == pytest.approx(expected)
    layers = ["0", "2", "4"]
    assert [tag.split("/")[1] for tag in found if tag.startswith("dead")] == layers
    assert ("stuck/4" in found) == (output == "sigmoid")


def test_units_that_do_not_move_are_counted() -> None:
    model = MLP([2, 4, 10])
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0], [0.0, 3.0]]))
        model[0].bias.copy_(
            torch.tensor([0.0, 20.0, 0.0, 0.0])
        )  # constant at ½; at 1, with no slope; two that vary
    x = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [0.5, 0.0]])
    found = probe.layers(model, x, torch.zeros(3, 10))
    assert found["dead/0"] == 0.5
    assert found["stuck/0"] == 0.25


def test_no_error_lets_nothing_through() -> None:
    model = MLP([2, 3, 10])
    x = torch.rand(4, 2)
    found = probe.layers(model, x, model(x).detach())
    assert [found[f"passed/{layer}"].item() for layer in (0, 2)] == [0, 0]


def test_measures_of_an_epoch() -> None:
    torch.manual_seed(0)
    model = MLP([4, 3, 10])
    part = Part(torch.randint(0, 256, (50, 4), dtype=torch.uint8), torch.randint(0, 10, (50,)))
    before = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        model[0].weight *= 1.5
    measured = probe.measures(model, part, "mean", torch.float32, before)
    found = {tag: value.item() for tag, value in measured.items()}
    outputs = model(part.images / 255)
    y = torch.eye(10)[part.labels]
    assert found["cost/validation"] == pytest.approx((outputs - y).square().mean().item(), rel=1e-5)
    assert found["accuracy/validation"] == (outputs.argmax(1) == part.labels).double().mean().item()
    assert found["update_ratio/0.weight"] == pytest.approx(0.5)
    assert found["update_ratio/2.weight"] == 0
