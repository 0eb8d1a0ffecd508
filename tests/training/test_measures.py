"""What is measured once an epoch, against autograd and against networks made to measure."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from manual_bp import MLP, MSELoss, backprop
from manual_bp.training import measures
from manual_bp.training.data import Part


def by_autograd(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, float]:
    """slope/*, saturated/* and passed/* from retained gradients of the cost."""
    outputs: list[Tensor] = [x]
    for module in model:
        outputs.append(module(outputs[-1]))
        outputs[-1].retain_grad()
    (outputs[-1] - y).square().sum().backward()
    found = {}
    for i, module in enumerate(model):
        if isinstance(module, nn.Sigmoid):
            z, a = outputs[i : i + 2]
            layer = f"layer{(i + 1) // 2:02d}"
            slope = torch.sigmoid(z) * torch.sigmoid(-z)
            found[f"slope/{layer}"] = slope.mean().item()
            found[f"saturated/{layer}"] = (slope < 0.01).double().mean().item()
            found[f"passed/{layer}"] = (z.grad.norm() / a.grad.norm()).item()
    return found


@pytest.mark.parametrize("output", ["sigmoid", "linear"])
def test_layers_agree_with_autograd(output: str) -> None:
    torch.manual_seed(0)
    model = MLP([6, 5, 4, 10], output=output, dtype=torch.float64)  # type: ignore[arg-type]
    with torch.no_grad():
        model[0].weight *= 8  # so that some are saturated
    x, y = torch.randn(30, 6, dtype=torch.float64), torch.rand(30, 10, dtype=torch.float64)
    measured = measures.of_layers(backprop.read(model), x, y)
    found = {tag: value.item() for tag, value in measured.items()}
    expected = by_autograd(model, x, y)
    assert 0 < expected["saturated/layer01"] < 1
    assert {
        tag: value for tag, value in found.items() if not tag.startswith(("dead", "stuck"))
    } == pytest.approx(expected)
    layers = ["layer01", "layer02", "layer03"]
    assert [tag.split("/")[1] for tag in found if tag.startswith("dead")] == layers
    assert ("stuck/layer03" in found) == (output == "sigmoid")


def test_units_that_do_not_move_are_counted() -> None:
    model = MLP([2, 4, 10])
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0], [0.0, 3.0]]))
        # The first is constant at ½, the second at 1, without slope; the other two vary.
        model[0].bias.copy_(torch.tensor([0.0, 20.0, 0.0, 0.0]))
    x = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [0.5, 0.0]])
    found = measures.of_layers(backprop.read(model), x, torch.zeros(3, 10))
    assert found["dead/layer01"] == 0.5
    assert found["stuck/layer01"] == 0.25


def test_no_error_lets_nothing_through() -> None:
    model = MLP([2, 3, 10])
    x = torch.rand(4, 2)
    layers = backprop.read(model)
    *_, (_, output) = backprop.forward(layers, x)
    found = measures.of_layers(layers, x, output.detach())
    assert [found[f"passed/{layer.tag}"].item() for layer in layers] == [0, 0]


def test_measures_of_an_epoch() -> None:
    torch.manual_seed(0)
    model = MLP([4, 3, 10])
    part = Part(torch.randint(0, 256, (50, 4), dtype=torch.uint8), torch.randint(0, 10, (50,)))
    before = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        model[0].weight *= 1.5
    measured = measures.of_epoch(model, part, "mean", before)
    found = {tag: value.item() for tag, value in measured.items()}
    outputs = model(part.images / 255)
    y = torch.eye(10)[part.labels]
    assert found["cost/validation"] == pytest.approx((outputs - y).square().mean().item(), rel=1e-5)
    assert found["accuracy/validation"] == (outputs.argmax(1) == part.labels).double().mean().item()
    assert found["update_ratio/layer01.weight"] == pytest.approx(0.5)
    assert found["update_ratio/layer02.weight"] == 0


@pytest.mark.parametrize(
    ("reduction", "divisor"),
    [("half_per_example", 2), ("half_per_element", 20), ("mean", 10), ("sum", 1)],
)
def test_the_cost_of_a_part_is_the_mean_of_its_examples_costs(reduction: str, divisor: int) -> None:
    assert measures.cost_per_example(reduction, 6.0, 3, 10) == pytest.approx(2 / divisor, rel=1e-15)
    y, a = torch.eye(10)[:1], torch.rand(1, 10)
    squared_error = (a - y).square().sum().item()
    expected = MSELoss(reduction)(a, y).item()
    assert measures.cost_per_example(reduction, squared_error, 1, 10) == pytest.approx(expected)


@pytest.mark.parametrize("bias", [True, False])
def test_distributions_satisfy_the_formulas_of_backpropagation(bias: bool) -> None:
    torch.manual_seed(0)
    model = MLP([5, 4, 3], bias=bias, dtype=torch.float64)
    x, y = torch.rand(6, 5, dtype=torch.float64), torch.rand(6, 3, dtype=torch.float64)
    found = measures.distributions(backprop.read(model), x, y, "half_per_example")
    assert all(p.grad is None for p in model.parameters())
    a1, a2 = found["activations/layer01"], found["activations/layer02"]
    torch.testing.assert_close(a2, model(x).detach())
    delta2 = (a2 - y) / 6 * a2 * (1 - a2)
    torch.testing.assert_close(found["delta/layer02"], delta2)
    delta1 = delta2 @ found["weights/layer02.weight"] * a1 * (1 - a1)
    torch.testing.assert_close(found["delta/layer01"], delta1)
    torch.testing.assert_close(found["gradients/layer01.weight"], delta1.T @ x)
    assert ("gradients/layer02.bias" in found) == bias
    if bias:
        torch.testing.assert_close(found["gradients/layer02.bias"], delta2.sum(0))
