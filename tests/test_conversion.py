"""convert on other people's models: outputs and gradients stay bit for bit; and back to torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

import manual_bp as mbp
from tests.correctness import compare
from tests.correctness.operations import twin_mlp
from tests.correctness.poison import is_ours, nodes


class Tied(nn.Module):
    """A language model's head on its embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.hidden = nn.Linear(4, 4)
        self.gate = nn.Sigmoid()
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        tokens = (x[..., 0].abs() * 6).long() % 7
        return self.head(self.gate(self.hidden(self.embedding(tokens))))


class SharedLayer(nn.Module):
    """One layer used twice, once under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.again = self.layer
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.sigmoid(self.again(self.sigmoid(self.layer(x))))


class LowRank(nn.Linear):
    """A subclass with a forward of its own: to be left alone."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out)
        self.down, self.up = nn.Linear(n_in, 1, bias=False), nn.Linear(1, n_out, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + self.up(self.down(input))


def parametrized() -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(4, 4)),
        nn.Sigmoid(),
        parametrizations.spectral_norm(nn.Linear(4, 4)),
        nn.Sigmoid(),
        parametrizations.orthogonal(nn.Linear(4, 4)),
        nn.Linear(4, 3),
    )


def hooked_weight() -> nn.Module:
    """The old spectral_norm: a hook sets .weight before each forward; the type stays nn.Linear."""
    return nn.Sequential(
        torch.nn.utils.spectral_norm(nn.Linear(4, 5)), nn.Sigmoid(), nn.Linear(5, 2)
    )


def frozen() -> nn.Module:
    model = twin_mlp([4, 5, 4, 2])
    model[0].requires_grad_(False)
    model[2].weight.requires_grad_(False)
    return model


def with_hooks() -> nn.Module:
    """Hooks that change what passes: forward, forward_pre, full_backward, one on a parameter."""
    model = twin_mlp([4, 5, 2])
    model[0].register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 1.5,))
    model[0].register_forward_hook(lambda _module, _inputs, output: output + 0.25)
    model[2].register_full_backward_hook(
        lambda _module, grad_input, _grad_output: (grad_input[0] * 0.5,)
    )
    model[2].weight.register_hook(lambda g: g * 2)
    return model


def transformer() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, dim_feedforward=8, dropout=0.0, batch_first=True)


def excitation() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(-1, (4, 1, 1)),
        nn.Flatten(0, 1),
        torchvision.ops.SqueezeExcitation(4, 2),
        nn.Flatten(),
        torchvision.ops.MLP(4, [6, 3], dropout=0.0, inplace=False),
    )


def in_float64(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().double()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "MLP": lambda: twin_mlp([4, 5, 4, 2]),
    "tied weights": Tied,
    "a shared layer": SharedLayer,
    "a subclass of nn.Linear": lambda: nn.Sequential(LowRank(4, 4), nn.Sigmoid(), nn.Linear(4, 2)),
    "parametrizations": parametrized,
    "spectral_norm by a hook": hooked_weight,
    "frozen parameters": frozen,
    "hooks": with_hooks,
    "TransformerEncoderLayer": transformer,
    "torchvision's SqueezeExcitation and MLP": excitation,
    "bare nn.Linear": lambda: nn.Linear(4, 2),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))


def outcome(model: nn.Module, cost: nn.Module) -> tuple[list[Tensor], list[Tensor | None]]:
    """Outputs, costs and gradients of two backward passes: the input's, and the parameters'."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(3, 5, 4, generator=generator, dtype=torch.float64).requires_grad_()
    found = []
    for _ in range(2):
        output = model(x)
        value = cost(
            output, torch.linspace(0, 1, output.numel(), dtype=torch.float64).reshape(output.shape)
        )
        value.backward()
        found += [output.detach(), value.detach()]
    return found + ([] if x.grad is None else [x.grad]), [p.grad for p in model.parameters()]


@every_model
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_outputs_and_gradients_stay_bit_for_bit(
    make: Callable[[], nn.Module], training: bool
) -> None:
    model, converted = (
        in_float64(make).train(training),
        mbp.convert(in_float64(make).train(training)),
    )
    cost = mbp.convert(nn.MSELoss())
    seen, gradients = outcome(converted, cost)
    expected, expected_gradients = outcome(model, nn.MSELoss())
    compare.all_of(compare.same, seen, expected)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        if gradient is None or reference is None:
            assert gradient is reference
        else:
            compare.same(gradient, reference)


@every_model
def test_the_tree_stays_what_it_was(make: Callable[[], nn.Module]) -> None:
    model = in_float64(make)
    before = {
        name: (
            id(module),
            module.training,
            list(module._forward_hooks),
            list(module._backward_hooks),
        )
        for name, module in model.named_modules(remove_duplicate=False)
    }
    parameters = [
        (n, id(p), p.requires_grad) for n, p in model.named_parameters(remove_duplicate=False)
    ]
    state = list(model.state_dict())
    mbp.convert(model)
    assert before == {
        name: (
            id(module),
            module.training,
            list(module._forward_hooks),
            list(module._backward_hooks),
        )
        for name, module in model.named_modules(remove_duplicate=False)
    }
    assert parameters == [
        (n, id(p), p.requires_grad) for n, p in model.named_parameters(remove_duplicate=False)
    ]
    assert state == list(model.state_dict())


@every_model
def test_exact_types_alone_are_replaced(make: Callable[[], nn.Module]) -> None:
    model = in_float64(make)
    before = [type(m) for m in model.modules()]
    after = [type(m) for m in mbp.convert(model).modules()]
    twins = {nn.Linear: mbp.Linear, nn.Sigmoid: mbp.Sigmoid, nn.MSELoss: mbp.MSELoss}
    assert after == [twins.get(t, t) for t in before]
    assert after != before


def test_a_parametrization_may_come_after_convert() -> None:
    torch.manual_seed(0)
    ours, twin = mbp.convert(nn.Linear(4, 3).double()), nn.Linear(4, 3).double()
    twin.load_state_dict(ours.state_dict())
    parametrizations.weight_norm(ours)
    parametrizations.weight_norm(twin)
    assert isinstance(ours, mbp.Linear)
    x = torch.rand(5, 4, dtype=torch.float64)
    ours(x).sin().sum().backward()
    twin(x).sin().sum().backward()
    compare.same(ours(x).detach(), twin(x).detach())
    compare.all_of(
        compare.same, [p.grad for p in ours.parameters()], [p.grad for p in twin.parameters()]
    )


def test_a_lazy_layer_is_converted_once_it_has_its_shape() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    mbp.convert(model)
    assert type(model[0]) is nn.LazyLinear
    model(torch.rand(2, 4))
    assert type(mbp.convert(model)[0]) is mbp.Linear


def test_convert_changes_exact_types_in_place() -> None:
    class Narrow(nn.Linear):
        pass

    shared = nn.Linear(4, 4)
    model = nn.ModuleDict(
        {
            "a": nn.Sequential(nn.Linear(3, 4), nn.Sigmoid()),
            "b": shared,
            "c": shared,
            "d": Narrow(4, 2),
            "e": nn.MSELoss(),
        }
    )
    model["a"].eval()
    parameters = {n: id(p) for n, p in model.named_parameters()}
    modules = {n: id(m) for n, m in model.named_modules(remove_duplicate=False)}
    modes = {n: m.training for n, m in model.named_modules()}
    assert mbp.convert(model) is model
    assert {n: id(p) for n, p in model.named_parameters()} == parameters
    assert {n: id(m) for n, m in model.named_modules(remove_duplicate=False)} == modules
    assert {n: m.training for n, m in model.named_modules()} == modes
    assert [type(m) for m in (*model["a"], model["b"], model["c"], model["d"], model["e"])] == [
        mbp.Linear,
        mbp.Sigmoid,
        mbp.Linear,
        mbp.Linear,
        Narrow,
        mbp.MSELoss,
    ]


def test_convert_twice_changes_nothing() -> None:
    model = mbp.convert(twin_mlp([3, 4, 2]))
    before = [type(m) for m in model.modules()]
    assert [type(m) for m in mbp.convert(model).modules()] == before


def test_no_file_of_the_package_bears_the_name_of_something_it_exports() -> None:
    """Python would set `manual_bp.conversion` to the file once somebody imports it."""
    files = {path.stem for path in Path(mbp.__file__).parent.glob("*")}
    assert files & set(mbp._HOMES) == set()


def test_convert_takes_a_bare_module_and_refuses_others() -> None:
    assert type(mbp.convert(nn.Linear(3, 4))) is mbp.Linear
    with pytest.raises(TypeError, match="not list"):
        mbp.convert([nn.Linear(3, 4)])  # type: ignore[type-var]


def test_convert_keeps_hooks_and_the_optimizers_parameters() -> None:
    model = twin_mlp([3, 4, 2])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    mbp.convert(model)
    before = [p.clone() for p in model.parameters()]
    model(torch.rand(5, 3)).square().sum().backward()
    optimizer.step()
    assert len(seen) == 1
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_a_converted_cost_keeps_its_reduction_and_refuses_to_broadcast() -> None:
    cost = mbp.convert(nn.MSELoss(reduction="sum"))
    assert float(cost(torch.full((5, 2), 2.0), torch.zeros(5, 2))) == 40.0
    with pytest.raises(RuntimeError, match="nothing is broadcast"):
        cost(torch.zeros(5, 1), torch.zeros(5))


def test_convert_leaves_complex_layers_alone() -> None:
    model = mbp.convert(nn.Sequential(nn.Linear(3, 2, dtype=torch.complex64), nn.Linear(2, 2)))
    assert [type(layer) for layer in model] == [nn.Linear, mbp.Linear]
    assert model[0](torch.rand(4, 3, dtype=torch.complex64)).is_complex()


class Gated(nn.Module):
    """Everything that `convert` leaves alone, beside what it converts."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)
        self.window = ShiftedWindowAttention(4, [2, 2], [0, 0], 2)
        self.lazy = nn.LazyLinear(3)
        self.low_rank = LowRank(4, 4)
        self.normed = parametrizations.weight_norm(nn.Linear(4, 4))
        self.complex = nn.Linear(2, 2, dtype=torch.complex64)
        self.cost = nn.MSELoss()
        self.gate = nn.Sigmoid()


LEFT = {
    "attention": "MultiheadAttention: torch's attention function computes its projections from the "
    "bare weights",
    "attention.out_proj": "NonDynamicallyQuantizableLinear: a subclass of nn.Linear, which may "
    "compute something else",
    "window": "ShiftedWindowAttention: torchvision's function computes its projections from the "
    "bare weights",
    "lazy": "LazyLinear: has no weights yet; run the model once, then convert",
    "low_rank": "LowRank: a subclass of nn.Linear, which may compute something else",
    "normed": "ParametrizedLinear: a subclass of nn.Linear, which may compute something else",
    "complex": "a complex Linear: the formulas are for real numbers",
}


def test_conversion_names_what_is_ours_and_what_was_left_alone_and_why() -> None:
    model = Gated()
    before = mbp.conversion(model)
    assert before == type(before)({}, LEFT)
    assert str(before).splitlines()[0] == "hand-derived: nothing"
    found = mbp.conversion(mbp.convert(model))
    # window.qkv, window.proj, low_rank.down and low_rank.up
    assert found == type(found)({"Linear": 4, "MSELoss": 1, "Sigmoid": 1}, LEFT)
    lines = [f"left alone: {name}: {why}" for name, why in LEFT.items()]
    assert str(found).splitlines() == ["hand-derived: 4 Linear, 1 MSELoss, 1 Sigmoid", *lines]


def test_conversion_knows_subclasses_by_their_class_not_by_their_name() -> None:
    class MultiheadAttention(nn.Module):
        """Somebody else's, which calls its layers."""

        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Linear(4, 4)

    class Windows(ShiftedWindowAttentionV2):
        pass

    assert mbp.conversion(mbp.convert(MultiheadAttention())).left == {}
    left = mbp.conversion(mbp.convert(Windows(4, [2, 2], [0, 0], 2))).left
    assert list(left) == ["the model"]
    assert left["the model"].startswith("Windows: torchvision's function computes ")


def test_conversion_counts_a_layer_of_ours_that_was_parametrized() -> None:
    model = parametrizations.weight_norm(mbp.Linear(4, 3))
    assert mbp.conversion(model) == type(mbp.conversion(model))({"Linear": 1}, {})


@pytest.mark.parametrize(
    ("attention", "x"),
    [
        (lambda: ShiftedWindowAttention(4, [2, 2], [0, 0], 2), torch.rand(1, 4, 4, 4)),
        (lambda: ShiftedWindowAttentionV2(4, [2, 2], [0, 0], 2), torch.rand(1, 4, 4, 4)),
        (lambda: ShiftedWindowAttention3d(4, [2, 2, 2], [0, 0, 0], 2), torch.rand(1, 2, 4, 4, 4)),
    ],
    ids=["2-D", "2-D, version 2", "3-D"],
)
def test_the_projections_of_window_attention_are_not_ours(
    attention: Callable[[], nn.Module], x: Tensor
) -> None:
    """Else `conversion` names it in vain. Version 2 calls the layers of its position bias."""
    model = mbp.convert(attention())
    projections = [node for node in nodes(model(x)) if type(node).__name__.startswith("AddmmB")]
    assert len(projections) == 2
    assert not any(is_ours(node) for node in projections)
    assert list(mbp.conversion(model).left) == ["the model"]


def test_convert_prints_what_it_did_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    mbp.convert(nn.Sequential(nn.Linear(3, 2), nn.LazyLinear(2)))
    assert capsys.readouterr().out == ""
    model = mbp.convert(nn.Sequential(nn.Linear(3, 2), nn.LazyLinear(2)), verbose=True)
    assert capsys.readouterr().out == (
        "hand-derived: 1 Linear\n"
        "left alone: 1: LazyLinear: has no weights yet; run the model once, then convert\n"
    )
    mbp.convert(model[1], verbose=True)
    assert "\nleft alone: the model: LazyLinear: " in capsys.readouterr().out


@every_model
def test_to_torch_is_the_inverse_of_convert(make: Callable[[], nn.Module]) -> None:
    model = in_float64(make)
    before = [(id(m), type(m)) for m in model.modules()]
    parameters = [id(p) for p in model.parameters()]
    expected, expected_gradients = outcome(model, nn.MSELoss())
    model.zero_grad()
    assert mbp.to_torch(mbp.convert(model)) is model
    assert [(id(m), type(m)) for m in model.modules()] == before
    assert [id(p) for p in model.parameters()] == parameters
    if not any(hasattr(m, "weight_u") or "parametrizations" in dir(m) for m in model.modules()):
        seen, gradients = outcome(model, nn.MSELoss())  # a power iteration moves at each call
        compare.all_of(compare.same, seen, expected)
        assert [g is None for g in gradients] == [g is None for g in expected_gradients]


def test_an_mlp_becomes_a_sequential_of_torch_nn() -> None:
    model, x = mbp.MLP([3, 4, 2]), torch.rand(5, 3)
    expected, keys = model(x), list(model.state_dict())
    assert mbp.to_torch(model) is model
    assert repr(model) == repr(twin_mlp([3, 4, 2]))
    assert list(model.state_dict()) == keys
    compare.agree(model(x), expected)
    assert not any(is_ours(node) for node in nodes(model(x)))
    assert type(model[:2]) is nn.Sequential


@pytest.mark.parametrize("reduction", ["half_per_example", "half_per_element"])
def test_to_torch_refuses_a_reduction_that_torch_does_not_have(reduction: str) -> None:
    model = nn.ModuleDict({"net": mbp.MLP([3, 2]), "cost": mbp.MSELoss(reduction)})
    before = [type(m) for m in model.modules()]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole line is compared
        mbp.to_torch(model)
    assert str(caught.value) == (
        f"to_torch: cost is an MSELoss of reduction {reduction!r}, which torch.nn.MSELoss does not "
        f"have: take the cost out of the model, or use mean, sum or none"
    )
    assert [type(m) for m in model.modules()] == before
    with pytest.raises(ValueError, match=r"^to_torch: the model is an MSELoss"):
        mbp.to_torch(mbp.MSELoss(reduction))
    assert type(mbp.to_torch(mbp.MSELoss("sum"))) is nn.MSELoss


@pytest.mark.parametrize("function", [mbp.to_torch, mbp.conversion, mbp.converted])
def test_each_refuses_what_is_no_module(function: Callable[..., object]) -> None:
    with pytest.raises(TypeError) as caught, contextlib.ExitStack() as stack:
        stack.enter_context(function([nn.Linear(3, 4)]))  # type: ignore[arg-type]
    assert str(caught.value) == f"{function.__name__}: a torch.nn.Module is needed, not list"


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_dynamic_quantization_sees_the_layers_of_to_torch() -> None:
    quantization = pytest.importorskip(
        "torch.ao.quantization", reason="PyTorch has moved it into torchao"
    )

    def quantized(model: nn.Module) -> list[str]:
        model = quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        assert model(torch.rand(5, 3)).shape == (5, 2)
        return [type(m).__module__ for m in model if "quantized" in type(m).__module__]

    assert quantized(mbp.MLP([3, 4, 2])) == []  # it looks for exactly nn.Linear
    assert len(quantized(mbp.to_torch(mbp.MLP([3, 4, 2])))) == 2


def test_torchscript_takes_what_to_torch_gives() -> None:
    model, x = mbp.to_torch(mbp.MLP([3, 4, 2])), torch.rand(5, 3)
    compare.same(torch.jit.script(model)(x), model(x))


def test_converted_puts_everything_back() -> None:
    """And the layer that was ours before stays ours."""
    model = nn.Sequential(nn.Linear(4, 4), mbp.Sigmoid(), mbp.Linear(4, 4), nn.Sigmoid(), Tied())
    before = [type(m) for m in model.modules()]
    twins = {nn.Linear: mbp.Linear, nn.Sigmoid: mbp.Sigmoid}
    with mbp.converted(model) as inside:
        assert inside is model
        assert [type(m) for m in model.modules()] == [twins.get(kind, kind) for kind in before]
    assert [type(m) for m in model.modules()] == before
    with pytest.raises(ZeroDivisionError), mbp.converted(model):  # noqa: PT012
        assert type(model[0]) is mbp.Linear
        raise ZeroDivisionError
    assert [type(m) for m in model.modules()] == before


def test_converted_takes_a_bare_layer() -> None:
    layer = nn.Linear(4, 3)
    with mbp.converted(layer):
        assert type(layer) is mbp.Linear
    assert type(layer) is nn.Linear


def test_converted_leaves_a_type_that_changed_meanwhile() -> None:
    """A parametrization put on inside, and a lazy layer that got its shape inside."""
    model = nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(2))
    with mbp.converted(model):
        parametrizations.weight_norm(model[0])
        model(torch.rand(3, 4))
    assert type(model[0]).__name__ == "ParametrizedLinear"
    assert type(model[1]) is nn.Linear
    assert model(torch.rand(3, 4)).shape == (3, 2)
