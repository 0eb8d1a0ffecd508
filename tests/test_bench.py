"""The benchmark's own honesty: every contender does the same work, and one that does not is not
timed.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from manual_bp.bench import measure, memory, problem, torch_peers
from manual_bp.bench.__main__ import main
from manual_bp.bench.configuration import NAMES, Configuration

QUICK = [
    "direct",
    "direct-norms",
    "direct-torch",
    "functions",
    "torch",
    "numpy",
    "sklearn",
    "products",
]


@pytest.fixture(autouse=True)
def little_data(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (500, 784), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (500,), generator=generator)
    monkeypatch.setattr(problem, "load_data", lambda: (pixels, labels, "random images"))


def make(text: str, steps: int) -> problem.Problem:
    images, labels, _ = problem.load_data()
    return problem.make(Configuration.parse(text), (images, labels), steps, torch.device("cpu"))


@pytest.mark.parametrize(
    "text", ["20-8-10:4", "20-9-8-3:16", "20-8-10:4:linear", "20-8-10:4:dense"]
)
def test_every_contender_reaches_the_same_cost(text: str) -> None:
    table = measure.compare(make(text, 30), QUICK, 2, 1, lambda _: None)
    start = make(text, 30)
    before = start.cost([(w.numpy(), b.numpy()) for w, b in start.weights])
    assert table.expected_cost < 0.99 * before  # something was learnt
    for result in table.results:
        if result.contender == "sklearn" and not text.endswith("linear"):
            assert "no squared error on a sigmoid output" in result.note
            continue
        assert len(result.seconds) == 2, result
        if result.contender != "products":
            assert result.cost == pytest.approx(table.expected_cost, rel=problem.TOLERANCE)


@pytest.mark.slow
def test_compiled_steps_reach_the_same_cost() -> None:
    (result,) = measure.compare(make("20-8-10:4", 20), ["compiled"], 1, 1, lambda _: None).results
    assert result.cost is not None
    assert result.median is not None, result.note


def test_jax_reaches_the_same_cost() -> None:
    pytest.importorskip("jax", reason="no JAX: the extra `bench` has it")
    (result,) = measure.compare(make("20-8-10:4", 20), ["jax"], 1, 1, lambda _: None).results
    assert result.median is not None, result.note


def test_the_expected_cost_is_that_of_backpropagation_by_hand() -> None:
    """One step of a 1-1 network: w ← w − η ∂C/∂w, from the formula."""
    task = make("1-1:1", 1)
    x = float(task.images[task.order[0], 0]) / 255
    y = float(task.one_hot[task.order[0], 0])
    (weight, bias) = task.weights[0]
    a = torch.sigmoid(weight.double() * x + bias.double())
    delta = 2 * (a - y) * a * (1 - a)
    stepped = [
        (
            (weight.double() - task.lr * delta * x).numpy(),
            (bias.double() - task.lr * delta[0]).numpy(),
        )
    ]
    assert measure.expected_cost(task) == pytest.approx(task.cost(stepped), rel=1e-12)


class ForgetsTheBias(torch_peers.TorchEager):
    name = "forgets the bias"

    def run(self) -> None:
        super().run()
        with torch.no_grad():
            self.linears()[-1].bias.add_(0.1)


def test_a_contender_with_another_cost_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(measure.CONTENDERS, "torch", ForgetsTheBias)
    status = main(
        [
            "--configurations",
            "20-8-10:4",
            "--contenders",
            "direct-torch",
            "torch",
            "--steps",
            "10",
            "--repeats",
            "1",
        ]
    )
    assert status == 1
    out = capsys.readouterr().out
    assert "forgets the bias       not counted: reaches cost" in out


class Breaks(torch_peers.TorchEager):
    name = "breaks"

    def run(self) -> None:
        raise ValueError("a kernel that cannot be had")


def test_a_contender_that_raises_loses_its_row_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(measure.CONTENDERS, "torch", Breaks)
    small = "--configurations 20-8-10:4 --contenders torch direct-torch --steps 5 --repeats 1"
    assert main([*small.split(), "--json", str(tmp_path / "found.json")]) == 0
    out = capsys.readouterr().out
    assert "breaks                 failed: ValueError: a kernel that cannot be had" in out
    first, second = json.loads((tmp_path / "found.json").read_text())["tables"][0]["results"]
    assert first["median_seconds"] is None
    assert second["median_seconds"] > 0


def test_a_table_is_written_before_the_next_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails_later(*args: object) -> measure.Table:
        if list(tmp_path.iterdir()):
            raise KeyboardInterrupt
        return compare(*args)  # type: ignore[arg-type]

    compare = measure.compare
    monkeypatch.setattr(measure, "compare", fails_later)
    small = "--configurations 20-8-10:4 20-8-10:8 --contenders direct-torch --steps 5 --repeats 1"
    with pytest.raises(KeyboardInterrupt):
        main([*small.split(), "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert [table["configuration"] for table in found["tables"]] == ["20-8-10:4"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", found["date"])
    assert found["float32"] == "highest"
    assert found["torch"] == torch.__version__
    assert {"device", "driver", "CUDA", "Triton", "commit"} <= set(found)


def test_on_a_gpu_a_round_is_long_enough_and_held_to_no_core() -> None:
    cuda = torch.device("cuda")
    small, large = map(Configuration.parse, ("784-30-10:10", "784-1024-1024-1024-10:4096"))
    assert [c.default_steps("cpu") for c in (small, large)] == [1000, 2]
    assert [c.default_steps("cuda") for c in (small, large)] == [10_000, 77]
    assert small.default_threads("cpu") == 1
    assert small.default_threads("cuda") == torch.get_num_threads()
    if hasattr(os, "sched_getaffinity"):
        before = os.sched_getaffinity(0)
        with measure.threads(1, cuda):
            assert os.sched_getaffinity(0) == before


def test_what_runs_on_the_cpu_has_no_row_beside_a_gpu() -> None:
    task = replace(make("20-8-10:4:linear", 3), device=torch.device("cuda"))
    for kind in (measure.CONTENDERS["numpy"], measure.CONTENDERS["sklearn"]):
        with pytest.raises(torch_peers.Skipped, match="runs on the CPU"):
            kind(task)


def test_the_command_prints_a_table_and_writes_json_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        "--configurations 20-8-10:4 20-8-10:32 --contenders direct-torch torch "
        "products --steps 5 --repeats 3"
    )
    files = tmp_path / "bench.json", tmp_path / "bench.png"
    assert (
        main(
            [
                *arguments.split(),
                "--threads",
                "1",
                "--json",
                str(files[0]),
                "--picture",
                str(files[1]),
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "random images" in out
    assert "20-8-10:32   5 steps in 3 rounds, 1 thread, matrix products at" in out
    first, _ = json.loads(files[0].read_text())["tables"]
    assert first["flops_per_step"] == 2 * 4 * (2 * 20 * 8 + 3 * 8 * 10)
    assert [result["contender"] for result in first["results"]] == [
        "direct-torch",
        "torch",
        "products",
    ]
    seconds = first["results"][1]
    assert seconds["median_seconds"] == sorted(seconds["seconds"])[1]
    assert seconds["seconds_per_epoch"] == pytest.approx(seconds["median_seconds"] * 60_000 / 20)
    direct, torch_nn, products = (result["seconds"] for result in first["results"])

    def over(reference: list[float]) -> float:
        return sorted(one / other for one, other in zip(torch_nn, reference, strict=True))[1]

    expected = {
        "direct": None,
        "direct-torch": over(direct),
        "torch": 1,
        "products": over(products),
    }
    assert seconds["time_over"] == expected
    rows = {line[2:25].strip(): line[25:].split()[3:9:2] for line in out.splitlines()[:8]}
    assert rows["torch.nn eager"] == ["1.00", f"{over(direct):.2f}", f"{over(products):.2f}"]
    assert rows["direct, PyTorch calls"][:2] == [f"{over(direct):.2f}", "1.00"]
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with measure.threads(1, torch.device("cpu")):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_dense_problem_has_no_zeros() -> None:
    assert (make("784-10:4", 1).images == 0).any()
    assert (make("784-10:4:dense", 1).images > 0).all()
    assert str(Configuration.parse("784-10:4:linear:dense")) == "784-10:4:linear:dense"


@pytest.mark.slow
def test_memory_leaves_the_data_out() -> None:
    """JAX holds a copy of all images; a step of four takes next to nothing beside it."""
    pytest.importorskip("jax", reason="no JAX: the extra `bench` has it")
    peak = memory.of(make("784-10:4", 3), "jax", 1)
    assert peak is None or peak < 2_000_000


def test_the_command_names_every_contender() -> None:
    assert tuple(measure.CONTENDERS) == NAMES


@pytest.mark.parametrize(
    "text", ["784", "784-10", "784-10:0", "784-10:x", "10:4", "784-10:4:relu", "0-3:1"]
)
def test_bad_configurations_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--configurations", text])
    assert exit_.value.code == 2
    assert f"'{text}': a network and a batch size such as 784-30-10:10" in capsys.readouterr().err


def test_synthetic_images_are_as_sparse_as_mnist(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("MANUAL_BP_DATA", str(tmp_path))
    monkeypatch.setattr(problem, "EXAMPLES", 2_000)
    pixels, labels, source = problem.load_data()
    assert source.startswith("synthetic")
    assert pixels.shape == (2_000, 784)
    assert len(labels) == 2_000
    assert float((pixels != 0).float().mean()) == pytest.approx(0.19, abs=0.01)


@pytest.mark.slow
def test_memory_counts_what_the_steps_need() -> None:
    """torch.nn keeps x, a (1000 numbers an example) and the gradients; it cannot take less than x
    and a.
    """
    peak = memory.of(make("784-1000-10:500", 3), "torch", 1)
    assert peak is None or 500 * 1784 * 4 < peak < 10 * 500 * 1784 * 4


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--device foo", "'foo': cpu, cuda or cuda:N is needed"),
        ("--json nowhere/x.json", "'nowhere/x.json': a file in a folder that exists is needed"),
        ("--picture x.foo", "'x.foo': a name that ends in one of png, svg, pdf, jpg is needed"),
    ],
)
def test_what_cannot_be_written_or_run_on_is_said_before_anything_is_measured(
    flags: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(flags.split())
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err
