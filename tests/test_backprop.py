"""backprop.py against autograd through torch's own operations, and what it refuses to read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as every_module
from torch.nn.utils import parametrizations

import manual_bp as mbp
from manual_bp import backprop
from manual_bp.backprop import Layer, LayerPass
from manual_bp.normalisation import COSTS
from tests.correctness import compare
from tests.correctness.operations import twin_mlp, twin_mse


def nested() -> nn.Module:
    """Both kinds of Linear and Sigmoid, in Sequentials within Sequentials."""
    inner = nn.Sequential(mbp.Linear(4, 4), nn.Sequential(nn.Linear(4, 5, bias=False)))
    outer = nn.Sequential(nn.Linear(3, 4), mbp.Sigmoid())
    return nn.Sequential(outer, inner, nn.Sigmoid(), nn.Linear(5, 2))


def shared() -> nn.Module:
    """One Linear twice, and one Sigmoid three times."""
    layer, sigmoid = mbp.Linear(4, 4), mbp.Sigmoid()
    first, last = mbp.Linear(3, 4), mbp.Linear(4, 2)
    return nn.Sequential(first, sigmoid, layer, sigmoid, layer, sigmoid, last)


# The model, and the state dict's prefix of each of its layers, with σ where a Sigmoid follows.
MODELS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "MLP": (lambda: mbp.MLP([3, 4, 5, 2]), ["0.σ", "2.σ", "4.σ"]),
    "linear output": (lambda: mbp.MLP([3, 4, 2], output="linear"), ["0.σ", "2."]),
    "no bias": (lambda: mbp.MLP([3, 4, 2], bias=False), ["0.σ", "2.σ"]),
    "torch.nn": (lambda: twin_mlp([3, 4, 2]), ["0.σ", "2.σ"]),
    "bare Linear": (lambda: nn.Linear(3, 2), [""]),
    "nested Sequentials": (nested, ["0.0.σ", "1.0.", "1.1.0.σ", "3."]),
    "shared layers": (shared, ["0.σ", "2.σ", "4.σ", "6."]),
}
every_model = pytest.mark.parametrize("name", MODELS)
every_cost = pytest.mark.parametrize("reduction", COSTS)


def seeded(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name][0]().to(dtype)


def data(m: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.rand(m, n, generator=generator, dtype=torch.float64) for n in (3, 2))
    return x.to(dtype), y.to(dtype)


def by_autograd(layers: list[Layer], x: Tensor, y: Tensor, reduction: str) -> list[list[Tensor]]:
    """What `tensors` gives for each layer, by torch's operations and autograd.

    Each layer has parameters of its own here, even if the model shares them.
    """
    a, steps = x, []
    for layer in layers:
        W = layer.weight.detach().clone().requires_grad_()
        b = None if layer.bias is None else layer.bias.detach().clone().requires_grad_()
        z = F.linear(a, W, b)
        a_prev, a = a, torch.sigmoid(z) if layer.sigmoid else z * 1
        steps.append((a_prev, z, a, W, b))
    cost = twin_mse(a, y, reduction)
    found = []
    for a_prev, z, a, W, b in steps:
        (slope,) = torch.autograd.grad(a.sum(), z, retain_graph=True)
        wanted = [a, z, W] if b is None else [a, z, W, b]
        error, *others = torch.autograd.grad(cost, wanted, retain_graph=True)
        found.append([t.detach() for t in (a_prev, z, a, error, slope, *others)])
    return found


def tensors(one: LayerPass) -> list[Tensor]:
    found = [one.a_prev, one.z, one.a, one.error, one.slope, one.delta, one.dW]
    return found if one.db is None else [*found, one.db]


@every_model
def test_a_model_is_read_in_the_order_it_runs(name: str) -> None:
    model = seeded(name)
    layers = backprop.read(model)
    assert [layer.name + "σ" * layer.sigmoid for layer in layers] == MODELS[name][1]
    state = model.state_dict(keep_vars=True)
    for number, layer in enumerate(layers, 1):
        assert layer.number == number
        assert layer.weight is state[f"{layer.name}weight"]
        assert layer.bias is state.get(f"{layer.name}bias")
        n_out, n_in = layer.weight.shape
        assert str(layer) == f"layer {number} ({n_in}→{n_out})"
        assert layer.tag == f"layer0{number}"
        named = {"weight": layer.weight} if layer.bias is None else vars_of(layer)
        assert layer.parameters == {f"{layer.tag}.{n}": p for n, p in named.items()}


def vars_of(layer: Layer) -> dict[str, Tensor | None]:
    return {"weight": layer.weight, "bias": layer.bias}


def test_modules_without_a_sequential_are_read_as_one() -> None:
    modules = [mbp.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2)]
    expected = backprop.read(nn.Sequential(*modules))
    for given in (modules, tuple(modules), nn.ModuleList(modules), iter(modules)):
        assert backprop.read(given) == expected


@every_cost
@pytest.mark.parametrize("m", [5, 1, 0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@every_model
def test_every_tensor_of_every_layer_is_autograds(
    name: str, dtype: torch.dtype, m: int, reduction: str
) -> None:
    layers = backprop.read(seeded(name, dtype))
    x, y = data(m, dtype)
    passes = backprop.backpropagate(layers, x, y, reduction)
    assert [one.layer for one in passes] == layers
    for one, expected in zip(passes, by_autograd(layers, x, y, reduction), strict=True):
        assert (one.db is None) == (one.layer.bias is None)
        compare.all_of(compare.agree, tensors(one), expected, zero=m == 0)


def test_the_gradients_of_a_shared_layer_add_up_to_autograds() -> None:
    model = seeded("shared layers")
    x, y = data(5)
    passes = backprop.backpropagate(backprop.read(model), x, y, "mean")
    F.mse_loss(model(x), y).backward()
    assert model[2].weight.grad is not None
    assert model[2].bias.grad is not None
    assert passes[1].db is not None
    assert passes[2].db is not None
    compare.agree(passes[1].dW + passes[2].dW, model[2].weight.grad)
    compare.agree(passes[1].db + passes[2].db, model[2].bias.grad)


def test_a_target_of_a_wider_dtype_does_not_widen_the_gradients() -> None:
    layers = backprop.read(seeded("MLP", torch.float32))
    x, y = data(5, torch.float32)
    wide = backprop.backpropagate(layers, x, y.double(), "half_per_example")
    for one, expected in zip(
        wide, backprop.backpropagate(layers, x, y, "half_per_example"), strict=True
    ):
        compare.all_of(compare.agree, tensors(one), tensors(expected))


def test_nothing_is_recorded_and_no_gradient_is_set() -> None:
    model = seeded("MLP")
    x, y = data(5)
    for one in backprop.backpropagate(backprop.read(model), x.requires_grad_(), y, "sum"):
        assert not any(t.requires_grad for t in tensors(one)[1:])  # a_prev of the first is x
    assert [p.grad for p in (x, *model.parameters())] == [None] * 7


def test_the_forward_pass_is_differentiable() -> None:
    layers = backprop.read(seeded("MLP"))
    x, y = data(5)
    *_, (_, a) = backprop.forward(layers, x)
    dW = torch.autograd.grad(twin_mse(a, y, "sum"), layers[0].weight)[0]
    compare.agree(dW, backprop.backpropagate(layers, x, y, "sum")[0].dW)


def test_back_takes_any_error() -> None:
    """∂C/∂a of a cost that is none of ours, here Σ g ⊙ a."""
    layers = backprop.read(seeded("MLP"))
    x, _ = data(5)
    _, a = map(list, zip(*backprop.forward(layers, x), strict=True))
    g = compare.make_cotangent(a[-1])
    wanted = [p for layer in layers for p in layer.parameters.values()]
    expected = torch.autograd.grad((g * a[-1]).sum(), wanted)
    slope = [t * (1 - t) for t in a]
    found = backprop.back(layers, [x, *a[:-1]], slope, g)
    compare.all_of(compare.agree, [t for _, _, dW, db in found for t in (dW, db)], expected)
    assert found[-1][0] is g


def changed(change: Callable[[nn.Sequential], object]) -> Callable[[], nn.Module]:
    """An MLP 3-4-2 with something done to it."""

    def make() -> nn.Module:
        model = mbp.MLP([3, 4, 2])
        change(model)
        return model

    return make


def with_weight(i: int, *shape: int, dtype: torch.dtype | None = None) -> Callable[[], nn.Module]:
    made = torch.zeros(shape, dtype=dtype)
    parameter = nn.Parameter(made, requires_grad=made.is_floating_point())
    return changed(lambda model: setattr(model[i], "weight", parameter))


class OwnForward(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


class OwnLinear(nn.Linear):
    pass


ONLY = "only Linear and Sigmoid modules in an nn.Sequential are read as layers; use autograd for"
REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: nn.Sequential(nn.Sigmoid(), nn.Linear(3, 2)), TypeError, "module '0': a Sigmoid must"),
    (
        lambda: mbp.MLP([3, 2]).append(mbp.Sigmoid()),
        TypeError,
        "module '2': a Sigmoid must follow a Linear; use autograd",
    ),
    (lambda: nn.Sequential(), TypeError, "the model has no Linear layer"),
    (lambda: mbp.Sigmoid(), TypeError, "module 'model': a Sigmoid must follow a Linear; use"),
    (
        lambda: nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.Tanh())),
        TypeError,
        f"module '1.0' is a Tanh: {ONLY} this model",
    ),
    (lambda: nn.Sequential(OwnLinear(3, 2)), TypeError, f"module '0' is a OwnLinear: {ONLY}"),
    (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2))),
        TypeError,
        f"module '0' is a ParametrizedLinear: {ONLY} this model",
    ),
    (lambda: nn.Sequential(nn.LazyLinear(2)), TypeError, f"module '0' is a LazyLinear: {ONLY}"),
    (lambda: nn.ModuleDict({"a": nn.Linear(3, 2)}), TypeError, "module 'model' is a ModuleDict: "),
    (
        lambda: nn.Sequential(OwnForward(nn.Linear(3, 2))),
        TypeError,
        "module '0': OwnForward.forward is not nn.Sequential.forward, and would not run; use "
        "autograd for this model",
    ),
    (
        with_weight(0, 4, 3, 1),
        RuntimeError,
        "layer 1: weight (4, 3, 1): (n_out, n_in), none of them 0, is expected",
    ),
    (
        with_weight(2, 2, 0),
        RuntimeError,
        "layer 2: weight (2, 0): (n_out, n_in), none of them 0, is expected",
    ),
    (
        with_weight(2, 2, 5),
        RuntimeError,
        "layer 2 (5→2): weight (2, 5): (2, 4) is expected, as the layer before it has 4 outputs",
    ),
    (with_weight(2, 3, 4), RuntimeError, "layer 2 (4→3): bias (2,): (3,) is expected"),
    (
        with_weight(0, 4, 3, dtype=torch.complex64),
        TypeError,
        "layer 1: weight of dtype complex64: a floating dtype is expected",
    ),
]


@pytest.mark.parametrize(("make", "error", "line"), REFUSED, ids=[r[2][:60] for r in REFUSED])
def test_a_model_that_cannot_be_read_gets_one_clear_line(
    make: Callable[[], Any], error: type[Exception], line: str
) -> None:
    with pytest.raises(error) as caught:
        backprop.read(make())
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def nothing(*_: object) -> None:
    pass


MODULE_HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward hook": lambda module: module.register_forward_hook(nothing),
    "forward hook with kwargs": lambda module: module.register_forward_hook(
        nothing, with_kwargs=True, always_call=True
    ),
    "forward pre-hook": lambda module: module.register_forward_pre_hook(nothing),
    "backward hook": lambda module: module.register_full_backward_hook(nothing),
    "backward pre-hook": lambda module: module.register_full_backward_pre_hook(nothing),
}


@pytest.mark.parametrize("where", ["", "0", "0.0", "0.1", "1"])
@pytest.mark.parametrize("kind", MODULE_HOOKS)
def test_a_hook_on_a_module_is_refused_by_name(kind: str, where: str) -> None:
    model = nn.Sequential(nn.Sequential(mbp.Linear(3, 4), mbp.Sigmoid()), nn.Linear(4, 2))
    handle = MODULE_HOOKS[kind](model.get_submodule(where))
    with pytest.raises(RuntimeError) as caught:
        backprop.read(model)
    shown = f"module {where or 'model'!r} has hooks, which would not run: "
    assert str(caught.value) == shown + "remove them, or use autograd"
    handle.remove()
    backprop.read(model)


@pytest.mark.parametrize("parameter", ["weight", "bias"])
@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_hook_on_a_parameter_is_refused_by_name(kind: str, parameter: str) -> None:
    model = mbp.MLP([3, 4, 2])
    handle = getattr(getattr(model[2], parameter), kind)(nothing)
    with pytest.raises(RuntimeError) as caught:
        backprop.read(model)
    assert str(caught.value) == (
        f"parameter {parameter!r} of module '2' has hooks, which would not run: remove them, or "
        f"use autograd"
    )
    handle.remove()
    backprop.read(model)


@pytest.mark.parametrize(
    "register",
    [
        every_module.register_module_forward_hook,
        every_module.register_module_forward_pre_hook,
        every_module.register_module_full_backward_hook,
        every_module.register_module_full_backward_pre_hook,
    ],
)
def test_a_hook_on_all_modules_is_refused(register: Callable[..., Any]) -> None:
    model = mbp.MLP([3, 4, 2])
    handle = register(nothing)
    try:
        with pytest.raises(RuntimeError, match=r"^hooks on all modules would not run: remove them"):
            backprop.read(model)
    finally:
        handle.remove()
    backprop.read(model)


@pytest.mark.parametrize("where", ["", "0", "1"])
def test_a_forward_put_on_a_module_is_refused_by_name(where: str) -> None:
    model = mbp.MLP([3, 4, 2])
    module = model.get_submodule(where)
    module.forward = module.forward  # type: ignore[method-assign]
    with pytest.raises(RuntimeError) as caught:
        backprop.read(model)
    assert str(caught.value) == (
        f"module {where or 'model'!r} has a forward of its own, which would not run: remove it, or "
        f"use autograd"
    )


@pytest.mark.parametrize("kind", [mbp.Linear, mbp.Sigmoid, nn.Linear, nn.Sigmoid])
def test_a_forward_put_on_a_class_is_refused_by_name(kind: type[nn.Module]) -> None:
    model = mbp.MLP([3, 2]) if kind in (mbp.Linear, mbp.Sigmoid) else twin_mlp([3, 2])
    with patch.object(kind, "forward", nothing), pytest.raises(RuntimeError) as caught:
        backprop.read(model)
    place = "0" if issubclass(kind, nn.Linear) else "1"
    shown = f"module {place!r}: {kind.__name__}.forward was replaced; use autograd"
    assert str(caught.value) == shown


@pytest.mark.parametrize("kind", [mbp.MLP, nn.Sequential])
def test_a_forward_put_on_the_class_around_them_is_refused_by_name(kind: type[nn.Module]) -> None:
    model = mbp.MLP([3, 2])
    with patch.object(kind, "forward", nothing), pytest.raises(TypeError) as caught:
        backprop.read(model)
    assert str(caught.value) == (
        "module 'model': MLP.forward is not nn.Sequential.forward, and would not run; use autograd "
        "for this model"
    )


def test_a_forward_put_on_a_class_before_the_first_use_is_refused_too() -> None:
    code = (
        "import manual_bp as mbp\n"
        "mbp.Linear.forward = lambda self, x: x\n"
        "mbp.backprop.read(mbp.MLP([3, 2]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = "RuntimeError: module '0': Linear.forward was replaced; use autograd"
    assert done.stderr.splitlines()[-1] == last


def test_hooks_on_a_state_dict_do_no_harm() -> None:
    model = mbp.MLP([3, 2])
    model.register_state_dict_post_hook(nothing)
    model.register_load_state_dict_post_hook(nothing)
    assert len(backprop.read(model)) == 1


@pytest.mark.parametrize("reduction", ["none", "average"])
def test_a_cost_that_is_no_number_is_refused(reduction: str) -> None:
    layers = backprop.read(seeded("MLP"))
    for call in (
        lambda: backprop.check_cost(reduction),
        lambda: backprop.backpropagate(layers, *data(5), reduction),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole line is compared
            call()
        assert str(caught.value) == (
            f"reduction {reduction!r} is not one of half_per_example, half_per_element, mean, sum"
        )


@pytest.mark.parametrize(
    ("x", "y", "line"),
    [
        ((3,), (2,), "input (3,): the shape (m, 3) is expected"),
        ((5, 4), (5, 2), "input (5, 4): the shape (m, 3) is expected"),
        ((2, 5, 3), (2, 5, 2), "input (2, 5, 3): the shape (m, 3) is expected"),
        ((5, 3), (5,), "target (5,): the output's shape (5, 2) is expected"),
        ((5, 3), (1, 2), "target (1, 2): the output's shape (5, 2) is expected"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    x: tuple[int, ...], y: tuple[int, ...], line: str
) -> None:
    layers = backprop.read(mbp.MLP([3, 4, 2]))
    with pytest.raises(RuntimeError) as caught:
        backprop.backpropagate(layers, torch.zeros(x), torch.zeros(y), "mean")
    assert str(caught.value) == line
