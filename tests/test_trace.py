"""`manual_bp.trace`: its numbers against the worked examples and torch.optim.SGD, and its words."""

import re
from collections import OrderedDict
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manual_bp as mbp
from manual_bp import pencil, trace
from manual_bp.normalisation import COSTS
from manual_bp.trace import numbers, passes, render
from manual_bp.worked_examples import EXAMPLES, NETWORKS
from manual_bp.worked_examples.networks import tensor

ROUNDING = 1e-12


def example(*sizes: int, seed: int = 0, **options: Any) -> tuple[mbp.MLP, Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = mbp.MLP(list(sizes), dtype=torch.float64, **options)
        return (
            model,
            torch.rand(sizes[0], dtype=torch.float64),
            torch.rand(sizes[-1], dtype=torch.float64),
        )


def traced(name: str) -> passes.Trace:
    network = NETWORKS[name]
    return trace.compute(
        network.model(), tensor(network.x), tensor(network.y), cost=network.cost, lr=network.lr
    )


# The numbers.


def test_two_two_two_equals_the_hand_computation() -> None:
    """The deltas are 819λ/64000, 3069λ/64000 and −3/64, 81/1000: see `two_two_two`'s docstring."""
    hidden, output = traced("two-two-two").layers
    L = 1.0986122886681098
    assert output.delta.tolist() == pytest.approx([-3 / 64, 81 / 1000], rel=ROUNDING, abs=0)
    assert hidden.delta.tolist() == pytest.approx(
        [819 * L / 64000, 3069 * L / 64000], rel=ROUNDING, abs=0
    )
    assert hidden.dW[1].tolist() == pytest.approx(
        [3069 * L / 64000, 6138 * L / 64000], rel=ROUNDING, abs=0
    )
    assert hidden.slope.tolist() == pytest.approx([3 / 16, 3 / 16], rel=ROUNDING, abs=0)


def test_branching_equals_the_documents_five_updates() -> None:
    """Document 2's Δw from the scalar formulas of `branching`."""
    values = EXAMPLES["branching"]().values
    told = traced("branching")
    first, second, third = (
        updated.weight - p.layer.weight
        for p, updated in zip(told.layers, told.updated, strict=True)
    )
    steps = {"in→i": first, "i→j": second[0], "i→k": second[1], "j→o": third[0, 0]}
    for name, step in (steps | {"k→o": third[0, 1]}).items():
        assert float(step) == pytest.approx(values[f"Δw_{{{name}}}"], rel=ROUNDING, abs=0), name


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("options", [{}, {"output": "linear"}, {"bias": False}])
def test_gradients_and_update_are_those_of_our_layers_and_sgd(
    cost: str, options: dict[str, Any]
) -> None:
    model, x, y = example(5, 4, 3, 2, **options)
    told = trace.compute(model, x, y, cost=cost, lr=0.7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.7)
    loss = mbp.functional.mse_loss(model(x), y, cost)
    loss.backward()
    layers = [module for module in model if isinstance(module, nn.Linear)]
    assert told.value == pytest.approx(loss.item(), rel=ROUNDING, abs=0)
    for layer, ours in zip(layers, told.layers, strict=True):
        torch.testing.assert_close(ours.dW, layer.weight.grad, rtol=ROUNDING, atol=0)
        if layer.bias is not None:
            torch.testing.assert_close(ours.delta, layer.bias.grad, rtol=ROUNDING, atol=0)
            assert torch.equal(ours.db, ours.delta)
    optimizer.step()
    for layer, ours in zip(layers, told.updated, strict=True):
        torch.testing.assert_close(ours.weight, layer.weight.detach(), rtol=ROUNDING, atol=0)
        if layer.bias is not None:
            torch.testing.assert_close(ours.bias, layer.bias.detach(), rtol=ROUNDING, atol=0)
    assert told.value_after == pytest.approx(
        mbp.functional.mse_loss(model(x), y, cost).item(), rel=ROUNDING, abs=0
    )


def test_a_small_step_lowers_the_cost() -> None:
    model, x, y = example(5, 4, 3, 2)
    told = trace.compute(model, x, y, cost="half_per_example", lr=0.01)
    assert told.value_after < told.value


def test_delta_is_error_times_slope_and_vanishes_layer_by_layer() -> None:
    model, x, y = example(8, 8, 8, 8, 8, 8, 8, seed=1)
    layers = trace.compute(model, x, y, cost="half_per_example", lr=1.0).layers
    for layer in layers:
        torch.testing.assert_close(layer.delta, layer.error * layer.slope, rtol=0, atol=0)
        assert layer.slope.max() <= 0.25
    for before, after in pairwise(layers):
        assert before.delta.norm() < 0.25 * after.delta.norm()


def test_the_check_is_by_autograd_and_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle sees a gradient that is one per cent off, in one parameter."""
    model, x, y = example(3, 4, 2)
    assert trace.compute(model, x, y, cost="mean", lr=1.0).max_relative_error < ROUNDING
    oracle = passes._autograd

    def off(*args: Any) -> Any:
        exact = oracle(*args)
        return exact | {"layer01.bias": exact["layer01.bias"] * 1.01}

    monkeypatch.setattr(passes, "_autograd", off)
    wrong = trace.compute(model, x, y, cost="mean", lr=1.0)
    assert wrong.max_relative_error == pytest.approx(0.01 / 1.01, rel=1e-6)
    printed = render.text(trace.story(wrong))
    assert "max relative error 9.9e−03" in printed
    assert "∂J/∂b⁽¹⁾  layer 1 (3→4) bias    9.9e−03" in printed


def test_a_gradient_that_is_zero_has_no_relative_error() -> None:
    model, x, _ = example(3, 2)
    told = trace.compute(model, x, model(x).detach(), cost="sum", lr=1.0)
    assert told.max_relative_error == 0
    assert told.layers[0].dW.count_nonzero() == 0


def test_nan_is_told_and_does_not_stop_the_trace() -> None:
    model, x, y = example(20, 3)
    with torch.no_grad():
        model[0].weight.fill_(torch.nan)
    assert "nan" in trace.text(model, x, y)


# What it accepts, and what it leaves alone.


def test_model_gradients_and_random_state_stay_as_they_are() -> None:
    model, x, y = example(3, 4, 2)
    before = OrderedDict((name, value.clone()) for name, value in model.state_dict().items())
    state = torch.random.get_rng_state()
    trace.markdown(model, x, y, lr=100.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_equal_for_torch_layers_lists_nests_batches_of_one_and_without_grad() -> None:
    model, x, y = example(3, 4, 2)
    expected = trace.text(model, x, y)
    twin = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2), nn.Sigmoid()).double()
    twin.load_state_dict(model.state_dict())
    assert trace.text(twin, x, y) == expected
    first, second, *rest = model
    for same in (list(model), nn.ModuleList(model), [nn.Sequential(first, second), *rest]):
        assert trace.text(same, x, y) == expected
    assert trace.text(model, x.unsqueeze(0), y.unsqueeze(0)) == expected
    with torch.no_grad():
        assert trace.text(model, x, y) == expected
    with torch.inference_mode():
        assert trace.text(model, x.clone(), y.clone()) == expected


def test_float32_model_is_checked_in_float64() -> None:
    model, x, y = example(3, 4, 2)
    assert (
        trace.compute(model.float(), x.float(), y.float(), cost="mean", lr=1.0).max_relative_error
        < ROUNDING
    )


class Doubled(nn.Linear):
    """A Linear in type, that computes something else."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([nn.Linear(2, 2), nn.ReLU()], TypeError, "module '1' is a ReLU: only Linear and Sigmoid"),
        ([nn.Sigmoid(), nn.Linear(2, 2)], TypeError, "module '0': a Sigmoid must follow a Linear"),
        ([Doubled(2, 2)], TypeError, "module '0' is a Doubled: only Linear and Sigmoid"),
        ([nn.Linear(2, 2), nn.Sigmoid(), nn.Sigmoid()], TypeError, "module '2': a Sigmoid must"),
        ([], TypeError, "the model has no Linear layer"),
        (
            [nn.Linear(2, 2), nn.Linear(3, 2)],
            RuntimeError,
            r"weight \(2, 3\): \(2, 2\) is expected",
        ),
    ],
)
def test_refuses_what_it_cannot_trace(
    layers: list[nn.Module], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        trace.text(layers, torch.zeros(2), torch.zeros(2))


def test_refuses_a_model_that_a_hook_changes() -> None:
    model, x, y = example(3, 2)
    model[0].register_forward_hook(lambda module, args, output: 2 * output)
    with pytest.raises(RuntimeError, match="module '0' has hooks, which would not run"):
        trace.text(model, x, y)


@pytest.mark.parametrize(("n", "seen"), [((3,), r"\(3,\)"), ((5, 2), r"\(5, 2\)")])
def test_refuses_more_than_one_example_and_other_sizes(n: tuple[int, ...], seen: str) -> None:
    model, x, y = example(2, 2)
    expected = r"one example is traced, of shape \(2,\) or \(1, 2\); pick one row"
    with pytest.raises(ValueError, match=f"trace: x {seen}: {expected}"):
        trace.text(model, torch.zeros(n), y)
    with pytest.raises(ValueError, match=f"trace: y {seen}: {expected}"):
        trace.text(model, x, torch.zeros(n))


def test_refuses_other_costs_and_notations() -> None:
    model, x, y = example(3, 2)
    with pytest.raises(ValueError, match="trace: cost 'none' is not one of half_per_example"):
        trace.text(model, x, y, cost="none")
    with pytest.raises(ValueError, match="trace: notation 4 is not one of 1, 2, 3"):
        trace.text(model, x, y, notation=4)


# The words.

FORMULAS = {
    1: [
        "z⁽³⁾ = a⁽²⁾ (Θ⁽²⁾)ᵀ + b⁽²⁾",
        "a⁽³⁾ = f(z⁽³⁾) = 1/(1 + e^(−z⁽³⁾))",
        "J = ½ Σ (a⁽³⁾ − y)²",
        "∂J/∂a⁽³⁾ = (a⁽³⁾ − y)",
        "f′(z⁽³⁾) = a⁽³⁾ ⊙ (1 − a⁽³⁾)",
        "δ⁽³⁾ = ∂J/∂a⁽³⁾ ⊙ f′(z⁽³⁾)",
        "∂J/∂a⁽²⁾ = δ⁽³⁾ Θ⁽²⁾",
        "∂J/∂Θ⁽¹⁾ = (δ⁽²⁾)ᵀ a⁽¹⁾",
        "∂J/∂b⁽¹⁾ = δ⁽²⁾",
        "Θ⁽¹⁾ := Θ⁽¹⁾ − η ∂J/∂Θ⁽¹⁾",
    ],
    2: [
        "s_j = Σ_{i ∈ ins(j)} w_{i→j} x_i + b_j",
        "z_j = σ(s_j) = 1/(1 + e^(−s_j))",
        "E = ½ Σ (ŷ − y)²",
        "∂E/∂ŷ = (ŷ − y)",
        "f_j′(s_j) = σ(s_j) (1 − σ(s_j))",
        "∂E/∂z_j = Σ_{k ∈ outs(j)} δ_k w_{j→k}",
        "δ_j = f_j′(s_j) · ∂E/∂z_j",
        "∂E/∂w_{i→j} = δ_j x_i",
        "Δw_{i→j} = −η δ_j z_i",
    ],
    3: [
        "z¹ = W¹ a⁰ + b¹",
        "a² = σ(z²) = 1/(1 + e^(−z²))",
        "C = ½ Σ (a² − y)²",
        "∂C/∂a² = (a² − y)",
        "δ² = ∂C/∂a² ⊙ σ′(z²)",
        "∂C/∂a¹ = (W²)ᵀ δ²",
        "∇W¹ = δ¹ (a⁰)ᵀ",
        "∇b¹ = δ¹",
        "W¹ := W¹ − η ∇W¹",
    ],
}


@pytest.mark.parametrize("notation", FORMULAS)
def test_formulas_are_the_documents(notation: int) -> None:
    model, x, y = example(2, 2, 2)
    printed = trace.text(model, x, y, notation=notation)
    for formula in FORMULAS[notation]:
        assert formula in printed


@pytest.mark.parametrize(
    ("cost", "formula", "derivative"),
    [
        ("half_per_example", "C = ½ Σ (a¹ − y)²", "∂C/∂a¹ = (a¹ − y)"),
        ("half_per_element", "C = 1/3 · ½ Σ (a¹ − y)²", "∂C/∂a¹ = 1/3 (a¹ − y)"),
        ("mean", "C = 1/3 Σ (a¹ − y)²", "∂C/∂a¹ = 2/3 (a¹ − y)"),
        ("sum", "C = Σ (a¹ − y)²", "∂C/∂a¹ = 2 (a¹ − y)"),
    ],
)
def test_each_cost_is_written_with_its_factor(cost: str, formula: str, derivative: str) -> None:
    printed = trace.text(*example(2, 3), cost=cost, notation=3)
    assert formula in printed
    assert derivative in printed


def test_every_number_of_two_two_two_is_filled_in() -> None:
    network = NETWORKS["two-two-two"]
    printed = trace.text(network.model(), tensor(network.x), tensor(network.y), lr=0.5)
    for line in (
        "θ₁₁⁽¹⁾ = 3λ, θ₁₂⁽¹⁾ = −λ",
        "z₁⁽²⁾ = 3λ · 1 + (−λ) · 2 = λ",
        "a₁⁽²⁾ = σ(λ) = 3/4",
        "J = 1/2 · [(3/4 − 1)² + (9/10 − 0)²] = 349/800 ≈ 0.4363",
        "∂J/∂a₁⁽³⁾ = (3/4 − 1) = −1/4",
        "f′(z₁⁽³⁾) = 3/4 · (1 − 3/4) = 3/16",
        "δ₁⁽³⁾ = (−1/4) · 3/16 = −3/64",
        "∂J/∂a₁⁽²⁾ = (−3/64) · 2λ + 81/1000 · 2λ = 273λ/4000 ≈ 0.07498",
        "∂J/∂θ₂₂⁽¹⁾ = 3069λ/64000 · 2 = 3069λ/32000 ≈ 0.1054",
        "θ₂₂⁽¹⁾ := −λ − 1/2 · 3069λ/32000 = −67069λ/64000 ≈ −1.151",
        "J = 0.4363 before the update and is 0.4262 after it",
        "layer 1 (2→2)  0.2908   0.1875      0.05453  0.5826",
    ):
        assert line in printed


def test_branching_units_have_the_documents_names() -> None:
    network = NETWORKS["branching"]
    printed = trace.text(
        network.model(), tensor(network.x), tensor(network.y), notation=2, units=network.units
    )
    assert "s_o = 2 · 3/4 + (−1) · 9/10 = 3/5" in printed
    assert "∂E/∂z_i = (−3/20) · 4λ/3 + 9/250 · 8λ/3 = −13λ/125 ≈ −0.1143" in printed
    assert "∂E/∂w_{in→i} = (−39λ/2000) · 2 = −39λ/1000 ≈ −0.04285" in printed
    assert "layer 2 (1→2), units j, k:" in printed


def test_a_layer_has_one_name_and_document_1_says_how_it_counts() -> None:
    """Layer 1 is the first with weights, in the words between the formulas and in the tables."""
    model, x, y = example(3, 4, 2)
    for notation in (1, 2, 3):
        printed = trace.text(model, x, y, notation=notation)
        told = printed.replace("its layer 2 is", "").replace("counts the input as layer 1:", "")
        assert set(re.findall(r"layer \d.*?\)", told)) == {"layer 1 (3→4)", "layer 2 (4→2)"}
        assert len(re.findall(r"layer \d", told)) == told.count("layer 1 (3→4)") + told.count(
            "layer 2 (4→2)"
        )
        assert re.findall(r"\d\.(?:weight|bias)", printed) == []
        counts = "Document 1 counts the input as layer 1: its layer 2 is layer 1 (3→4) here."
        assert (counts in printed) == (notation == 1)


def test_only_a_linear_output_is_said_to_pass_its_error_on() -> None:
    said = "A linear layer passes its error on unchanged: here layer 2 (4→2)."
    assert said in trace.text(*example(3, 4, 2, output="linear"))
    assert "linear layer" not in trace.text(*example(3, 4, 2))


def test_shapes_are_laid_out_as_in_each_document() -> None:
    model, x, y = example(3, 4, 2)
    assert "(1, 4)" in trace.text(model, x, y, notation=1)
    assert "(4 × 1)" in trace.text(model, x, y, notation=3)
    assert "4 units" in trace.text(model, x, y, notation=2)


def test_long_sums_are_shortened_and_still_add_up() -> None:
    left = [Decimal(i) for i in range(1, 101)]
    right = [pencil.rounded(i / 49.5 - 1) for i in range(100)]
    shown, total = numbers.products(left, right)
    assert shown == "98 · 0.9596 + 99 · 0.9798 + 100 · 1 + [97 smaller terms: 1392]"
    assert total == 98 * Decimal("0.9596") + 99 * Decimal("0.9798") + 100 + 1392


def test_a_bias_is_added_in_parentheses_if_it_is_negative() -> None:
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0], [3.0]]))
        layer.bias.copy_(torch.tensor([0.5, -0.5]))
    printed = trace.text([layer], torch.ones(1), torch.ones(2), notation=3)
    assert "z₁¹ = 2 · 1 + 1/2 = 5/2" in printed
    assert "z₂¹ = 3 · 1 + (−1/2) = 5/2" in printed


def test_numbers_vectors_and_matrices_are_shortened_by_size() -> None:
    values = (0.75, -0.046875, 1e-5, -1e-20, 0.0, -0.0, 123456.0, 1234567.0)
    assert [pencil.text(pencil.rounded(v)) for v in values] == [
        "0.75",
        "−0.04688",
        "1e−5",
        "−1e−20",
        "0",
        "0",
        "123500",
        "1.235e6",
    ]
    assert numbers.vector([Decimal(1), Decimal(-2)]) == "(1, −2)"
    assert numbers.vector([Decimal(1)] * 100) == "(1, 1, 1, … 97 more), norm 10"
    eye = {at: Decimal(at[0] == at[1]) for at in numbers.entries(torch.eye(2))}
    assert numbers.matrix(torch.eye(2), eye) == "[[1, 0], [0, 1]]"
    large = torch.zeros(30, 784)
    large[4, 406] = -3.0
    (at,) = numbers.entries(large)
    told = numbers.matrix(large, {at: Decimal(-3)})
    assert told == "30 × 784, norm 3, largest −3 at row 5, column 407"


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (2.1972245773362196, "2λ"),
        (-1.0986122886681098, "−λ"),
        (8 / 3 * 1.0986122886681098, "8λ/3"),
        (0.5493061443340549, "λ/2"),
        (0.5, "1/2"),
        (-3.0, "−3"),
        (0.0, "0"),
    ],
)
def test_a_number_is_written_as_it_is_meant(number: float, told: str) -> None:
    assert pencil.text(pencil.exact(number)) == told


@pytest.mark.parametrize("number", [0.123456, 1.09861, float("nan"), float("inf")])
def test_a_number_that_is_no_fraction_is_not_taken_for_one(number: float) -> None:
    with pytest.raises(ValueError, match="neither a fraction nor a fraction of λ"):
        pencil.exact(number)


def test_a_trace_of_mnist_size_stays_short() -> None:
    printed = trace.text(*example(784, 30, 10))
    assert printed.count("\n") < 165
    assert max(map(len, printed.splitlines())) <= 100


def test_markdown_renders_in_tensorboard() -> None:
    """TensorBoard's own converter takes no formula for markup and cuts nothing out as unsafe."""
    from tensorboard import plugin_util

    network = NETWORKS["branching"]
    source = trace.markdown(
        network.model(), tensor(network.x), tensor(network.y), notation=2, units=network.units
    )
    html = plugin_util.markdown_to_safe_html(source)
    assert html.count("<table>") == 2
    assert html.count("<h3>") == 5
    assert "<em>" not in html
    assert "&lt;" not in html
    assert "<code>s_j = Σ_{i ∈ ins(j)} w_{i→j} x_i</code>" in html
    assert "s_o = 2 · 3/4 + (−1) · 9/10 = 3/5" in html
    assert "document 2: s, z, w_{i→j}, δ." in html


def test_markdown_survives_a_tensorboard_event_file(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    source = trace.markdown(*example(3, 4, 2))
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_text("trace", source, 0)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (event,) = events.Tensors("trace/text_summary")
    assert event.tensor_proto.string_val[0].decode() == source
