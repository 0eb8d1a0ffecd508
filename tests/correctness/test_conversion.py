"""convert() on other people's models: same outputs and gradients bit for bit, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import manual_bp as mbp
from tests.correctness import compare
from tests.correctness.operations import twin_mlp


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
    """The old spectral_norm: a hook that sets .weight before each forward; the type stays
    nn.Linear.
    """
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
    """Output, cost and the input's gradient; and the parameters' gradients after two backward
    passes.
    """
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
