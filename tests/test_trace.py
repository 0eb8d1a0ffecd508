"""`manual_bp.trace`: its numbers against the worked examples, autograd and torch.optim.SGD; its words; its command."""

import importlib.util
import json
import os
import subprocess
import sys
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manual_bp as mbp
from manual_bp import trace
from manual_bp.trace import numbers, passes
from manual_bp.trace.__main__ import main
from manual_bp.worked_examples import EXAMPLES, NETWORKS
from manual_bp.worked_examples.networks import tensor

ROUNDING = 1e-12


def example(*sizes: int, seed: int = 0, **options: Any) -> tuple[mbp.MLP, Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = mbp.MLP(list(sizes), dtype=torch.float64, **options)
        return model, torch.rand(sizes[0], dtype=torch.float64), torch.rand(sizes[-1], dtype=torch.float64)


def traced(name: str) -> passes.Trace:
    network = NETWORKS[name]
    return trace.compute(network.model(), tensor(network.x), tensor(network.y), cost=network.cost, lr=network.lr)


# The numbers.


def test_two_two_two_equals_the_hand_computation() -> None:
    """The deltas are 819λ/64000, 3069λ/64000 and −3/64, 81/1000: see `two_two_two`'s docstring."""
    hidden, output = traced("two-two-two").layers
    L = 1.0986122886681098
    assert output.delta.tolist() == pytest.approx([-3 / 64, 81 / 1000], rel=ROUNDING, abs=0)
    assert hidden.delta.tolist() == pytest.approx([819 * L / 64000, 3069 * L / 64000], rel=ROUNDING, abs=0)
    assert hidden.dW[1].tolist() == pytest.approx([3069 * L / 64000, 6138 * L / 64000], rel=ROUNDING, abs=0)
    assert hidden.slope.tolist() == pytest.approx([3 / 16, 3 / 16], rel=ROUNDING, abs=0)


def test_branching_equals_the_documents_five_updates() -> None:
    """Document 2's Δw from the scalar formulas of `branching`."""
    values = EXAMPLES["branching"]().values
    first, second, third = traced("branching").layers
    steps = {
        "in→i": first.new_weight - first.weight,
        "i→j": (second.new_weight - second.weight)[0],
        "i→k": (second.new_weight - second.weight)[1],
        "j→o": (third.new_weight - third.weight)[0, 0],
        "k→o": (third.new_weight - third.weight)[0, 1],
    }
    for name, step in steps.items():
        assert float(step) == pytest.approx(values[f"Δw_{{{name}}}"], rel=ROUNDING, abs=0), name


@pytest.mark.parametrize("cost", passes.COSTS)
@pytest.mark.parametrize("options", [{}, {"output": "linear"}, {"bias": False}])
def test_gradients_and_update_are_those_of_our_layers_and_sgd(cost: str, options: dict[str, Any]) -> None:
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
    optimizer.step()
    for layer, ours in zip(layers, told.layers, strict=True):
        torch.testing.assert_close(ours.new_weight, layer.weight.detach(), rtol=ROUNDING, atol=0)
        if layer.bias is not None:
            torch.testing.assert_close(ours.new_bias, layer.bias.detach(), rtol=ROUNDING, atol=0)
    assert told.value_after == pytest.approx(mbp.functional.mse_loss(model(x), y, cost).item(), rel=ROUNDING, abs=0)


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
        (dW, db), *rest = oracle(*args)
        return [(dW, db * 1.01), *rest]

    monkeypatch.setattr(passes, "_autograd", off)
    wrong = trace.compute(model, x, y, cost="mean", lr=1.0)
    assert wrong.max_relative_error == pytest.approx(0.01 / 1.01, rel=1e-6)
    assert "max relative error 9.9e-03" in trace.render.text(trace.story(wrong))


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


def test_equal_for_torch_layers_lists_batches_of_one_and_without_grad() -> None:
    model, x, y = example(3, 4, 2)
    expected = trace.text(model, x, y)
    twin = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2), nn.Sigmoid()).double()
    twin.load_state_dict(model.state_dict())
    assert trace.text(twin, x, y) == expected
    assert trace.text(list(model), x, y) == expected
    assert trace.text(model, x.unsqueeze(0), y.unsqueeze(0)) == expected
    with torch.no_grad():
        assert trace.text(model, x, y) == expected
    with torch.inference_mode():
        assert trace.text(model, x.clone(), y.clone()) == expected


def test_float32_model_is_checked_in_float64() -> None:
    model, x, y = example(3, 4, 2)
    assert trace.compute(model.float(), x.float(), y.float(), cost="mean", lr=1.0).max_relative_error < ROUNDING


@pytest.mark.parametrize(
    ("layers", "x", "message"),
    [
        ([nn.Linear(2, 2), nn.ReLU()], (2,), "layer 1 is ReLU: only Linear layers"),
        ([nn.Sigmoid(), nn.Linear(2, 2)], (2,), "layer 0 is Sigmoid"),
        ([nn.Linear(2, 2), nn.Sigmoid(), nn.Sigmoid()], (2,), "layer 2 is Sigmoid"),
        ([], (2,), "the model has no layers"),
        ([nn.Linear(2, 2)], (3,), r"x \(3,\): one example is traced, of shape \(2,\) or \(1, 2\)"),
        ([nn.Linear(2, 2)], (5, 2), r"x \(5, 2\): one example is traced"),
    ],
)
def test_refuses_what_it_cannot_trace(layers: list[nn.Module], x: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace.text(layers, torch.zeros(x), torch.zeros(2))


def test_refuses_other_modules_costs_and_notations() -> None:
    model, x, y = example(3, 2)
    with pytest.raises(TypeError, match="Linear: a sequence of Linear and Sigmoid layers is needed"):
        trace.text(model[0], x, y)
    with pytest.raises(ValueError, match="cost 'none' is not one of half_per_example"):
        trace.text(model, x, y, cost="none")
    with pytest.raises(ValueError, match="notation 4 is not one of 1, 2, 3"):
        trace.text(model, x, y, notation=4)
    with pytest.raises(ValueError, match=r"y \(3,\)"):
        trace.text(model, x, x)


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
        "z₁⁽²⁾ = 3.296 · 1 + (−1.099) · 2 = 1.099",
        "a₁⁽²⁾ = σ(1.099) = 0.75",
        "J = 0.5 · [(0.75 − 1)² + (0.9 − 0)²] = 0.4362",
        "∂J/∂a₁⁽³⁾ = (0.75 − 1) = −0.25",
        "f′(z₁⁽³⁾) = 0.75 · (1 − 0.75) = 0.1875",
        "δ₁⁽³⁾ = (−0.25) · 0.1875 = −0.04688",
        "∂J/∂a₁⁽²⁾ = (−0.04688) · 2.197 + 0.081 · 2.197 = 0.07498",
        "∂J/∂θ₂₂⁽¹⁾ = 0.05268 · 2 = 0.1054",
        "θ₂₂⁽¹⁾ := −1.099 − 0.5 · 0.1054 = −1.151",
        "J = 0.4362 before the update and is 0.4262 after it",
        "layer 2  0.2908   0.1875      0.05453  0.5826",
    ):
        assert line in printed


def test_branching_units_have_the_documents_names() -> None:
    network = NETWORKS["branching"]
    printed = trace.text(network.model(), tensor(network.x), tensor(network.y), notation=2, units=network.units)
    assert "s_o = 2 · 0.75 + (−1) · 0.9 = 0.6" in printed
    assert "∂E/∂z_i = (−0.15) · 1.465 + 0.036 · 2.93 = −0.1143" in printed
    assert "∂E/∂w_{in→i} = (−0.02142) · 2 = −0.04285" in printed
    assert "units j, k:" in printed


def test_shapes_are_laid_out_as_in_each_document() -> None:
    model, x, y = example(3, 4, 2)
    assert "(1, 4)" in trace.text(model, x, y, notation=1)
    assert "(4 × 1)" in trace.text(model, x, y, notation=3)
    assert "4 units" in trace.text(model, x, y, notation=2)


def test_long_sums_are_shortened_and_still_add_up() -> None:
    left, right = torch.arange(1.0, 101.0).double(), torch.linspace(-1, 1, 100).double()
    shown = numbers.sum_of_products(left, right, bias=-0.5)
    assert shown == "98 · 0.9596 + 99 · 0.9798 + 100 · 1 + [97 smaller terms: 1392] + (−0.5)"
    assert float(left @ right) - 0.5 == pytest.approx(98 * 0.9596 + 99 * 0.9798 + 100 * 1 + 1392 - 0.5, rel=1e-3)


def test_numbers_vectors_and_matrices_are_shortened_by_size() -> None:
    assert [numbers.number(v) for v in (0.75, -0.046875, 1e-5, -1e-20, 0.0, -0.0, 123456.0)] == [
        "0.75",
        "−0.04688",
        "1e−5",
        "−1e−20",
        "0",
        "0",
        "1.235e+5",
    ]
    assert numbers.vector(torch.tensor([1.0, -2.0])) == "(1, −2)"
    assert numbers.vector(torch.ones(100)) == "(1, 1, 1, … 97 more), norm 10"
    assert numbers.matrix(torch.eye(2)) == "[[1, 0], [0, 1]]"
    large = torch.zeros(30, 784)
    large[4, 406] = -3.0
    assert numbers.matrix(large) == "30 × 784, norm 3, largest −3 at row 5, column 407"


def test_a_trace_of_mnist_size_stays_short() -> None:
    printed = trace.text(*example(784, 30, 10))
    assert printed.count("\n") < 150
    assert max(map(len, printed.splitlines())) < 180


def test_markdown_renders_in_tensorboard() -> None:
    """TensorBoard's own converter: nothing of the formulas is taken for markup, nothing is cut out as unsafe."""
    plugin_util = pytest.importorskip("tensorboard.plugin_util")
    network = NETWORKS["branching"]
    source = trace.markdown(network.model(), tensor(network.x), tensor(network.y), notation=2, units=network.units)
    html = plugin_util.markdown_to_safe_html(source)
    assert html.count("<table>") == 2
    assert html.count("<h3>") == 5
    assert "<em>" not in html
    assert "&lt;" not in html
    assert "<code>s_j = Σ_{i ∈ ins(j)} w_{i→j} x_i</code>" in html
    assert "s_o = 2 · 0.75 + (−1) · 0.9 = 0.6" in html
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


# The command.


@pytest.mark.parametrize("notation", ["1", "2", "3"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_in_every_notation(name: str, notation: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--network", name, "--notation", notation]) == 0
    printed = capsys.readouterr().out
    error = float(printed.split("max relative error ")[1].split()[0])
    assert error < ROUNDING


def test_seed_draws_other_weights_and_repeats(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for seed in ("1", "1", "2"):
        assert main(["--seed", seed]) == 0
        printed.append(capsys.readouterr().out.replace(f"seed {seed}", "seed"))
    assert printed[0] == printed[1] != printed[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "nonsense"], "invalid choice: 'nonsense'"),
        (["--notation", "4"], "invalid choice: 4"),
        (["--example", "3"], "--example chooses an image of a run"),
        (["--run", "x", "--seed", "1"], "--seed draws the weights of --network"),
        (["--run", "x", "--network", "branching"], "not allowed with argument"),
        (["--seed", "-1"], "--seed -1"),
        (["--run", "x", "--example", "one"], "invalid int value: 'one'"),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def write_run(folder: Path, model: nn.Module | None = None, **changes: Any) -> Path:
    """A run folder as train.py leaves it, for scikit-learn's digits."""
    folder.mkdir()
    config = {
        "flags": {"cost": "half_per_element", "lr": 0.25, "output": "sigmoid", "data_dir": None},
        "dataset": "digits",
    }
    config["flags"].update(changes.pop("flags", {}))  # type: ignore[attr-defined]
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = mbp.MLP([64, 6, 10]) if model is None else model
    torch.save({"model": model.state_dict(), "epoch": 1}, folder / "checkpoint.pt")
    return folder


def test_traces_an_image_through_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    assert main(["--run", str(run), "--example", "5", "--format", "markdown"]) == 0
    printed = capsys.readouterr().out
    assert "digits, test image 5, label" in printed
    assert "64-6-10 network, one example (m = 1), cost half\\_per\\_element, η = 0.25" in printed
    assert float(printed.split("max relative error ")[1].split()[0]) < ROUNDING


def test_the_run_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    from manual_bp.trace.run_folder import read
    from manual_bp.training import data

    network = mbp.MLP([64, 5, 3, 10], output="linear")
    found = read(write_run(tmp_path / "run", network, flags={"output": "linear"}), 7)
    test = data.load("digits").test
    torch.testing.assert_close(found.x, test.images[7].double() / 255, rtol=0, atol=0)
    assert found.label == int(test.labels[7]) == int(found.y.argmax())
    assert found.y.sum() == 1
    assert (found.cost, found.lr, found.dataset) == ("half_per_element", 0.25, "digits")
    torch.testing.assert_close(found.model(found.x), network.double()(found.x), rtol=1e-15, atol=0)


def test_a_setting_the_run_chose_itself_is_found_beside_the_flags(tmp_path: Path) -> None:
    """train.py without --lr writes the flag as null, and the rate it settled on at the top."""
    from manual_bp.trace.run_folder import read

    assert read(write_run(tmp_path / "chosen", flags={"lr": None, "dataset": "auto"}, lr=2.5), 0).lr == 2.5
    assert read(write_run(tmp_path / "given"), 0).lr == 0.25
    assert read(write_run(tmp_path / "neither", flags={"lr": None}), 0).lr == 1.0


def test_traces_what_train_py_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("train", Path(__file__).parents[1] / "train.py")
    assert spec is not None
    assert spec.loader is not None
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    arguments = ["--dataset", "digits", "--epochs", "1", "--hidden", "6", "--device", "cpu"]
    command.main([*arguments, "--logdir", str(tmp_path), "--run-name", "trained"])
    capsys.readouterr()
    lr = json.loads((tmp_path / "trained" / "config.json").read_text(encoding="utf-8"))["lr"]
    assert main(["--run", str(tmp_path / "trained")]) == 0
    printed = capsys.readouterr().out
    assert f"64-6-10 network, one example (m = 1), cost half_per_example, η = {lr:g}" in printed
    assert float(printed.split("max relative error ")[1].split()[0]) < ROUNDING


def fault(run: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """The one line on stderr with which the command exits 1."""
    assert main(["--run", str(run), *more]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_no_such_run_names_those_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "other")
    line = fault(tmp_path / "missing", capsys)
    assert line == f"trace: error: {tmp_path / 'missing'}: there is no such run folder; runs in {tmp_path}: other\n"


@pytest.mark.parametrize("index", ["-1", "300", "99999999999999999999"])
def test_example_out_of_range(index: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fault(write_run(tmp_path / "run"), capsys, f"--example={index}")
    assert f"--example {index}: the test part of digits has images 0 to 299" in line


def test_a_checkpoint_that_could_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    torch.save({"model": nn.Linear(2, 2)}, run / "checkpoint.pt")
    assert "refused: damaged, or it holds more than tensors and plain values" in fault(run, capsys)


def test_a_truncated_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    whole = (run / "checkpoint.pt").read_bytes()
    for length in (0, 100, len(whole) // 2):
        (run / "checkpoint.pt").write_bytes(whole[:length])
        assert "checkpoint.pt: " in fault(run, capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "has no state dict under 'model'"),
        ({"epoch": 3}, "has no state dict under 'model'"),
        ({"model": {}}, "not a network of Linear and Sigmoid layers: it holds nothing"),
        ({"model": nn.Conv2d(1, 2, 3).state_dict()}, "it holds weight, bias, where 0.weight"),
        ({"model": nn.Sequential(nn.Linear(64, 9), nn.BatchNorm1d(9)).state_dict()}, "not a network of Linear"),
        ({"model": {"0.weight": torch.ones(5, 64), "2.weight": torch.ones(10, 4)}}, "not a network of Linear"),
        ({"model": mbp.MLP([784, 10]).state_dict()}, "takes 784 pixels, the images of digits have 64"),
        ({"model": mbp.MLP([64, 2]).state_dict()}, "has 2 outputs"),
    ],
)
def test_foreign_checkpoints(content: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    torch.save(content, run / "checkpoint.pt")
    assert message in fault(run, capsys)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json: cannot be read"),
        ("[]", "has no entry 'flags'"),
        ('{"flags": {}, "dataset": "letters"}', "'letters' in config.json is no known data set"),
        ('{"flags": {"lr": "fast"}, "dataset": "digits"}', "lr is 'fast', a number is needed"),
        ('{"flags": {"cost": "hinge"}, "dataset": "digits"}', "cost 'hinge' is not one of"),
        ('{"flags": {"output": "softmax"}, "dataset": "digits"}', "output is 'softmax', sigmoid or linear expected"),
    ],
)
def test_foreign_configurations(config: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    (run / "config.json").write_text(config, encoding="utf-8")
    assert message in fault(run, capsys)


@pytest.mark.parametrize("name", ["config.json", "checkpoint.pt"])
def test_a_folder_that_lacks_a_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    (run / name).unlink()
    assert f"{name}: missing" in fault(run, capsys)


def test_mnist_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "MNIST").write_text("in the way", encoding="utf-8")
    run = write_run(tmp_path / "run", dataset="mnist", flags={"data_dir": str(tmp_path / "MNIST")})
    assert "mnist" in fault(run, capsys)


def test_the_module_runs_and_imports_nothing_heavy() -> None:
    """In an ASCII terminal too: the output is UTF-8."""
    code = (
        "import atexit, runpy, sys; "
        "heavy = lambda: {'torchvision', 'tensorboard', 'matplotlib', 'manual_bp.training'} & set(sys.modules); "
        "atexit.register(lambda: print('heavy:', sorted(heavy()))); "
        "runpy.run_module('manual_bp.trace', run_name='__main__', alter_sys=True)"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    printed = done.stdout.decode("utf-8")
    assert done.returncode == 0, done.stderr.decode()
    assert "Document 1, two-two-two" in printed
    assert "heavy: []" in printed


def test_the_readme_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    readme = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    section = readme.split("## Show me the maths")[1].split("\n## ")[0]
    assert main([]) == 0
    printed = capsys.readouterr().out
    shown = section.split("```")[1::2]
    assert len(shown) == 2
    for block in shown:
        assert block.strip() in printed
    assert all(f"`{name}`" in section for name in NETWORKS)
