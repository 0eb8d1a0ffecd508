"""What direct training may write into and read: everything else is refused in one line.

A loop that wrote there would end the process, or train wrong numbers without a word.
"""

from __future__ import annotations

import copy
import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import return_and_correct_aliasing

import manual_bp as mbp
from manual_bp import direct
from manual_bp.direct import native

BACKENDS = ["torch", "native"]


def data(n: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.empty(n, 6), torch.arange(n) % 3
    return x.uniform_(generator=generator), y


def network() -> mbp.MLP:
    torch.manual_seed(0)
    return mbp.MLP([6, 5, 3])


def trainer(model: nn.Module, backend: str, **options: Any) -> direct.Trainer:
    return direct.Trainer(model, **{"lr": 0.5, "batch_size": 5, "backend": backend, **options})


class Wrapper(Tensor):
    """A tensor around another one, as torch's own quantised and distributed ones are."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, *, requires_grad: bool = False) -> Wrapper:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls, inner.shape, dtype=inner.dtype, requires_grad=requires_grad
        )

    def __init__(self, inner: Tensor, *, requires_grad: bool = False) -> None:
        self.inner = inner

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: object) -> Wrapper:
        return Wrapper(inner["inner"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def plain(x: Any) -> Any:
            return x.inner if isinstance(x, Wrapper) else x

        out = func(*map(plain, args), **{k: plain(v) for k, v in (kwargs or {}).items()})
        wrapped = Wrapper(out) if isinstance(out, Tensor) else out
        return return_and_correct_aliasing(func, args, kwargs or {}, wrapped)


class Logged(nn.Parameter):
    """A parameter that answers torch's functions itself."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


# Each breaks a model.


def wrapped(model: nn.Sequential) -> None:
    model[0].weight = nn.Parameter(Wrapper(model[0].weight.detach()))


def wrapped_bias(model: nn.Sequential) -> None:
    model[2].bias = nn.Parameter(Wrapper(model[2].bias.detach()))


def answers_itself(model: nn.Sequential) -> None:
    model[0].weight = Logged(model[0].weight.detach())


def freed(model: nn.Sequential) -> None:
    model[0].weight.untyped_storage().resize_(0)


def freed_bias(model: nn.Sequential) -> None:
    model[2].bias.untyped_storage().resize_(0)


def cut_short(model: nn.Sequential) -> None:
    model[0].weight.untyped_storage().resize_(8)


def cut_by_a_byte(model: nn.Sequential) -> None:
    storage = model[2].weight.untyped_storage()
    storage.resize_(storage.nbytes() - 1)


def cut_behind_an_offset(model: nn.Sequential) -> None:
    whole = torch.zeros(40)
    model[2].weight.data = whole[25:].view(3, 5)
    whole.untyped_storage().resize_(4 * 39)


def bias_in_its_weight(model: nn.Sequential) -> None:
    model[0].bias.data = model[0].weight.data[0, :5]


def weight_starts_in_another(model: nn.Sequential) -> None:
    flat = torch.zeros(60)
    model[0].weight.data, model[2].weight.data = flat[:30].view(5, 6), flat[29:44].view(3, 5)


def shared_by_numpy(model: nn.Sequential) -> None:
    memory = np.zeros(40, np.float32)
    model[0].weight.data = torch.from_numpy(memory[:30]).view(5, 6)
    model[2].weight.data = torch.from_numpy(memory[20:35]).view(3, 5)


def shared_by_dlpack(model: nn.Sequential) -> None:
    model[0].bias.data = torch.from_dlpack(model[2].weight.detach()).view(-1)[10:]


def bias_in_another_weight_backwards(model: nn.Sequential) -> None:
    model[2].bias.data = model[0].weight.data.view(-1)[:9:4]


def one_row_for_all(model: nn.Sequential) -> None:
    model[0].weight.data = torch.zeros(1, 6).expand(5, 6)


def rows_that_overlap(model: nn.Sequential) -> None:
    model[0].weight.data = torch.zeros(10).as_strided((5, 6), (1, 1))


def zero_without_memory(model: nn.Sequential) -> None:
    model[0].bias.data = torch._efficientzerotensor((5,))


BREAKS = [
    (wrapped, TypeError, "weight is a Wrapper, not a plain tensor"),
    (wrapped_bias, TypeError, "bias is a Wrapper, not a plain tensor"),
    (answers_itself, TypeError, "weight is a Logged, not a plain tensor"),
    (freed, RuntimeError, r"layer 1 \(6→5\): weight \(5, 6\) has 0 bytes of memory, 120 are"),
    (freed_bias, RuntimeError, r"layer 2 \(5→3\): bias \(3,\) has 0 bytes of memory, 12 are"),
    (cut_short, RuntimeError, "has 8 bytes of memory, 120 are needed"),
    (cut_by_a_byte, RuntimeError, "has 59 bytes of memory, 60 are needed"),
    (cut_behind_an_offset, RuntimeError, "has 156 bytes of memory, 160 are needed"),
    (bias_in_its_weight, RuntimeError, "share memory"),
    (weight_starts_in_another, RuntimeError, "share memory"),
    (shared_by_numpy, RuntimeError, "share memory"),
    (shared_by_dlpack, RuntimeError, "share memory"),
    (bias_in_another_weight_backwards, RuntimeError, "share memory"),
    (one_row_for_all, RuntimeError, r"strides \(0, 1\), so that its elements overlap"),
    (rows_that_overlap, RuntimeError, r"strides \(1, 1\), so that its elements overlap"),
    (zero_without_memory, RuntimeError, "has 0 bytes of memory"),
]
BROKEN = pytest.mark.parametrize(
    ("break_", "error", "words"), BREAKS, ids=[break_.__name__ for break_, *_ in BREAKS]
)
ON_BOTH = pytest.mark.parametrize("backend", BACKENDS)


@ON_BOTH
@BROKEN
def test_a_model_without_memory_of_its_own_is_refused(
    break_: Callable[..., None], error: type[Exception], words: str, backend: str
) -> None:
    model = network()
    break_(model)
    with pytest.raises(error, match=words):
        trainer(model, backend, momentum=0.5)


@ON_BOTH
@BROKEN
def test_a_model_that_lost_its_memory_since_is_refused(
    break_: Callable[..., None], error: type[Exception], words: str, backend: str
) -> None:
    model = network()
    ready = trainer(model, backend)
    break_(model)
    if break_ in (wrapped, wrapped_bias, answers_itself):
        error, words = RuntimeError, "other layers or parameters"
    with pytest.raises(error, match=words):
        ready.run(*data())
    with pytest.raises(error, match=words):
        ready.step(torch.rand(5, 6), torch.rand(5, 3))


@ON_BOTH
@BROKEN
def test_a_model_that_loses_its_memory_under_way_is_refused(
    break_: Callable[..., None],
    error: type[Exception],
    words: str,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every slice looks again at what it writes into."""
    monkeypatch.setattr(native, "SLICE_WORK", 1)
    model = network()
    ready = trainer(model, backend, batch_size=5)
    ready._loop.steps_per_chunk = 1  # type: ignore[attr-defined]
    calls = []

    def progress(steps: int) -> None:
        calls.append(steps)
        if len(calls) == 2:
            break_(model)

    if break_ in (wrapped, wrapped_bias, answers_itself):
        error, words = RuntimeError, "other layers or parameters"
    with pytest.raises(error, match=words):
        ready.launch(*data(), progress=progress)
    assert calls == [1, 1]


@BROKEN
def test_backward_refuses_what_it_cannot_read(
    break_: Callable[..., None], error: type[Exception], words: str
) -> None:
    """Parameters that overlap are no fault there: they are only read."""
    model = network()
    break_(model)
    x, y = torch.rand(2, 6), torch.rand(2, 3)
    if "memory," in words or error is TypeError:
        with pytest.raises(error, match=words):
            direct.backward(model, x, y)
        assert all(p.grad is None for p in model.parameters())
    elif break_ is not zero_without_memory:
        assert direct.backward(model, x, y).isfinite()


@ON_BOTH
def test_distributed_parameters_are_refused(backend: str, one_process: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import distribute_tensor

    mesh = init_device_mesh("cpu", (1,))
    model = network()
    for layer in (model[0], model[2]):
        layer.weight = nn.Parameter(distribute_tensor(layer.weight.detach(), mesh))
        layer.bias = nn.Parameter(distribute_tensor(layer.bias.detach(), mesh))
    with pytest.raises(TypeError, match="weight is a DTensor, not a plain tensor"):
        trainer(model, backend)
    with pytest.raises((TypeError, RuntimeError)):
        trainer(fully_shard(network(), mesh=mesh), backend)


# The model changes while it is trained.


def twice_as_wide(model: nn.Sequential) -> None:
    model.double()


def elsewhere(model: nn.Sequential) -> None:
    model.to("meta")


def narrower(model: nn.Sequential) -> None:
    model[0].weight.data = torch.zeros(2, 6)


def another_layer(model: nn.Sequential) -> None:
    model[2] = mbp.Linear(5, 3)


def frozen(model: nn.Sequential) -> None:
    model[2].requires_grad_(False)


def hooked(model: nn.Sequential) -> None:
    model[0].register_forward_hook(lambda *_: None)


@ON_BOTH
@pytest.mark.parametrize(
    "change", [twice_as_wide, elsewhere, narrower, another_layer, frozen, hooked]
)
def test_a_model_that_becomes_another_under_way_is_refused(
    change: Callable[..., None], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "SLICE_WORK", 1)
    model = network()
    ready = trainer(model, backend)
    ready._loop.steps_per_chunk = 1  # type: ignore[attr-defined]
    with pytest.raises((RuntimeError, TypeError)) as raised:
        ready.launch(*data(), progress=lambda _: change(model))
    assert "\n" not in str(raised.value)


def replaced(model: nn.Sequential) -> None:
    for p in model.parameters():
        p.data = p.data.clone()


def shared(model: nn.Sequential) -> None:
    model.share_memory()


def transposed(model: nn.Sequential) -> None:
    model[0].weight.data = model[0].weight.data.t().contiguous().t()


@ON_BOTH
@pytest.mark.parametrize("move", [replaced, shared, transposed])
def test_a_model_that_moves_between_two_slices_is_trained_where_it_is(
    move: Callable[..., None], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "SLICE_WORK", 1)
    plain, moved = network(), network()
    trainer(plain, backend).run(*data())
    ready = trainer(moved, backend)
    ready._loop.steps_per_chunk = 1  # type: ignore[attr-defined]
    ready.launch(*data(), progress=lambda _: move(moved))
    for p, q in zip(plain.parameters(), moved.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("move", [replaced, shared, twice_as_wide, freed, elsewhere])
def test_the_cpp_loop_writes_into_no_memory_that_a_thread_takes_away(
    move: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread comes while the loop runs without Python's lock: here, right behind the call."""
    model = network()
    ready = trainer(model, "native")
    library = native.load()

    class Library:
        @staticmethod
        def train_float(run: Any) -> int:
            thread = threading.Thread(target=move, args=(model,))
            thread.start()
            thread.join()
            return int(library.train_float(run))

    monkeypatch.setattr(native, "load", lambda: Library)
    with pytest.raises(RuntimeError, match=r"was moved or replaced while|other layers"):
        ready.run(*data())


@ON_BOTH
@pytest.mark.parametrize("victim", ["images", "targets", "rows"])
def test_data_that_lose_their_memory_under_way_are_refused(
    victim: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "SLICE_WORK", 1)
    images, labels = data()
    targets = labels if victim == "targets" else torch.rand(20, 3)
    order = torch.arange(20)
    ready = trainer(network(), backend)
    ready._loop.steps_per_chunk = 1  # type: ignore[attr-defined]

    victims = {"images": [images], "targets": [labels, order], "rows": [targets]}[victim]

    def progress(_: int) -> None:
        while victims:
            tensor = victims.pop()
            tensor.fill_(2**40 if tensor.dtype == torch.int64 else 0.5)
            tensor.untyped_storage().resize_(0)

    if victim == "targets":  # labels and indices were copied
        ready.launch(images, targets, order, progress=progress)
    else:
        with pytest.raises(RuntimeError, match="0 bytes of memory"):
            ready.launch(images, targets, order, progress=progress)


@ON_BOTH
def test_images_keep_the_shape_they_came_with(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "SLICE_WORK", 1)
    images, labels = data()
    ready = trainer(network(), backend)
    ready._loop.steps_per_chunk = 1  # type: ignore[attr-defined]
    ready.launch(images, labels, torch.arange(20), progress=lambda _: images.resize_(2, 6))


# Arguments that are none.

NOT_TENSORS = [None, [[0.0] * 6] * 20, np.zeros((20, 6), np.float32), 3, "images"]
X, Y = data()
ROWS = torch.rand(20, 3)
ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    *(({"images": x}, TypeError, "images is a .*: a tensor is expected") for x in NOT_TENSORS),
    *(({"targets": x}, TypeError, "targets is a .*: a tensor is expected") for x in NOT_TENSORS),
    *(
        ({"order": x}, TypeError, "order is a .*: a tensor is expected")
        for x in ([0, 1], np.arange(20), range(20), 7)
    ),
    ({"images": X.to_sparse()}, TypeError, "images is torch.sparse_coo torch.float32"),
    ({"targets": ROWS.to_sparse()}, TypeError, "targets is torch.sparse_coo"),
    ({"images": X.to_mkldnn()}, TypeError, "images is torch._mkldnn"),
    ({"images": Wrapper(X)}, TypeError, "images is a Wrapper, not a plain tensor"),
    ({"targets": Wrapper(ROWS)}, TypeError, "targets is a Wrapper"),
    ({"order": Wrapper(torch.arange(20))}, TypeError, "order is a Wrapper"),
    ({"images": X.to(torch.complex64)}, TypeError, "input torch.complex64"),
    ({"images": X.long()}, TypeError, "input torch.int64"),
    ({"targets": ROWS.to(torch.complex64)}, TypeError, "target torch.complex64: real numbers"),
    ({"targets": Y.to(torch.complex64)}, TypeError, "target torch.complex64: real numbers"),
    ({"order": torch.arange(20.0)}, RuntimeError, "order torch.float32"),
    ({"images": torch._efficientzerotensor((20, 6))}, RuntimeError, "images .*0 bytes of memory"),
    ({"targets": torch._efficientzerotensor((20, 3))}, RuntimeError, "targets .*0 bytes of mem"),
    *(
        ({"lrs": lrs}, ValueError, f"a learning rate of {shown} is not a finite number")
        for lrs, shown in (
            (math.nan, "nan"),
            (math.inf, "inf"),
            (-0.1, "-0.1"),
            (1e39, r"1e\+39"),
            (10**400, "inf"),
            ([0.1, 0.1, math.nan, 0.1], "nan"),
            (torch.tensor([0.1, 0.1, 0.1, math.inf]), "inf"),
            (torch.tensor(math.nan), "nan"),
        )
    ),
    *(
        ({"lrs": lrs}, TypeError, "is not a number")
        for lrs in ("0.1", ["0.1"] * 4, [None] * 4, 1j, np.zeros(4), {}, object())
    ),
    ({"lrs": torch.zeros(2, 2)}, TypeError, r"lrs torch.float32 \(2, 2\)"),
    ({"lrs": torch.zeros(4, dtype=torch.complex64)}, TypeError, "lrs torch.complex64"),
    ({"lrs": torch.tensor(1j)}, TypeError, "is not a number"),
    ({"lrs": b"abcd"}, TypeError, "is not a number"),
    *(
        ({"pixel_scale": scale}, ValueError, f"pixel_scale {scale} is not a finite number")
        for scale in (math.nan, math.inf, -math.inf)
    ),
    ({"pixel_scale": "1"}, TypeError, "pixel_scale '1' is not a number"),
    ({"pixel_scale": 1j}, TypeError, "pixel_scale 1j is not a number"),
    ({"progress": None}, TypeError, "progress is a NoneType: a function is expected"),
]


@ON_BOTH
@pytest.mark.parametrize(("change", "error", "words"), ARGUMENTS)
def test_arguments_that_are_none_are_refused_before_anything_changes(
    change: dict[str, Any], error: type[Exception], words: str, backend: str
) -> None:
    model = network()
    ready, before = trainer(model, backend), copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=words) as raised:
        ready.launch(**{"images": X, "targets": Y, **change})
    assert "\n" not in str(raised.value)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["x", "y"])
@pytest.mark.parametrize("value", [*NOT_TENSORS, X.to_sparse(), Wrapper(X)])
def test_step_and_backward_refuse_what_is_no_tensor(name: str, value: object) -> None:
    model = network()
    arguments: Any = {"x": X[:5], "y": ROWS[:5], name: value}
    with pytest.raises(TypeError, match=f"^{name} is "):
        trainer(model, "torch").step(**arguments)
    with pytest.raises(TypeError, match=f"^{name} is "):
        direct.backward(model, **arguments)
    with pytest.raises(TypeError, match="real numbers"):
        direct.backward(model, X[:5], ROWS[:5] + 0j)


@pytest.mark.parametrize(
    ("option", "error", "words"),
    [
        *(
            ({name: value}, ValueError, f"{name} {value} is not a finite number of at least 0")
            for name in ("lr", "momentum", "weight_decay")
            for value in (math.nan, math.inf, -math.inf, -1.0)
        ),
        *(
            ({name: value}, TypeError, f"{name} .* is not a number")
            for name in ("lr", "momentum", "weight_decay")
            for value in ("1", None, [1], 1j, np.ones(1))
        ),
        *(
            ({"batch_size": value}, TypeError, "batch_size .* is not a whole number")
            for value in (5.0, "5", None, [5])
        ),
    ],
)
def test_options_that_are_no_numbers_are_refused(
    option: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        trainer(network(), "torch", **option)


@pytest.mark.parametrize("lr", [1, True, np.float32(0.5), torch.tensor(0.5)])
def test_every_kind_of_number_is_a_learning_rate(lr: Any) -> None:
    trainer(network(), "native", lr=lr).run(*data())


@ON_BOTH
def test_images_within_a_parameter_are_refused(backend: str) -> None:
    model = nn.Sequential(nn.Linear(6, 6))
    with pytest.raises(RuntimeError, match="share memory, and training changes it"):
        trainer(model, backend).run(model[0].weight, torch.zeros(6, 6))
    with pytest.raises(RuntimeError, match="share memory, and training changes it"):
        trainer(model, backend).run(torch.zeros(6, 6), model[0].weight.detach())


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {"momentum": None},
        {"momentum": []},
        {"momentum": {"0.weight": None, "0.bias": None}},
        {"momentum": {"0.weight": np.zeros((3, 6)), "0.bias": np.zeros(3)}},
        {"momentum": {"0.weight": torch.zeros(3, 6) + 0j, "0.bias": torch.zeros(3)}},
        {"momentum": {"0.weight": torch.zeros(3, 6), "0.bias": torch.zeros(3).to_sparse()}},
        {"momentum": {0: torch.zeros(3, 6), "0.bias": torch.zeros(3)}},
    ],
    ids=str,
)
def test_a_state_that_is_none_is_refused(state: Any) -> None:
    ready = trainer(mbp.MLP([6, 3]), "torch", momentum=0.5)
    with pytest.raises((TypeError, RuntimeError), match=r"momentum|state"):
        ready.load_state_dict(state)


# Modes of torch.


@ON_BOTH
def test_inference_mode_is_refused_before_anything_changes(backend: str) -> None:
    with torch.inference_mode():
        made_there = network()
        with pytest.raises(RuntimeError, match="inference mode is on"):
            trainer(network(), backend)
    with pytest.raises(RuntimeError, match="weight was made in inference mode"):
        trainer(made_there, backend)
    with pytest.raises(RuntimeError, match="weight was made in inference mode"):
        direct.backward(made_there, torch.rand(2, 6), torch.rand(2, 3))
    model = network()
    ready, before = trainer(model, backend), copy.deepcopy(model.state_dict())
    with torch.inference_mode():
        for use in (
            lambda: ready.run(*data()),
            lambda: ready.step(torch.rand(5, 6), torch.rand(5, 3)),
            lambda: direct.backward(model, torch.rand(5, 6), torch.rand(5, 3)),
        ):
            with pytest.raises(RuntimeError, match="inference mode is on"):
                use()
        images = torch.rand(20, 6)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    ready.run(images, data()[1])  # data of inference mode are only read


@ON_BOTH
@pytest.mark.parametrize("transform", ["functionalize", "vmap", "grad", "jvp"])
def test_transforms_are_refused_before_anything_changes(transform: str, backend: str) -> None:
    model = network()
    ready, before = trainer(model, backend), copy.deepcopy(model.state_dict())

    def run(x: Tensor) -> Tensor:
        ready.run(X, Y)
        return x.sum()

    def backward(x: Tensor) -> Tensor:
        return direct.backward(model, x.expand(2, 6), torch.zeros(2, 3))

    def make(x: Tensor) -> Tensor:
        trainer(model, backend)
        return x.sum()

    x = torch.rand(4, 6) if transform == "vmap" else torch.rand(6)
    for function in (run, backward, make):
        called = functools.partial(getattr(torch.func, transform), function)
        if transform == "jvp":
            called = functools.partial(called, (x,), (x,))
        else:
            called = functools.partial(called(), x)
        with pytest.raises(RuntimeError, match=r"a torch\.func transform is active"):
            called()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


# Labels.


@ON_BOTH
@pytest.mark.parametrize("ordered", [True, False])
def test_labels_give_the_bytes_of_one_hot_rows(backend: str, ordered: bool) -> None:
    images, labels = data()
    order = torch.randperm(20) if ordered else None
    networks = network(), network()
    for model, targets in zip(networks, (labels, torch.eye(3)[labels]), strict=True):
        trainer(model, backend).run(images, targets, order)
    for p, q in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(p, q)


@ON_BOTH
def test_labels_of_many_classes_stay_indices(backend: str) -> None:
    """3,000 examples of 20,000 classes would be rows of 480 MB."""
    largest = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kw: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kw or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.untyped_storage().nbytes())
            return out

    model = mbp.MLP([2, 20_000])
    ready = trainer(model, backend, batch_size=8)
    labels = torch.arange(3_000)
    with Largest():
        ready.run(torch.rand(3_000, 2), labels, norms=False)
    assert largest <= 512 * 20_000 * 4  # a chunk of the PyTorch calls
