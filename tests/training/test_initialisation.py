"""Initial weights, and document 1's reason why they must be random."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import manual_bp as mbp
from manual_bp.training.network import EQUAL_WARNING, INITIALISATIONS, initialise

SIZES = [64, 200, 100, 10]


def network(*, builtin: bool = False, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    if not builtin:
        return mbp.MLP(SIZES, bias=bias, dtype=torch.float64)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(SIZES):
        layers += [nn.Linear(n_in, n_out, bias=bias, dtype=torch.float64), nn.Sigmoid()]
    return nn.Sequential(*layers)


def started(name: str, epsilon: float = 0.3, seed: int = 0, **options: bool) -> nn.Sequential:
    model = network(**options)
    initialise(model, name, epsilon, torch.Generator().manual_seed(seed))
    return model


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_pytorch_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    model = network()
    initialise(model, "pytorch", 0.3, generator)
    assert torch.equal(flat(model), flat(network()))
    assert torch.equal(generator.get_state(), state)


def test_uniform_fills_plus_minus_epsilon_with_weights_and_biases() -> None:
    for parameter in started("uniform", 0.3).parameters():
        assert parameter.abs().max() <= 0.3
        if parameter.numel() >= 100:
            assert parameter.abs().max() > 0.28
            assert parameter.std().item() == pytest.approx(0.3 / math.sqrt(3), rel=0.15)
            assert parameter.min() < 0 < parameter.max()
        else:
            assert len(parameter.unique()) == parameter.numel()


def test_xavier_bounds_each_layer_by_its_widths() -> None:
    model = started("xavier")
    for layer in (model[0], model[2], model[4]):
        n_out, n_in = layer.weight.shape
        bound = math.sqrt(6 / (n_in + n_out))
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()


def test_equal_sets_every_weight_to_epsilon() -> None:
    model = started("equal", 0.3)
    for layer in (model[0], model[2], model[4]):
        assert (layer.weight == 0.3).all()
        assert not layer.bias.any()


@pytest.mark.parametrize("name", ["uniform", "xavier"])
def test_the_seed_decides(name: str) -> None:
    assert torch.equal(flat(started(name, seed=3)), flat(started(name, seed=3)))
    assert not torch.equal(flat(started(name, seed=3)), flat(started(name, seed=4)))


@pytest.mark.parametrize("name", INITIALISATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_our_layers_and_torchs_start_alike(name: str, bias: bool) -> None:
    ours, torchs = started(name, bias=bias), started(name, bias=bias, builtin=True)
    assert torch.equal(flat(ours), flat(torchs))
    assert all(p.requires_grad and p.grad_fn is None for p in ours.parameters())


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'zero' is not one of pytorch, uniform, xavier, equal"):
        initialise(network(), "zero", 0.1, torch.Generator())


def train(model: nn.Sequential, steps: int = 300) -> None:
    """Batch gradient descent on ten random patterns, one a class, each brighter than the last."""
    x = torch.rand(10, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = x * torch.linspace(0.1, 1, 10, dtype=torch.float64)[:, None]
    y = torch.eye(10, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(steps):
        optimizer.zero_grad()
        mbp.functional.mse_loss(model(x), y, "half_per_example").backward()
        optimizer.step()


def spread(weight: Tensor) -> float:
    """The largest difference between two units' weights for one input, over the weights' size."""
    return ((weight.amax(0) - weight.amin(0)).max() / weight.abs().max()).item()


def test_equal_units_stay_equal_for_ever_and_random_ones_part() -> None:
    """Document 1: equal weights give equal δ in a layer, equal updates, and equal weights again."""
    equal = started("equal", 0.01)
    before = flat(equal)
    train(equal)
    assert (flat(equal) - before).abs().max() > 0.01  # it does learn something
    assert spread(equal[4].weight) > 0.01  # the output units have different targets
    for hidden in (equal[0], equal[2]):
        assert spread(hidden.weight) < 1e-12
        assert spread(hidden.bias[:, None]) < 1e-12

    random = started("uniform", 0.01)
    at_start = [p.detach().clone() for p in (random[0].weight, random[2].weight)]
    train(random)
    for hidden, start in zip((random[0], random[2]), at_start, strict=True):
        moved = hidden.weight.detach() - start
        assert spread(moved) > 0.05  # units of a layer move apart, not all by the same step


def test_the_warning_is_one_line_that_names_the_flag_and_the_remedy() -> None:
    assert "\n" not in EQUAL_WARNING
    assert "--init equal" in EQUAL_WARNING
    assert "random" in EQUAL_WARNING
