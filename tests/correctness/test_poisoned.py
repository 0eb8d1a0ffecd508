"""A poisoned twin, a counter and a walk over the graph show that our backward ran.

The matrix poisons each operation under each way to run it; here whole models are trained, and the
places where PyTorch goes round a Function's backward are named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint_sequential

import manual_bp as mbp
from manual_bp.function import HandDerivedFunction
from tests.correctness import compare, distributed
from tests.correctness.operations import NETWORK, OPERATIONS, SIGMOID, Operation, twin_mlp
from tests.correctness.poison import counted, is_ours, nodes, poisoned

SIZES = [3, 4, 3, 2]  # no two neighbours equal, or a transposed gradient would fit

WAYS: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    "eager": lambda model: model,
    "checkpointed": lambda model: lambda x: checkpoint_sequential(model, 2, x, use_reentrant=False),
    "compiled": lambda model: torch.compile(model, backend="aot_eager", fullgraph=True),
}


def train(make: Callable[[], nn.Module], way: str) -> list[Tensor]:
    """The parameters after three steps of descent on half_per_example."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = make().double()
    run = WAYS[way](model)
    generator = torch.Generator().manual_seed(1)
    x, y = (
        torch.rand(6, n, generator=generator, dtype=torch.float64) for n in (SIZES[0], SIZES[-1])
    )
    for _ in range(3):
        cost = mbp.functional.mse_loss(run(x), y, "half_per_example")
        model.zero_grad()
        cost.backward()
        with torch.no_grad():
            for p in model.parameters():
                assert p.grad is not None
                p -= p.grad
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("way", [*list(WAYS)[:2], pytest.param("compiled", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "make", [lambda: mbp.MLP(SIZES), lambda: mbp.convert(twin_mlp(SIZES))], ids=["MLP", "converted"]
)
def test_the_poison_shows_in_training(make: Callable[[], nn.Module], way: str) -> None:
    clean = train(make, way)
    compare.all_of(compare.agree, clean, train(make, "eager"))
    with poisoned():
        poisonous, in_eager = train(make, way), train(make, "eager")
    compare.all_of(compare.agree, poisonous, in_eager)
    for p, c in zip(poisonous, clean, strict=True):
        with pytest.raises(AssertionError, match="further apart"):
            compare.agree(p, c)


@pytest.mark.parametrize(
    ("function", "factors"),
    [
        (mbp.SigmoidFunction, (9, 3)),  # the error signal passes two sigmoids, or one
        (mbp.LinearFunction, (9, 3)),  # δ W of the second layer, and then ∂C/∂W or ∂C/∂b
        (mbp.MSELossFunction, (3, 3)),
    ],
    ids=["sigmoid", "linear", "mse"],
)
def test_each_poison_shows_in_every_layer_of_an_mlp(
    function: type[HandDerivedFunction], factors: tuple[int, int]
) -> None:
    model = mbp.MLP([3, 4, 2]).double()
    x, y = torch.rand(5, 3, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64)

    def gradients() -> tuple[Tensor, ...]:
        cost = mbp.functional.mse_loss(model(x), y)
        return torch.autograd.grad(cost, list(model.parameters()))

    clean = gradients()
    with poisoned(function):
        poisonous = gradients()
    expected = [f * g for f, g in zip((factors[0],) * 2 + (factors[1],) * 2, clean, strict=True)]
    compare.all_of(compare.agree, poisonous, expected)


@pytest.mark.slow
def test_a_poisoned_sigmoid_shows_under_distributed_data_parallel() -> None:
    results = distributed.ran()
    with poisoned(mbp.SigmoidFunction):
        wrong = distributed.alone(NETWORK, NETWORK.ours)
    poisonous, clean = results["sigmoid poisoned", "network"], results["clean", "network"]
    compare.all_of(compare.agree, poisonous, wrong)
    for p, c in zip(poisonous[:-1], clean[:-1], strict=True):  # ∂C/∂y passes no sigmoid
        with pytest.raises(AssertionError, match="further apart"):
            compare.agree(p, c)


@pytest.mark.parametrize("op", OPERATIONS, ids=str)
def test_the_poison_shows_in_each_variant(op: Operation) -> None:
    """Eager mode and torch.func run subclasses; a rule put on the class itself reaches both."""
    inputs = op.inputs()
    tangents = tuple((t + 1).sin() for t in inputs)

    def derivatives() -> Iterator[Tensor]:
        yield from compare.value_and_gradients(op.ours, inputs)[1]
        with forward_ad.dual_level():
            dual = [forward_ad.make_dual(t, d) for t, d in zip(inputs, tangents, strict=True)]
            yield forward_ad.unpack_dual(op.ours(*dual)).tangent
        value, pull = torch.func.vjp(op.ours, *inputs)
        yield from pull(compare.make_cotangent(value))
        yield torch.func.jvp(op.ours, inputs, tangents)[1]

    clean = list(derivatives())
    with poisoned():
        for poisonous, right in zip(derivatives(), clean, strict=True):
            with pytest.raises(AssertionError, match="further apart"):
                compare.agree(poisonous, right)
    compare.all_of(compare.same, derivatives(), clean)


def test_the_poison_leaves_nothing_behind() -> None:
    with poisoned():
        pass
    compare.all_of(
        compare.same, train(lambda: mbp.MLP(SIZES), "eager"), train(lambda: mbp.MLP(SIZES), "eager")
    )
    assert [
        f.backward.__module__.split(".")[0] for f in (mbp.LinearFunction, mbp.SigmoidFunction)
    ] == ["manual_bp"] * 2


def test_backward_is_called_once_a_layer() -> None:
    model = mbp.MLP(SIZES)
    layers = len(SIZES) - 1
    with counted() as calls:
        mbp.functional.mse_loss(model(torch.rand(5, 3)), torch.rand(5, 2)).backward()
    assert calls == {"LinearFunction": layers, "SigmoidFunction": layers, "MSELossFunction": 1}


def test_backward_is_called_twice_where_autograd_asks_twice() -> None:
    z = SIGMOID.inputs()[0].requires_grad_()
    with counted() as calls:
        SIGMOID.ours(z).sum().backward()
        SIGMOID.ours(z).sum().backward()
    assert calls == {"SigmoidFunction": 2}


class Residual(nn.Module):
    """A model of somebody else's: shared layers, a subclass, a branch, a cost."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.shared = nn.Linear(4, 4)
        self.gate = nn.Sigmoid()
        self.last = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Sigmoid())
        self.cost = nn.MSELoss()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a = self.gate(self.first(x))
        a = a + self.gate(self.shared(a)) * self.shared(a.detach())
        return self.cost(self.last(a), y)


BUILTIN = (
    "AddmmBackward",
    "MmBackward",
    "MseLossBackward",
    "SigmoidBackward",
    "TBackward",
    "LinearBackward",
)


def walk(value: Tensor) -> tuple[list[str], list[str]]:
    """The names of our nodes, and of the built-in ones that do what ours should have done."""
    every = nodes(value)
    ours = [type(n).__name__ for n in every if is_ours(n)]
    theirs = [type(n).__name__ for n in every if type(n).__name__.startswith(BUILTIN)]
    return ours, theirs


def test_every_layer_of_a_model_is_ours() -> None:
    model = mbp.MLP(SIZES)
    ours, theirs = walk(mbp.MSELoss("half_per_example")(model(torch.rand(5, 3)), torch.rand(5, 2)))
    layer = ["SigmoidFunctionBackward", "LinearFunctionBackward"]
    assert ours == ["MSELossFunctionBackward", *layer * 3]
    assert theirs == []


def test_every_layer_of_a_converted_model_is_ours() -> None:
    model, arguments = Residual(), (torch.rand(5, 3), torch.rand(5, 2))
    ours, theirs = walk(model(*arguments))
    assert ours == []
    assert theirs
    mbp.convert(model)
    ours, theirs = walk(model(*arguments))
    assert theirs == []
    assert sorted(ours) == sorted(
        ["LinearFunctionBackward"] * 4
        + ["SigmoidFunctionBackward"] * 3
        + ["MSELossFunctionBackward"]
    )


def test_the_walk_sees_one_builtin_layer_left() -> None:
    model = mbp.convert(Residual())
    model.shared.__class__ = nn.Linear
    assert "AddmmBackward0" in walk(model(torch.rand(5, 3), torch.rand(5, 2)))[1]


@pytest.mark.parametrize("op", OPERATIONS, ids=str)
def test_the_graph_node_belongs_to_the_function(op: Operation) -> None:
    value = op.ours(*[t.requires_grad_() for t in op.inputs()])
    assert is_ours(value.grad_fn)
    assert not is_ours(op.twin(*[t.requires_grad_() for t in op.inputs()]).grad_fn)
    assert walk(value)[1] == []


# Where PyTorch drops a Function's backward: it records what forward does and differentiates that.
# The numbers are right, but not by our rule. (torch.compile around torch.func's jvp and vmap does
# so too: see the matrix.)


def _exported(op: Operation) -> Callable[..., Tensor]:
    class Module(nn.Module):
        def forward(self, *t: Tensor) -> Tensor:
            return op.ours(*t)

    return torch.export.export(Module(), op.inputs()).module()


DROPS: dict[str, Callable[[Operation], Callable[..., Tensor]]] = {
    "torch.export": _exported,
    "make_fx": lambda op: make_fx(lambda *t: op.ours(*t))(*op.inputs()),
}


@pytest.mark.parametrize("op", OPERATIONS, ids=str)
@pytest.mark.parametrize("drop", DROPS.values(), ids=list(DROPS))
def test_where_pytorch_drops_the_backward(
    op: Operation, drop: Callable[[Operation], Callable[..., Tensor]]
) -> None:
    right = compare.value_and_gradients(op.twin, op.inputs())
    with poisoned():
        value, gradients = compare.value_and_gradients(drop(op), op.inputs())
    compare.agree(value, right[0])
    compare.all_of(compare.agree, gradients, right[1])  # not poisonous: the built-in rule ran
