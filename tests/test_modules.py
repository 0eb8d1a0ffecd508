"""The modules beside their torch.nn twins: state, construction, copying; MLP as a Sequential."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import manual_bp as mbp
from manual_bp import functional
from tests.correctness import compare
from tests.correctness.operations import twin_mlp

PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "Linear": (lambda: mbp.Linear(3, 4), lambda: nn.Linear(3, 4)),
    "Linear, no bias": (lambda: mbp.Linear(3, 4, bias=False), lambda: nn.Linear(3, 4, bias=False)),
    "Linear, float16": (
        lambda: mbp.Linear(3, 4, dtype=torch.float16),
        lambda: nn.Linear(3, 4, dtype=torch.float16),
    ),
    "Linear, meta": (
        lambda: mbp.Linear(3, 4, device="meta"),
        lambda: nn.Linear(3, 4, device="meta"),
    ),
    "Sigmoid": (mbp.Sigmoid, nn.Sigmoid),
    "MSELoss": (mbp.MSELoss, nn.MSELoss),
    "MSELoss, sum": (lambda: mbp.MSELoss(reduction="sum"), lambda: nn.MSELoss(reduction="sum")),
    "MLP": (lambda: mbp.MLP([3, 4, 2]), lambda: twin_mlp([3, 4, 2])),
}
every_pair = pytest.mark.parametrize(("ours", "twin"), PAIRS.values(), ids=list(PAIRS))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return make()


def equal_states(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return list(first) == list(second) and all(
        v.dtype == w.dtype and v.device == w.device and (v.is_meta or torch.equal(v, w))
        for v, w in zip(first.values(), second.values(), strict=True)
    )


@every_pair
def test_one_seed_gives_both_the_same_state(
    ours: Callable[[], nn.Module], twin: Callable[[], nn.Module]
) -> None:
    assert equal_states(seeded(ours), seeded(twin))
    assert [n for n, _ in seeded(ours).named_parameters()] == [
        n for n, _ in seeded(twin).named_parameters()
    ]


@every_pair
def test_state_dicts_load_in_both_directions(
    ours: Callable[[], nn.Module], twin: Callable[[], nn.Module]
) -> None:
    for source, target in ((ours(), twin()), (twin(), ours())):
        target.load_state_dict(source.state_dict(), strict=True)
        assert equal_states(source, target)


@every_pair
def test_repr_is_the_twins(ours: Callable[[], nn.Module], twin: Callable[[], nn.Module]) -> None:
    assert repr(ours()).replace("MLP(", "Sequential(") == repr(twin())


@every_pair
def test_deepcopy_and_pickle_keep_type_and_state(
    ours: Callable[[], nn.Module], twin: Callable[[], nn.Module]
) -> None:
    module = ours()
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    for other in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(stream, weights_only=False),
    ):
        assert type(other) is type(module)
        assert equal_states(other, module)
        assert not {id(p) for p in other.parameters()} & {id(p) for p in module.parameters()}


@every_pair
def test_each_is_an_instance_of_its_twin(
    ours: Callable[[], nn.Module], twin: Callable[[], nn.Module]
) -> None:
    assert isinstance(ours(), type(twin()))


def test_device_and_dtype_reach_every_layer() -> None:
    model = mbp.MLP([3, 4, 2], device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.float64)}
    assert model.to_empty(device="cpu").to(torch.bfloat16)[0].weight.dtype == torch.bfloat16


@pytest.mark.parametrize("between", [(), (2,)], ids=["3-D", "4-D"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_linear_and_sigmoid_train_on_jagged_nested_tensors(
    between: tuple[int, ...], bias: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.rand(n, *between, 4, generator=generator, dtype=torch.float64) for n in (2, 5, 0, 1)
    ]

    def values_and_gradients(room: Any) -> list[Tensor]:
        model = seeded(lambda: nn.Sequential(room.Linear(4, 3, bias=bias), room.Sigmoid())).double()
        x = torch.nested.nested_tensor(parts, layout=torch.jagged, requires_grad=True)
        a = model(x)
        assert a.is_nested
        a.values().backward(compare.make_cotangent(a.values()))
        assert x.grad is not None
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        return [a.values().detach(), x.grad.values(), *gradients]

    ours = values_and_gradients(mbp)
    assert len(ours) == 3 + bias
    compare.all_of(compare.agree, ours, values_and_gradients(nn))


@pytest.mark.parametrize("leading", [(), (5,), (2, 5), (2, 1, 5)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_what_a_linear_gives_may_be_written_to(leading: tuple[int, ...], bias: bool) -> None:
    """As nn.ReLU(inplace=True) does after it, and what follows is right."""
    x = torch.rand(*leading, 3, dtype=torch.float64)

    def values_and_gradients(linear: Callable[..., nn.Module]) -> tuple[Tensor, ...]:
        model = seeded(
            lambda: nn.Sequential(
                linear(3, 4, bias=bias), nn.ReLU(inplace=True), linear(4, 2, bias=bias)
            )
        ).double()
        value = model(x)
        return value.detach(), *torch.autograd.grad(value.sin().sum(), list(model.parameters()))

    compare.all_of(compare.agree, values_and_gradients(mbp.Linear), values_and_gradients(nn.Linear))


def test_expanded_weights_give_per_sample_gradients() -> None:
    """torch.nn.utils' ExpandedWeights, which Opacus uses, read F.linear by name."""
    x = torch.rand(5, 3, dtype=torch.float64)

    def per_sample(make: Callable[[], nn.Module]) -> list[Tensor]:
        model = seeded(make).double()
        output = call_for_per_sample_grads(model, loss_reduction="sum")(x)
        output.backward(compare.make_cotangent(output))
        return [p.grad_sample for p in model.parameters()]

    ours = per_sample(lambda: mbp.MLP([3, 4, 2]))
    assert [g.shape[0] for g in ours] == [len(x)] * 4
    compare.all_of(compare.agree, ours, per_sample(lambda: twin_mlp([3, 4, 2])))


def test_skip_init_works_as_for_the_twin() -> None:
    module = torch.nn.utils.skip_init(mbp.Linear, 3, 4)
    assert type(module) is mbp.Linear
    assert module.weight.shape == (4, 3)


@pytest.mark.parametrize("reduction", ["half_per_example", "half_per_element"])
def test_mse_loss_prints_the_reductions_torch_does_not_have(reduction: str) -> None:
    assert repr(mbp.MSELoss(reduction)) == f"MSELoss(reduction={reduction!r})"


def test_mse_loss_refuses_an_unknown_reduction_when_it_is_made() -> None:
    with pytest.raises(
        ValueError, match="MSELoss: reduction 'average' is not one of half_per_example"
    ):
        mbp.MSELoss("average")


def kinds(model: nn.Module) -> list[type[nn.Module]]:
    return [type(m) for m in model]  # type: ignore[arg-type, attr-defined]


def test_mlp_is_the_documents_network() -> None:
    assert kinds(mbp.MLP([784, 128, 10])) == [mbp.Linear, mbp.Sigmoid, mbp.Linear, mbp.Sigmoid]
    assert kinds(mbp.MLP([784, 128, 10], output="linear")) == [mbp.Linear, mbp.Sigmoid, mbp.Linear]
    assert [tuple(p.shape) for p in mbp.MLP([5, 3, 2], bias=False).parameters()] == [(3, 5), (2, 3)]


def test_mlp_forward_and_gradients_equal_the_twin() -> None:
    ours = seeded(lambda: mbp.MLP([3, 4, 2])).double()
    twin = seeded(lambda: twin_mlp([3, 4, 2])).double()
    x = torch.rand(5, 3, dtype=torch.float64)
    out, twin_out = ours(x), twin(x)
    compare.agree(out.detach(), twin_out.detach())
    g = compare.make_cotangent(out)
    out.backward(g)
    twin_out.backward(g)
    compare.all_of(
        compare.agree, [p.grad for p in ours.parameters()], [p.grad for p in twin.parameters()]
    )


def test_mlp_slices_appends_and_adds_like_sequential() -> None:
    model = mbp.MLP([3, 4, 2])
    part = model[:2]
    assert type(part) is nn.Sequential
    assert part[0] is model[0]
    assert list(model[2:].state_dict()) == list(
        nn.Sequential(*twin_mlp([3, 4, 2]))[2:].state_dict()
    )
    assert model[-1] is model[3]
    assert kinds(model + nn.Sequential(nn.ReLU())) == [*kinds(model), nn.ReLU]
    assert len(model * 2) == 8
    assert kinds(copy.deepcopy(model).append(nn.ReLU())) == [*kinds(model), nn.ReLU]
    assert kinds(copy.deepcopy(model).insert(0, nn.Flatten())) == [nn.Flatten, *kinds(model)]
    assert len(copy.deepcopy(model).extend([nn.ReLU(), nn.ReLU()])) == 6
    shorter = copy.deepcopy(model)
    del shorter[3]
    assert type(shorter) is mbp.MLP
    assert kinds(shorter) == [mbp.Linear, mbp.Sigmoid, mbp.Linear]
    assert part(torch.zeros(5, 3)).shape == (5, 4)


def ran(model: nn.Module) -> list[str]:
    """The Functions that a forward pass of `model` ran, the first first."""
    value, names = model(torch.rand(5, 3)), []
    node = value.grad_fn
    while node is not None:
        names.append(type(node).__name__.removesuffix("Backward").removesuffix("Function"))
        node = node.next_functions[0][0]
    return names[::-1]


def test_mlp_runs_one_function_a_module() -> None:
    assert ran(mbp.MLP([3, 4, 2])) == ["Linear", "Sigmoid"] * 2
    assert ran(mbp.MLP([3, 4, 2], output="linear")) == ["Linear", "Sigmoid", "Linear"]
    replaced = mbp.MLP([3, 4, 2])
    replaced[1] = nn.Tanh()
    assert ran(replaced) == ["Linear", "TanhBackward0", "Linear", "Sigmoid"]


def _own_forward(module: nn.Module, note: Callable[..., object]) -> None:
    real = module.forward
    module.forward = lambda *t: (note(module), real(*t))[1]  # type: ignore[method-assign]


WATCH: dict[str, Callable[[nn.Module, Callable[..., object]], object]] = {
    "a forward hook": nn.Module.register_forward_hook,
    "a forward pre-hook": nn.Module.register_forward_pre_hook,
    "a backward hook": nn.Module.register_full_backward_hook,
    "a backward pre-hook": nn.Module.register_full_backward_pre_hook,
    "a forward of its own": _own_forward,
}


@pytest.mark.parametrize("how", WATCH)
def test_mlp_runs_the_hooks_and_the_forward_of_each_module(how: str) -> None:
    for watched in range(4):
        model, x = seeded(lambda: mbp.MLP([3, 4, 2])), torch.rand(5, 3, requires_grad=True)
        unwatched = model(x)
        calls: list[nn.Module] = []
        WATCH[how](model[watched], lambda module, *_, calls=calls: calls.append(module))
        value = model(x)
        value.sum().backward()
        assert calls == [model[watched]]
        compare.same(value.detach(), unwatched.detach())


def test_mlp_says_which_weight_is_no_tensor() -> None:
    model = mbp.MLP([3, 2])
    model[0].bias = None
    model[0].weight = None
    with pytest.raises(TypeError, match=r"^linear: weight must be a tensor, not NoneType$"):
        model(torch.rand(4, 3))


def test_a_model_can_be_traced_by_fx() -> None:
    model, x = mbp.MLP([3, 4, 2]), torch.rand(5, 3)
    graph = torch.fx.symbolic_trace(model)
    calls = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert calls == [functional.linear, functional.sigmoid] * 2
    assert torch.equal(graph(x), model(x))


def test_selective_checkpointing_may_keep_z() -> None:
    model, x = seeded(lambda: mbp.MLP([3, 4, 2])).double(), torch.rand(5, 3, dtype=torch.float64)

    def keep_products(
        _: object, operation: object, *args: object, **kwargs: object
    ) -> CheckpointPolicy:
        products = (torch.ops.aten.addmm.default, torch.ops.aten.mm.default)
        return (
            CheckpointPolicy.MUST_SAVE
            if operation in products
            else CheckpointPolicy.PREFER_RECOMPUTE
        )

    def gradients(value: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(value.square().sum(), list(model.parameters()))

    def contexts() -> Any:
        return create_selective_checkpoint_contexts(keep_products)

    kept = checkpoint(model, x, use_reentrant=False, context_fn=contexts)
    compare.all_of(compare.same, gradients(kept), gradients(model(x)))


@pytest.mark.parametrize(
    ("sizes", "seen"),
    [
        ([784], "[784]"),
        ([], "[]"),
        ([3, 0, 2], "[3, 0, 2]"),
        ([3, 2.5], "[3, 2.5]"),
        ("34", "['3', '4']"),
        (3, "[3]"),
    ],
)
def test_mlp_refuses_wrong_sizes(sizes: list[int], seen: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the whole line is compared
        mbp.MLP(sizes)
    assert (
        str(caught.value)
        == f"MLP: sizes {seen}: two or more widths of at least 1 are needed, such as [784, 128, 10]"
    )


def test_mlp_refuses_an_unknown_output() -> None:
    with pytest.raises(ValueError, match="MLP: output 'relu' is not one of sigmoid, linear"):
        mbp.MLP([3, 2], output="relu")  # type: ignore[arg-type]


def test_mlp_takes_numpy_sizes() -> None:
    assert repr(mbp.MLP(np.array([3, 4]))) == repr(mbp.MLP([3, 4]))  # type: ignore[arg-type]
