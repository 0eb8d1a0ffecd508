"""The loop of CUDA graphs: with tapes for graphs on any machine, and on CUDA where there is one."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import Tensor

import manual_bp as mbp
from manual_bp import backprop, direct
from manual_bp.direct import cuda_graph, torch_loop
from manual_bp.direct.cuda_graph import GraphLoop, Recorder
from manual_bp.direct.task import Descent
from tests.direct import tape

OPTIONS = [{}, {"momentum": 0.9}, {"weight_decay": 0.01}, {"momentum": 0.5, "weight_decay": 0.01}]


def data(device: str = "cpu") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (700, 40), dtype=torch.uint8, generator=generator)
    return pixels.to(device), torch.randint(0, 10, (700,), generator=generator).to(device)


def graph_trainer(model: mbp.MLP, batch_size: int, **options: float) -> direct.Trainer:
    """A trainer with the graph loop, on the CPU too."""
    if next(model.parameters()).is_cuda:
        return direct.Trainer(model, lr=0.0, batch_size=batch_size, backend="graph", **options)  # type: ignore[arg-type]
    trainer = direct.Trainer(model, lr=0.0, batch_size=batch_size, backend="torch", **options)  # type: ignore[arg-type]
    trainer._loop = GraphLoop(trainer._descent)
    return trainer


def network(device: str = "cpu") -> mbp.MLP:
    torch.manual_seed(0)
    return mbp.MLP([40, 20, 10], dtype=torch.float64, device=device)


def assert_same_training(device: str, batch_size: int, options: dict[str, float]) -> None:
    """Two epochs against `TorchLoop`. 700 examples leave a shorter chunk and a smaller batch."""
    expected, got = network(device), network(device)
    reference = direct.Trainer(expected, lr=0.0, batch_size=batch_size, backend="torch", **options)  # type: ignore[arg-type]
    trainer = graph_trainer(got, batch_size, **options)
    pixels, labels = data(device)
    for epoch in range(2):
        order = torch.randperm(700, generator=torch.Generator().manual_seed(epoch)).to(device)
        rates = torch.linspace(1.0, 0.1, -(-700 // batch_size))
        images, targets = (
            pixels.roll(epoch, 0),
            labels.roll(2 * epoch),
        )  # other data, at another address
        want = reference.run(images, targets, order, rates)
        found = trainer.run(images, targets, order, rates)
        assert found.correct == want.correct
        assert found.squared_error == pytest.approx(want.squared_error, rel=1e-10)
        assert found.grad_norm == pytest.approx(want.grad_norm, rel=1e-9)
        assert found.delta_norm == pytest.approx(want.delta_norm, rel=1e-9)
    for p, q in zip(got.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> type[tape.Machine]:
    """Graphs are tapes, and a chunk is shorter, so that an epoch has several."""
    tape.insert(monkeypatch)
    monkeypatch.setattr(cuda_graph, "CHUNK_EXAMPLES", 200)
    return tape.Machine


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("batch_size", [10, 64])
def test_on_tape_it_is_that_of_the_loop(
    batch_size: int, options: dict[str, float], machine: type[tape.Machine]
) -> None:
    assert_same_training("cpu", batch_size, options)
    # Two epochs of whole chunks, and of smaller ones at their end. Each shape is called once, then
    # recorded and replayed.
    replays = {10: [5, 1], 64: [3, 1, 1]}
    assert [recorded.replays for recorded in machine.tapes] == replays[batch_size]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_without_norms_it_is_that_of_the_loop(
    options: dict[str, float], machine: type[tape.Machine]
) -> None:
    """δ contains η then, and a step's η may be 0."""
    results = []
    for loop in (torch_loop.TorchLoop, GraphLoop):
        model = network()
        trainer = graph_trainer(model, 64, **options)
        trainer._loop = loop(trainer._descent)
        pixels, labels = data()
        for _ in range(2):
            trainer.run(pixels, labels, None, [0.5, 0.0, 1.0] * 3 + [0.5, 0.1], norms=False)
        results.append(list(model.parameters()))
    for p, q in zip(*results, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


def train(trainer: direct.Trainer, n: int = 700) -> None:
    pixels, labels = data(str(trainer.device))
    steps = -(-n // trainer.batch_size)
    trainer.run(pixels[:n], labels[:n], lrs=[0.1] * steps)


def test_each_shape_is_recorded_once(machine: type[tape.Machine]) -> None:
    trainer = graph_trainer(network(), 64)
    for n in (600, 60, 600, 190, 600, 60):
        train(trainer, n)
    # 4 steps; 60 examples; 1 step, which follows the 4 twice; the last 24
    assert len(machine.tapes) == 4


def test_a_single_step_is_recorded(machine: type[tape.Machine]) -> None:
    trainer, reference = graph_trainer(network(), 64), graph_trainer(network(), 64)
    trainer._step_loop, reference._step_loop = (
        trainer._loop,
        torch_loop.TorchLoop(reference._descent),
    )
    pixels, labels = data()
    for first in range(0, 640, 64):
        rows = slice(first, first + 64)
        got, want = (t.step(pixels[rows], labels[rows]) for t in (trainer, reference))
        assert float(got) == pytest.approx(float(want), rel=1e-12)
    (recorded,) = machine.tapes
    assert recorded.replays == 9


def test_every_loop_records_on_a_stream_of_its_own(machine: type[tape.Machine]) -> None:
    one, other = graph_trainer(network(), 64), graph_trainer(network(), 64)
    for _ in range(2):
        train(one, 640)
    machine.device = "cuda:1"
    for _ in range(2):
        train(other, 640)
    streams = [options["stream"] for options in machine.captures]
    assert streams[0] is streams[1]
    assert streams[0] is not streams[2]
    assert streams[2] is streams[3]
    assert {options["capture_error_mode"] for options in machine.captures} == {"thread_local"}


def test_the_33rd_shares_no_stream(
    machine: type[tape.Machine], capsys: pytest.CaptureFixture[str]
) -> None:
    """PyTorch has 32 streams a device and hands the first one out again."""
    counts = [torch.zeros(()) for _ in range(34)]

    def record(recorder: Recorder, count: Tensor) -> None:
        for _ in range(3):
            recorder.do("add", lambda: count.add_(1))

    recorders = [Recorder() for _ in range(33)]
    for recorder, count in zip(recorders, counts, strict=False):
        record(recorder, count)
    streams = [options["stream"].cuda_stream for options in machine.captures]
    assert sorted(streams) == list(range(32))
    assert capsys.readouterr().err.count("no CUDA graph (32 others record on this device)") == 1
    del recorders[0]  # whose stream is free now
    record(Recorder(), counts[33])
    assert machine.captures[-1]["stream"].cuda_stream == streams[0]
    assert [float(count) for count in counts] == [3] * 34


def test_a_copy_records_for_itself(machine: type[tape.Machine]) -> None:
    trainer = graph_trainer(network(), 64)
    train(trainer)
    train(trainer)
    twin = copy.deepcopy(trainer)
    before = len(machine.tapes)
    for one in (trainer, twin):
        train(one)
    assert len(machine.tapes) == before + 1  # of the four steps; the rest was called once
    for p, q in zip(trainer._descent.tensors(), twin._descent.tensors(), strict=True):
        assert torch.equal(p, q)


def test_parameters_that_moved_are_recorded_anew(machine: type[tape.Machine]) -> None:
    models = network(), network()
    trainer, reference = graph_trainer(models[0], 64), graph_trainer(models[1], 64)
    for moves in (False, True):
        if moves:
            models[0][0].weight.data = models[0][0].weight.data.clone()
        train(trainer)
        train(reference)
    recordings = len(machine.tapes)
    train(trainer)
    assert len(machine.tapes) > recordings  # of what the reference has recorded already
    train(reference)
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def test_what_cannot_be_captured_is_called(
    machine: type[tape.Machine], capsys: pytest.CaptureFixture[str]
) -> None:
    machine.failure = "operation not permitted"
    assert_same_training("cpu", 64, {})
    error = capsys.readouterr().err
    assert error.count("no CUDA graph (operation not permitted); training call by call") == 1
    assert machine.stream is None  # the current one is as it was


def test_autograd_notices_a_replay(machine: type[tape.Machine]) -> None:
    model = network()
    trainer = graph_trainer(model, 64)
    for _ in range(2):
        train(trainer, 256)  # one chunk, so that nothing but the graph changes them from now on
    cost = model(torch.rand(3, 40, dtype=torch.float64)).sum()
    train(trainer, 256)
    assert machine.tapes[0].replays == 2
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        cost.backward()


@pytest.mark.cuda
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("batch_size", [10, 64])
def test_recorded_on_cuda_it_is_that_of_the_loop(
    batch_size: int,
    options: dict[str, float],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda_graph, "CHUNK_EXAMPLES", 200)  # several replays an epoch
    assert_same_training("cuda", batch_size, options)
    assert "no CUDA graph" not in capsys.readouterr().err


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_a_recorded_epoch_is_not_waited_for() -> None:
    trainer = graph_trainer(network("cuda"), 64)
    train(trainer)
    train(trainer)
    pixels, labels = data("cuda")
    order = torch.arange(700, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        launched = trainer.launch(pixels, labels, order, [0.1] * 11)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert launched.read().steps == 11


@pytest.mark.cuda
def test_a_graph_outlives_another_loop() -> None:
    """cuBLAS has one workspace a stream. One graph frees it; no other may write to it then."""
    images, labels = (
        torch.rand(2048, 784, device="cuda"),
        torch.randint(0, 10, (2048,), device="cuda"),
    )

    def trainer() -> direct.Trainer:
        torch.manual_seed(0)
        model = mbp.MLP([784, 128, 10], device="cuda")
        return direct.Trainer(model, lr=1.0, batch_size=512, backend="graph")

    kept, other, expected = trainer(), trainer(), trainer()
    for one in (other, other, kept, kept):  # the second time records
        one.run(images, labels)
    del other
    torch.cuda.empty_cache()
    mine = torch.full((2**26,), torch.nan, device="cuda")  # takes what was freed
    got = kept.run(images, labels)
    assert mine.isnan().all()
    expected.run(images, labels)
    expected.run(images, labels)
    assert got.squared_error == pytest.approx(expected.run(images, labels).squared_error, rel=1e-5)


@pytest.mark.cuda
def test_other_threads_may_use_cuda_while_it_records(capsys: pytest.CaptureFixture[str]) -> None:
    done = threading.Event()
    failures: list[Exception] = []

    def pin() -> None:
        size = 1
        while not done.is_set():
            try:
                torch.empty(size := size % 4_000_000 + 1000).pin_memory()
            except Exception as error:
                failures.append(error)
                return

    thread = threading.Thread(target=pin)
    thread.start()
    try:
        for _ in range(3):
            train(graph_trainer(network("cuda"), 1))  # 256 steps in a chunk take a while to capture
    finally:
        done.set()
        thread.join()
    assert not failures
    assert "no CUDA graph" not in capsys.readouterr().err


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="fewer than two CUDA devices")
@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_on_each_of_several_devices(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever device is current, and whichever was recorded on before."""
    for where in ("cuda:0", device):
        assert_same_training(where, 64, {})
    assert "no CUDA graph" not in capsys.readouterr().err


def test_it_needs_cuda() -> None:
    with pytest.raises(RuntimeError, match="backend 'graph' needs a model on CUDA, not on cpu"):
        direct.Trainer(mbp.MLP([4, 3]), lr=0.1, batch_size=2, backend="graph")


def test_a_loop_is_copied_without_its_recording() -> None:
    """A CUDA graph's replay can neither be copied nor pickled."""
    layers = backprop.read(mbp.MLP([40, 20, 10]))
    loop = GraphLoop(Descent(layers, [(None, None)] * 2, "mean", 0, 0, 10))
    loop._recorder._replays["a shape"] = threading.Lock().acquire
    assert copy.deepcopy(loop)._recorder._replays == {}
