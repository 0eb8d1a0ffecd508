"""`python -m manual_bp.trace`: its arguments, the runs it reads, one line for bad input."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import manual_bp as mbp
from manual_bp import trace
from manual_bp.notation import NOTATIONS
from manual_bp.trace import draw, render
from manual_bp.trace.__main__ import main
from manual_bp.training import command, data
from manual_bp.training.traced_run import read
from manual_bp.worked_examples import EXAMPLES, NETWORKS
from manual_bp.worked_examples.networks import tensor

ROUNDING = 1e-12
PAGE = Path(trace.__file__).with_name("README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("notation", ["1", "2", "3"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_in_every_notation(
    name: str, notation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--network", name, "--notation", notation]) == 0
    printed = capsys.readouterr().out
    error = float(printed.split("max relative error ")[1].split()[0].replace("−", "-"))
    assert error < ROUNDING


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("two-two-two", ["θ₁₁⁽¹⁾ = 3λ, θ₁₂⁽¹⁾ = −λ", "θ₁₁⁽²⁾ = 2λ, θ₁₂⁽²⁾ = −2λ"]),
        ("branching", ["w_{in→i} = λ/2", "w_{i→k} = 8λ/3", "w_{j→o} = 2, w_{k→o} = −1"]),
        ("vector-form", ["w₁₁¹ = λ, w₁₂¹ = −λ, b₁¹ = 2λ"]),
    ],
)
def test_a_documents_weights_are_written_as_they_are_meant(
    name: str, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name]) == 0
    printed = capsys.readouterr().out
    assert set(lines) < {line.strip() for line in printed.splitlines()}
    assert re.findall(r"e-\d", printed) == []  # one minus sign, no hyphen
    assert main([name, "--seed", "1"]) == 0
    assert "λ" not in capsys.readouterr().out


def test_random_weights_have_one_decimal_and_stand_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for seed in map(str, range(20)):
        assert main(["--sizes", "2", "3", "1", "--seed", seed]) == 0
        start = capsys.readouterr().out.split("input x, target y")[1].split("\n\n")[0]
        assert start.count("θ") == 2 * 3 + 3 * 1
        weights = re.findall(r"θ\S+ = ([^,\n]+)", start)
        assert all(re.fullmatch(r"−?(0\.[1-9]|1)", weight) for weight in weights), weights


@pytest.mark.parametrize("name", [*NETWORKS, "--sizes 4 4 1 4"])
@pytest.mark.parametrize("notation", ["1", "2", "3"])
def test_a_trace_fits_a_projector(
    name: str, notation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ([], ["--blanks"], ["--format", "markdown"]):
        assert main([*name.split(), "--notation", notation, *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        formulas = [line for line in lines if len(line) > 100 and "markdown" not in more]
        assert formulas == []
        if "markdown" in more:  # where prose and formulas are the reader's to fold
            numbers = "\n".join(lines).split("```")[1::2]
            assert max(len(line) for block in numbers for line in block.splitlines()) <= 100


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exercise_asks_for_every_number_and_answers_it(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name]) == 0
    whole = capsys.readouterr().out
    assert main([name, "--blanks"]) == 0
    sheet, answers = capsys.readouterr().out.split("\nAnswers\n")
    asked = re.findall(r"^    (\(\d+\).*) :?= \.{40}$", sheet, re.MULTILINE)
    answered = re.findall(r"^    (\(\d+\).*?) (?::?=) ", answers, re.MULTILINE)
    assert asked == answered
    assert [line.split()[0] for line in asked] == [f"({i + 1})" for i in range(len(asked))]
    for line in re.findall(r"^    (?!.*= [(\[].*, )(.*[=≈] .*)$", whole, re.MULTILINE):
        given = line in sheet
        assert given or re.search(rf"^    \(\d+\) {re.escape(line)}$", answers, re.MULTILINE), line
    _, backward = sheet.split("\nForward\n")
    assert "·" not in re.sub(r"^\S.*", "", backward, flags=re.MULTILINE)  # only in formulas
    assert "before the update and is" not in sheet
    assert "Check against autograd" not in sheet


LATEX = [("two-two-two", "1"), ("branching", "2"), ("vector-form", "3"), ("--sizes 4 2", "2")]


@pytest.mark.parametrize(("name", "notation"), LATEX)
def test_latex_is_ascii_and_every_formula_parses(
    name: str, notation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """matplotlib reads TeX's math mode: it refuses unknown commands and two superscripts."""
    from matplotlib.mathtext import MathTextParser

    assert main([*name.split(), "--notation", notation, "--format", "latex"]) == 0
    printed = capsys.readouterr().out
    assert printed.isascii()
    opened = re.findall(r"\\begin\{(\w+)\}", printed)
    assert sorted(opened) == sorted(re.findall(r"\\end\{(\w+)\}", printed))
    assert re.findall(r"(?<!\\)[_^]", re.sub(r"\$[^$]*\$", "", printed)) == []
    # What differs in its digits alone is read once: the parser takes 20 ms for a line.
    formulas = re.findall(r"\$[^$]*\$", printed.replace("\\allowbreak", ""))
    alike = {re.sub(r"\d+", "1", formula) for formula in formulas}
    assert len(alike) > 20
    parser = MathTextParser("path")
    for formula in alike:
        parser.parse(formula)


def test_latex_escapes_what_stands_in_a_title() -> None:
    printed = render.latex([render.Heading(r"runs/a_b\input{x}$x^2~#1%&")])
    assert r"runs/a\_b\textbackslash{}input\{x\}\$x\^{}2\~{}\#1\%\&" in printed


def test_html_is_one_page_that_escapes_and_loads_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["branching", "--format", "html"]) == 0
    page = capsys.readouterr().out
    assert re.findall(r"(?:src|href|url|@import)\W", page) == []
    assert "s_o = 2 · 3/4 + (−1) · 9/10 = 3/5" in page
    network = NETWORKS["branching"]
    hostile = "<script>alert(1)</script>&\"'"
    units = ((hostile,), ("i",), ("j", "k"), ("o",))
    computed = trace.compute(
        network.model(), tensor(network.x), tensor(network.y), cost=network.cost, lr=1.0
    )
    blocks = [render.Heading(hostile), *trace.story(computed, 2, units)]
    page = render.html(blocks)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 5
    parsed = Tags()
    parsed.feed(page)
    assert parsed.open == []


class Tags(HTMLParser):
    """Which elements are open, of those that must be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("notation", [1, 2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_drawn_with_every_unit_and_weight(
    name: str, notation: int, capsys: pytest.CaptureFixture[str]
) -> None:
    network = NETWORKS[name]
    n = NOTATIONS[notation](network.sizes, network.units)
    units = [n.unit(layer, u) for layer, size in enumerate(n.sizes) for u in range(size)]
    weights = [
        n.weight(layer + 1, (j, k))
        for layer, (n_in, n_out) in enumerate(pairwise(n.sizes))
        for j in range(n_out)
        for k in range(n_in)
    ]
    assert main([name, "--notation", str(notation), "--format", "svg"]) == 0
    image = ElementTree.fromstring(capsys.readouterr().out)
    svg = "{http://www.w3.org/2000/svg}"
    assert sorted(text.text or "" for text in image.iter(f"{svg}text")) == sorted(units + weights)
    assert len(list(image.iter(f"{svg}path"))) == len(weights)
    in_text = " ".join(draw.text(n)).split()
    assert sorted(word for word in in_text if not 0x2800 <= ord(word[0]) < 0x2900) == sorted(units)


def test_a_network_has_one_name_in_both_commands(capsys: pytest.CaptureFixture[str]) -> None:
    several_examples = {"minibatch", "three-descents"}
    assert set(NETWORKS) == set(EXAMPLES) - several_examples
    for name in NETWORKS:
        assert main([name]) == 0
        by_position = capsys.readouterr().out
        assert main(["--network", name]) == 0
        assert capsys.readouterr().out == by_position


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
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["branching", "--run", "x"], "not allowed with argument"),
        (["branching", "--network", "branching"], "not allowed with argument"),
        (["--run", "x", "--seed", "1"], "--seed draws the weights of a document's network"),
        (["--run", "x", "--network", "branching"], "not allowed with argument"),
        (["--seed", "-1"], "--seed -1"),
        (["--sizes", "2"], "--sizes 2: 2 to 6 layers of 1 to 4 units each expected"),
        (["--sizes", "2", "5"], "--sizes 2 5: 2 to 6 layers of 1 to 4 units each expected"),
        (["--sizes", "2", "0"], "--sizes 2 0: 2 to 6 layers of 1 to 4 units each expected"),
        (["--sizes", *"1111111"], "--sizes 1 1 1 1 1 1 1: 2 to 6 layers"),
        (["--sizes", "2", "x"], "invalid int value: 'x'"),
        (["--run", "x", "--sizes", "2", "1"], "not allowed with argument"),
        (["branching", "--format", "pdf"], "invalid choice: 'pdf'"),
        (["--run", "x", "--example", "one"], "invalid int value: 'one'"),
    ],
)
def test_wrong_usage_exits_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, as train.py leaves it."""
    return train(tmp_path_factory.mktemp("runs"), "trained")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return shutil.copytree(trained, tmp_path / "runs" / "run")


def train(runs: Path, name: str, *flags: str) -> Path:
    arguments = ["--dataset", "digits", "--epochs", "1", "--hidden", "6", "--device", "cpu", *flags]
    folder = command.main([*arguments, "--logdir", str(runs), "--run-name", name]).folder
    assert folder is not None
    return folder


def rewrite(run: Path, plan: dict[str, Any] | None = None, **entries: Any) -> Path:
    """Change entries of a run's checkpoint."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state["plan"].update(plan or {})
    torch.save({**state, **entries}, run / "checkpoint.pt")
    return run


def test_traces_what_train_py_wrote(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run", str(trained), "--example", "5", "--format", "markdown"]) == 0
    printed = capsys.readouterr().out
    assert "digits, test image 5, label" in printed
    lr = json.loads((trained / "config.json").read_text(encoding="utf-8"))["lr"]
    assert f"64-6-10 network, one example (m = 1), cost half\\_per\\_example, η = {lr:g}" in printed
    assert float(printed.split("max relative error ")[1].split()[0].replace("−", "-")) < ROUNDING


def test_the_run_is_read_as_it_was_trained(tmp_path: Path) -> None:
    """Its own cost, rate, output, data and weights, with torch.nn's layers too."""
    flags = "--hidden 5 3 --output linear --cost mean --lr 0.25 --impl builtin"
    found = read(str(train(tmp_path, "run", *flags.split())), 7)
    x, y = data.load("digits").test[7:8].batch(torch.float64)
    assert torch.equal(found.x, x)
    assert torch.equal(found.y, y)
    assert found.label == str(int(y.argmax()))
    assert (found.cost, found.lr, found.dataset) == ("mean", 0.25, "digits")
    weights = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["model"]
    kinds = [mbp.Linear, mbp.Sigmoid, mbp.Linear, mbp.Sigmoid, mbp.Linear]
    assert [type(layer) for layer in found.model] == kinds
    assert all(
        torch.equal(value, weights[name].double())
        for name, value in found.model.state_dict().items()
    )


def test_a_run_is_found_by_folder_checkpoint_name_and_as_the_latest(
    tmp_path: Path,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, second in (("first", 200), ("last", 300), ("middle", 250)):
        shutil.copytree(trained, tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / "checkpoint.pt", (second, second))
    (tmp_path / "first").mkdir()  # no run, and not in the way of one
    monkeypatch.chdir(tmp_path)
    for argument, folder in (
        ("runs/middle", "runs/middle"),
        ("runs/middle/checkpoint.pt", "runs/middle"),
        ("first", "runs/first"),
        ("latest", "runs/last"),
        (str(trained), str(trained)),
    ):
        assert main(["--run", argument]) == 0
        assert capsys.readouterr().out.startswith(f"{folder}: digits, test image 0")


def fault(run: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """The one line on stderr with which the command exits 1."""
    assert main(["--run", str(run), *more]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_no_such_run_names_those_that_are_there(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = run.parent / "missing"
    line = fault(missing, capsys)
    assert line == f"trace: error: {missing}: there is no such run; runs in {run.parent}: run\n"
    monkeypatch.chdir(tmp_path)
    assert (
        fault(Path("missing"), capsys)
        == "trace: error: missing: there is no such run; runs in runs: run\n"
    )
    shutil.rmtree("runs")
    train_one = "no runs in runs: train one first\n"
    assert (
        fault(Path("missing"), capsys)
        == f"trace: error: missing: there is no such run; {train_one}"
    )
    assert (
        fault(Path("latest"), capsys) == f"trace: error: latest: there is no such run; {train_one}"
    )
    assert "File name too long" in fault(Path("n" * 300), capsys)


@pytest.mark.parametrize("index", ["-1", "300", "99999999999999999999"])
def test_example_out_of_range(
    index: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fault(trained, capsys, f"--example={index}")
    assert f"--example {index}: the test part of digits has images 0 to 299" in line


def test_a_checkpoint_that_could_run_code_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": nn.Linear(2, 2)}, run / "checkpoint.pt")
    assert "refused: it holds objects other than tensors and plain values" in fault(run, capsys)


def test_a_truncated_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (run / "checkpoint.pt").read_bytes()
    for length in (0, 100, len(whole) // 2):
        (run / "checkpoint.pt").write_bytes(whole[:length])
        assert "checkpoint.pt: " in fault(run, capsys)


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, mbp.MLP([64, 10]).state_dict()])
def test_foreign_checkpoints(content: Any, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(content, run / "checkpoint.pt")
    assert "not a checkpoint of train.py" in fault(run, capsys)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"format": 99}, "has the checkpoint format 99, this version reads 3"),
        ({"model": [1]}, "its entry 'model' is missing or not a dict"),
        (
            {"model": {}},
            "holds nothing, which do not make the network 64-6-10 of its plan",
        ),
        ({"model": {0: 1.0}}, "holds 0, which do not make the network"),
        (
            {"model": nn.Conv2d(1, 2, 3).state_dict()},
            "holds weight, bias, which do not make the network",
        ),
        (
            {"model": mbp.MLP([64, 5, 10]).state_dict()},
            "holds 0.weight, 0.bias, 2.weight, 2.bias, which do not",
        ),
        ({"plan": {"sizes": [64, 7, 10]}}, "which do not make the network 64-7-10"),
        ({"plan": {"lr": "fast"}}, "lr 'fast'"),
        ({"plan": {"cost": "hinge"}}, "argument --cost: invalid choice: 'hinge'"),
        ({"plan": {"output": "softmax"}}, "argument --output: invalid choice: 'softmax'"),
        ({"plan": {"dataset": "letters"}}, "its data: --dataset letters: not one of"),
        ({"plan": {"data_fingerprint": "0"}}, "was trained on other digits data than these"),
    ],
)
def test_changed_checkpoints(
    entries: Any, message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fault(rewrite(run, **entries), capsys)


def test_a_folder_without_a_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoint.pt").unlink()
    assert "checkpoint.pt: missing" in fault(run, capsys)


def test_mnist_that_is_not_there_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "MNIST").write_text("in the way", encoding="utf-8")
    rewrite(run, {"data_dir": str(tmp_path / "MNIST"), "dataset": "mnist"})
    assert "mnist" in fault(run, capsys)


def test_the_module_runs_and_imports_nothing_heavy() -> None:
    """In an ASCII terminal too: the output is UTF-8."""
    code = (
        "import atexit, runpy, sys; "
        "heavy = lambda: {'torchvision', 'tensorboard', 'matplotlib', 'manual_bp.training', "
        "'manual_bp.direct'} & set(sys.modules); "
        "atexit.register(lambda: print('heavy:', sorted(heavy()))); "
        "runpy.run_module('manual_bp.trace', run_name='__main__', alter_sys=True)"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, check=False
    )
    printed = done.stdout.decode("utf-8")
    assert done.returncode == 0, done.stderr.decode()
    assert "Document 1, two-two-two" in printed
    assert "heavy: []" in printed


def test_the_rooms_table_is_a_traces(capsys: pytest.CaptureFixture[str]) -> None:
    """The run it shows is not trained in a test: its rows must at least fit one another."""
    assert main([]) == 0
    printed = capsys.readouterr().out
    table = next(block for block in PAGE.split("```") if block.strip().startswith("layer "))
    header, *rows = table.strip().splitlines()
    assert " ".join(header.split()) in " ".join(printed.split())
    figures = [[float(cell.replace("−", "-")) for cell in row.split()[3:]] for row in rows]
    assert [row.split()[1] for row in rows] == list("7654321")
    for after, (_, slope, delta, ratio, gradient) in pairwise(figures):
        assert slope <= 1 / 4
        assert gradient < after[-1]
        assert ratio == pytest.approx(delta / after[2], rel=1e-3)


def test_the_room_names_every_network() -> None:
    assert [name for name in NETWORKS if f"`{name}`" not in PAGE] == []
