"""The modules beside their torch.nn twins: state, construction, copying; MLP as an nn.Sequential;
convert.
"""

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
from torch.nn.modules import module as every_module
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import manual_bp as mbp
from manual_bp import functional, modules
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


def test_mlp_runs_a_linear_and_its_sigmoid_as_one() -> None:
    assert ran(mbp.MLP([3, 4, 2])) == ["LinearSigmoid"] * 2
    assert ran(mbp.MLP([3, 4, 2], output="linear")) == ["LinearSigmoid", "Linear"]
    assert ran(mbp.MLP([3, 4, 2])[:4]) == ["Linear", "Sigmoid"] * 2
    assert ran(mbp.MLP([3, 4, 2]).append(mbp.Sigmoid())) == [
        "LinearSigmoid",
        "LinearSigmoid",
        "Sigmoid",
    ]
    replaced = mbp.MLP([3, 4, 2])
    replaced[1] = nn.Tanh()
    assert ran(replaced) == ["Linear", "TanhBackward0", "LinearSigmoid"]


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_mlp_takes_a_weight_that_is_no_parameter(name: str) -> None:
    """As hypernetworks do, which compute it."""
    model, x = seeded(lambda: mbp.MLP([3, 2])), torch.rand(5, 3)
    expected = model(x)
    computed = getattr(model[0], name).detach().clone()
    delattr(model[0], name)
    setattr(model[0], name, computed)
    assert ran(model) == ["LinearSigmoid"]
    compare.same(model(x), expected)


def _noting(calls: list[nn.Module]) -> Any:
    return lambda module, *_: calls.append(module)


def _own_forward(module: nn.Module, calls: list[nn.Module]) -> None:
    real = module.forward
    module.forward = lambda *t: (calls.append(module), real(*t))[1]  # type: ignore[method-assign]


def _compiled(module: nn.Module, calls: list[nn.Module]) -> None:
    """As `module.compile()`, without the compiler."""
    module._compiled_call_impl = lambda *t: (calls.append(module), module.forward(*t))[1]


WATCH: dict[str, Callable[[nn.Module, list[nn.Module]], object]] = {
    "a forward hook": lambda module, calls: module.register_forward_hook(_noting(calls)),
    "a forward pre-hook": lambda module, calls: module.register_forward_pre_hook(_noting(calls)),
    "a backward hook": lambda module, calls: module.register_full_backward_hook(_noting(calls)),
    "a backward pre-hook": lambda module, calls: module.register_full_backward_pre_hook(
        _noting(calls)
    ),
    "a forward of its own": _own_forward,
    "compiled": _compiled,
}


@pytest.mark.parametrize("how", WATCH)
def test_mlp_runs_every_layer_that_is_watched(how: str) -> None:
    for watched in range(4):
        model, x = seeded(lambda: mbp.MLP([3, 4, 2])), torch.rand(5, 3, requires_grad=True)
        unwatched = model(x)
        calls: list[nn.Module] = []
        WATCH[how](model[watched], calls)  # type: ignore[index]
        value = model(x)
        value.sum().backward()
        assert calls == [model[watched]]  # type: ignore[index]
        compare.same(value.detach(), unwatched.detach())


@pytest.mark.parametrize("kind", [mbp.Linear, mbp.Sigmoid])
def test_mlp_runs_a_forward_put_in_the_place_of_a_layers(
    kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "forward", lambda module, x: x.new_zeros(len(x), 2))
    assert len(mbp.MLP([3, 2])(torch.rand(5, 3)).unique()) == 1


def test_mlp_says_which_weight_is_no_tensor() -> None:
    model = mbp.MLP([3, 2])
    model[0].bias = None
    model[0].weight = None
    with pytest.raises(TypeError, match=r"^linear_sigmoid: weight must be a tensor, not NoneType$"):
        model(torch.rand(4, 3))


def test_mlp_runs_its_layers_where_it_is_compiled_or_traced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = mbp.MLP([3, 4, 2]).requires_grad_(False), torch.rand(5, 3)
    expected = model(x)
    monkeypatch.delattr(modules, "LinearSigmoidFunction")
    compare.same(torch.compile(model, backend="eager", fullgraph=True)(x), expected)

    class OfAConstant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, y: Tensor) -> Tensor:
            return self.model(x) - y

    compare.same(torch.fx.symbolic_trace(OfAConstant())(torch.zeros(5, 2)), expected)
    with pytest.raises(NameError, match="LinearSigmoidFunction"):
        model(x)


def test_selective_checkpointing_may_keep_z() -> None:
    """It refuses that a kept tensor is written over."""
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
    "register",
    [
        every_module.register_module_forward_hook,
        every_module.register_module_forward_pre_hook,
        every_module.register_module_full_backward_hook,
        every_module.register_module_full_backward_pre_hook,
    ],
)
def test_mlp_runs_every_layer_where_every_module_is_watched(
    register: Callable[..., Any],
) -> None:
    model, calls = mbp.MLP([3, 4, 2]), []  # type: ignore[var-annotated]
    handle = register(_noting(calls))
    try:
        model(torch.rand(5, 3, requires_grad=True)).sum().backward()
    finally:
        handle.remove()
    assert len(calls) == 5
    assert set(calls) == {model, *model}


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


def test_a_model_can_be_traced_by_fx() -> None:
    model, x = mbp.MLP([3, 4, 2]), torch.rand(5, 3)
    graph = torch.fx.symbolic_trace(model)
    calls = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert calls == [functional.linear, functional.sigmoid] * 2
    assert torch.equal(graph(x), model(x))


def test_convert_leaves_complex_layers_alone() -> None:
    model = mbp.convert(nn.Sequential(nn.Linear(3, 2, dtype=torch.complex64), nn.Linear(2, 2)))
    assert [type(layer) for layer in model] == [nn.Linear, mbp.Linear]
    assert model[0](torch.rand(4, 3, dtype=torch.complex64)).is_complex()
