"""Every worked example equals the numbers in its docstring, autograd and backprop.

The literals below are copied from the docstrings; L is λ = ln 3.
"""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from manual_bp import Linear, Sigmoid, backprop, functional
from manual_bp.worked_examples import (
    EXAMPLES,
    NAMES,
    NETWORKS,
    Network,
    Worked,
    descent,
    one_neuron_per_layer,
    symmetry,
    two_two_two,
)
from manual_bp.worked_examples.__main__ import main, report
from manual_bp.worked_examples.document1 import backpropagate, updates
from manual_bp.worked_examples.networks import tensor
from manual_bp.worked_examples.worked import gradients, partials_by_paths

L = 1.0986122886681098
ROUNDING = 1e-13  # a few dozen float64 roundings; the sums are short


def close(expected: Any) -> Any:
    """Relative only: pytest's default adds an absolute tolerance."""
    return pytest.approx(expected, rel=ROUNDING, abs=0)


BY_HAND = {
    "one-neuron": {
        "a⁽²⁾": 3 / 4,
        "a⁽³⁾": 9 / 10,
        "J": 1 / 200,
        "∂J/∂θ₂": -27 / 4000,
        "∂J/∂θ₁": -9 * L / 1000,
    },
    "two-two-two": {
        "a₁⁽²⁾": 3 / 4,
        "a₂⁽²⁾": 1 / 4,
        "a₁⁽³⁾": 3 / 4,
        "a₂⁽³⁾": 9 / 10,
        "J": 349 / 800,
        "δ₁⁽³⁾": -3 / 64,
        "δ₂⁽³⁾": 81 / 1000,
        "δ₁⁽²⁾": 819 * L / 64000,
        "δ₂⁽²⁾": 3069 * L / 64000,
        "∂J/∂θ₁₁⁽²⁾": -9 / 256,
        "∂J/∂θ₁₂⁽²⁾": -3 / 256,
        "∂J/∂θ₂₁⁽²⁾": 243 / 4000,
        "∂J/∂θ₂₂⁽²⁾": 81 / 4000,
        "∂J/∂θ₁₁⁽¹⁾": 819 * L / 64000,
        "∂J/∂θ₁₂⁽¹⁾": 1638 * L / 64000,
        "∂J/∂θ₂₁⁽¹⁾": 3069 * L / 64000,
        "∂J/∂θ₂₂⁽¹⁾": 6138 * L / 64000,
    },
    "symmetry": {
        "a₁⁽²⁾": 3 / 4,
        "a₂⁽²⁾": 3 / 4,
        "a₁⁽³⁾": 3 / 4,
        "a₂⁽³⁾": 3 / 4,
        "δ₁⁽³⁾": -3 / 64,
        "δ₂⁽³⁾": 9 / 64,
        "δ₁⁽²⁾": 3 * L / 256,
        "δ₂⁽²⁾": 3 * L / 256,
        "∂J/∂θ₁₁⁽²⁾": -9 / 256,
        "∂J/∂θ₁₂⁽²⁾": -9 / 256,
        "∂J/∂θ₂₁⁽²⁾": 27 / 256,
        "∂J/∂θ₂₂⁽²⁾": 27 / 256,
        "∂J/∂θ₁₁⁽¹⁾": 3 * L / 256,
        "∂J/∂θ₁₂⁽¹⁾": 6 * L / 256,
        "∂J/∂θ₂₁⁽¹⁾": 3 * L / 256,
        "∂J/∂θ₂₂⁽¹⁾": 6 * L / 256,
    },
    "one-path": {
        "s_j": L,
        "z_j": 3 / 4,
        "s_k": 2 * L,
        "z_k": 9 / 10,
        "ŷ": 9 / 5,
        "E": 8 / 25,
        "δ_o": 4 / 5,
        "δ_k": 18 / 125,
        "δ_j": 9 * L / 125,
        "∂E/∂w_{k→o}": 18 / 25,
        "∂E/∂w_{j→k}": 27 / 250,
        "∂E/∂w_{i→j}": 18 * L / 125,
        "Δw_{k→o}": -9 / 25,
        "Δw_{j→k}": -27 / 500,
        "Δw_{i→j}": -9 * L / 125,
    },
    "several-inputs": {
        "s_k": L,
        "z_k": 3 / 4,
        "ŷ": 9 / 4,
        "E": 25 / 32,
        "δ_o": 5 / 4,
        "δ_k": 45 / 64,
        "∂E/∂w_{k→o}": 15 / 16,
        "∂E/∂w_{i→k}": 45 / 32,
        "∂E/∂w_{j→k}": 135 / 64,
        "Δw_{k→o}": -15 / 32,
        "Δw_{i→k}": -45 / 64,
        "Δw_{j→k}": -135 / 128,
    },
    "branching": {
        "s_i": L,
        "z_i": 3 / 4,
        "s_j": L,
        "z_j": 3 / 4,
        "s_k": 2 * L,
        "z_k": 9 / 10,
        "ŷ": 3 / 5,
        "E": 2 / 25,
        "δ_o": -2 / 5,
        "δ_j": -3 / 20,
        "δ_k": 9 / 250,
        "δ_i": -39 * L / 2000,
        "∂E/∂w_{k→o}": -9 / 25,
        "∂E/∂w_{j→o}": -3 / 10,
        "∂E/∂w_{i→k}": 27 / 1000,
        "∂E/∂w_{i→j}": -9 / 80,
        "∂E/∂w_{in→i}": -39 * L / 1000,
        "Δw_{k→o}": 9 / 50,
        "Δw_{j→o}": 3 / 20,
        "Δw_{i→k}": -27 / 2000,
        "Δw_{i→j}": 9 / 160,
        "Δw_{in→i}": 39 * L / 2000,
    },
    "minibatch": {"Δw_{k→o}": -7 / 32, "Δw_{i→k}": -81 / 256, "Δw_{j→k}": -27 / 64},
    "single-layer": {
        "z_1": L,
        "z_2": 2 * L,
        "a_1": 3 / 4,
        "a_2": 9 / 10,
        "∂a_1/∂z_1": 3 / 16,
        "∂a_2/∂z_2": 9 / 100,
        "∂C/∂a_1": -1 / 8,
        "∂C/∂a_2": 9 / 20,
        "C": 349 / 1600,
        "∂C/∂w_11": -3 / 128,
        "∂C/∂w_12": -3 / 256,
        "∂C/∂b_1": -3 / 128,
        "∂C/∂w_21": 81 / 2000,
        "∂C/∂w_22": 81 / 4000,
        "∂C/∂b_2": 81 / 2000,
    },
    "vector-form": {
        "a¹_1": 3 / 4,
        "a¹_2": 1 / 4,
        "a²_1": 9 / 10,
        "a²_2": 3 / 4,
        "δ²_1": -9 / 2000,
        "δ²_2": 9 / 128,
        "δ¹_1": 3159 * L / 128000,
        "δ¹_2": 3591 * L / 128000,
        "∇W²_11": -27 / 8000,
        "∇W²_12": -9 / 8000,
        "∇W²_21": 27 / 512,
        "∇W²_22": 9 / 512,
        "∇b²_1": -9 / 2000,
        "∇b²_2": 9 / 128,
        "∇W¹_11": 3159 * L / 128000,
        "∇W¹_12": 6318 * L / 128000,
        "∇W¹_21": 3591 * L / 128000,
        "∇W¹_22": 7182 * L / 128000,
        "∇b¹_1": 3159 * L / 128000,
        "∇b¹_2": 3591 * L / 128000,
    },
    "three-descents": {
        "w − λ, stochastic": 3 / 64,
        "b, stochastic": -3 / 64,
        "w − λ, mini-batch": 3 / 128,
        "b, mini-batch": 5 / 128,
        "w − λ, batch": -273 / 16000,
        "b, batch": 11 / 1000,
    },
}


def test_every_example_has_numbers_worked_by_hand() -> None:
    assert set(BY_HAND) == set(EXAMPLES)
    assert tuple(EXAMPLES) == NAMES


@pytest.mark.parametrize("name", EXAMPLES)
def test_equals_the_numbers_worked_by_hand(name: str) -> None:
    values = EXAMPLES[name]().values
    for symbol, expected in BY_HAND[name].items():
        assert values[symbol] == close(expected), symbol


@pytest.mark.parametrize("name", EXAMPLES)
def test_equals_autograd_through_our_layers(name: str) -> None:
    work = EXAMPLES[name]()
    gradients = [
        symbol
        for symbol in work.values
        if symbol.startswith(("∂J/∂θ", "∂E/∂w", "∂C/∂w", "∂C/∂b", "∇"))
    ]
    assert len(work.autograd) > 1
    assert set(gradients) <= set(work.autograd)
    assert work.max_relative_error <= ROUNDING


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_backprop_gives_what_autograd_through_our_layers_gives(network: Network) -> None:
    """`gradients` is autograd's answer, which the numbers worked by hand are compared with."""
    x, y = tensor([network.x]), tensor([network.y])
    passes = backprop.backpropagate(backprop.read(network.model()), x, y, network.cost)
    ours = [g for p in passes for g in (p.dW, p.db) if g is not None]
    for found, exact in zip(ours, gradients(network), strict=True):
        torch.testing.assert_close(found, exact, rtol=ROUNDING, atol=0)


def test_networks_run_on_our_layers() -> None:
    for network in NETWORKS.values():
        assert {type(layer) for layer in network.model()} <= {Linear, Sigmoid}


def test_one_neuron_per_layer_writes_8_terms() -> None:
    assert [partial.terms for partial in one_neuron_per_layer().partials] == [3, 5]


def test_two_two_two_writes_52_terms_along_12_paths() -> None:
    partials = two_two_two().partials
    assert len(partials) == 8
    assert sum(len(partial.paths) for partial in partials) == 12
    assert sum(partial.terms for partial in partials) == 52


def test_the_two_paths_of_theta_11_are_the_documents_chains() -> None:
    blue, orange = next(p for p in two_two_two().partials if p.symbol == "∂J/∂θ₁₁⁽¹⁾").paths
    assert [f.symbol for f in blue] == [
        "∂J/∂a₁⁽³⁾",
        "∂a₁⁽³⁾/∂z₁⁽³⁾",
        "∂z₁⁽³⁾/∂a₁⁽²⁾",
        "∂a₁⁽²⁾/∂z₁⁽²⁾",
        "∂z₁⁽²⁾/∂θ₁₁⁽¹⁾",
    ]
    assert [f.symbol for f in orange] == [
        "∂J/∂a₂⁽³⁾",
        "∂a₂⁽³⁾/∂z₂⁽³⁾",
        "∂z₂⁽³⁾/∂a₁⁽²⁾",
        "∂a₁⁽²⁾/∂z₁⁽²⁾",
        "∂z₁⁽²⁾/∂θ₁₁⁽¹⁾",
    ]
    assert [f.value for f in blue] == close([-1 / 4, 3 / 16, 2 * L, 3 / 16, 1])
    assert [f.value for f in orange] == close([9 / 10, 9 / 100, 2 * L, 3 / 16, 1])


@pytest.mark.parametrize("example", [one_neuron_per_layer, two_two_two])
def test_paths_recursion_and_autograd_agree(example: Callable[[], Worked]) -> None:
    work = example()
    for partial in work.partials:
        assert partial.value == close(work.values[partial.symbol])
        assert partial.value == close(work.autograd[partial.symbol])


def test_sum_over_paths_of_a_deeper_network() -> None:
    """2-3-2-2: a weight of the first layer has 2 · 2 paths of 7 factors."""
    generator = torch.Generator().manual_seed(0)
    sizes = (2, 3, 2, 2)
    weights = tuple(
        tuple(
            map(tuple, torch.rand(n_out, n_in, generator=generator, dtype=torch.float64).tolist())
        )
        for n_in, n_out in pairwise(sizes)
    )
    network = replace(NETWORKS["two-two-two"], weights=weights)
    partials = partials_by_paths(network)
    assert [(len(p.paths), p.terms) for p in partials[-6:]] == [(4, 28)] * 6
    passes = backpropagate([tensor(w) for w in weights], tensor([network.x]), tensor([network.y]))
    recursion = [
        entry for gradient in reversed(passes.gradients) for entry in gradient.flatten().tolist()
    ]
    assert [p.value for p in partials] == close(recursion)


def test_paths_refuse_a_network_they_are_not_written_for() -> None:
    with pytest.raises(ValueError, match="branching: a network of document 1 is needed"):
        partials_by_paths(NETWORKS["branching"])


def test_equal_weights_stay_equal_for_ever() -> None:
    """Rows of Θ⁽¹⁾ and columns of Θ⁽²⁾, to the last bit."""
    network = NETWORKS["symmetry"]
    start = [tensor(matrix) for matrix in network.weights]
    seen = list(updates(start, tensor([network.x]), tensor([network.y]), lr=network.lr, steps=500))
    assert all(torch.equal(theta1[0], theta1[1]) for theta1, _ in seen)
    assert all(torch.equal(theta2[:, 0], theta2[:, 1]) for _, theta2 in seen)
    assert (seen[0][0] - seen[-1][0]).abs().max() > 0.1  # the units do move, together


def test_one_weight_that_differs_breaks_the_symmetry() -> None:
    network = NETWORKS["symmetry"]
    start = [tensor(matrix) for matrix in network.weights]
    start[0][0, 0] += 1e-3
    seen = updates(start, tensor([network.x]), tensor([network.y]), lr=network.lr, steps=500)
    assert all(not torch.equal(theta1[0], theta1[1]) for theta1, _ in seen)


@pytest.mark.parametrize("seed", range(5))
def test_random_weights_break_the_symmetry(seed: int) -> None:
    values = symmetry(seed=seed).values
    spread, cost = "|Θ⁽¹⁾ row 1 − row 2|", "J of both examples"
    assert values[f"{spread}, equal weights, after 500 updates"] == 0
    assert values[f"{cost}, equal weights, after 500 updates"] == pytest.approx(1 / 4, abs=1e-6)
    assert values[f"{spread}, random weights, at the start"] < 0.2
    assert values[f"{spread}, random weights, after 500 updates"] > 1
    assert values[f"{cost}, random weights, after 500 updates"] < 0.2


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8, 9])
def test_descent_is_torch_sgd_with_our_layers(batch_size: int) -> None:
    """One epoch with batches of 1 (stochastic), some, or all examples (batch)."""
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.rand(8, 3, generator=generator).double(),
        torch.rand(8, 2, generator=generator).double(),
    )
    weight, bias = (
        torch.rand(2, 3, generator=generator).double(),
        torch.rand(2, generator=generator).double(),
    )
    ours = list(descent(weight, bias, x, y, lr=2.0, batch_size=batch_size))

    W, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.SGD([W, b], lr=2.0)
    assert len(ours) == math.ceil(8 / batch_size)
    for (our_W, our_b), x_batch, y_batch in zip(
        ours, x.split(batch_size), y.split(batch_size), strict=True
    ):
        optimizer.zero_grad()
        functional.mse_loss(
            functional.sigmoid(functional.linear(x_batch, W, b)), y_batch, "half_per_element"
        ).backward()
        optimizer.step()
        torch.testing.assert_close(our_W, W.detach(), rtol=ROUNDING, atol=0)
        torch.testing.assert_close(our_b, b.detach(), rtol=ROUNDING, atol=0)
    assert (ours[-1][0] - weight).abs().max() > 1e-3  # the pass did move the weights


def test_descent_refuses_an_empty_batch() -> None:
    b = tensor([0.0])
    with pytest.raises(ValueError, match="batch_size 0"):
        next(descent(tensor([[1.0]]), b, tensor([[1.0]]), tensor([[1.0]]), lr=1.0, batch_size=0))


def test_building_a_network_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    NETWORKS["two-two-two"].drawn(3).model()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_report_shows_hand_computation_paths_and_autograd() -> None:
    text = report("two-two-two")
    assert "3069λ/64000" in text
    assert "partial-derivative terms: 3 + 3 + 3 + 3 + 10 + 10 + 10 + 10 = 52" in text
    assert "largest relative error against autograd:" in text


@pytest.mark.parametrize("name", EXAMPLES)
def test_report_speaks_to_a_reader_of_the_documents(name: str) -> None:
    """λ is defined wherever it stands, a minus is one sign, and no name is Python's alone."""
    text = report(name)
    assert ("λ = ln 3 ≈ 1.0986" in text) == ("λ" in text)
    assert re.findall(r"-\d", text) == []
    assert "Args:" not in text
    assert set(re.findall(r"`(.*?)`", text)) <= {"half_per_example"}


def test_command_prints_every_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"=== {name} ===" in printed for name in EXAMPLES)


def test_command_refuses_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["nonsense"])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert "invalid choice: 'nonsense'" in printed
    assert "branching" in printed
