"""`python -m manual_bp.verify`: its arguments, its output, its exit status."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import manual_bp as mbp
from manual_bp.verify.__main__ import main
from manual_bp.verify.inputs import parse_inputs

SOURCE = """
import torch
from torch.autograd import Function

class Forgets(Function):
    @staticmethod
    def forward(ctx, x, weight, mode):
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        return g @ weight, -g.t() @ x, None

def right(x, weight, mode):
    return x @ weight.t()

def off(x, weight, mode):
    return x @ weight.t() + 1
"""


@pytest.fixture
def ops(tmp_path):
    path = tmp_path / "some_ops.py"
    path.write_text(SOURCE)
    return str(path)


def test_without_arguments_everything_of_ours_is_right(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    for name in (
        "linear:",
        "linear without bias:",
        "sigmoid:",
        "mse_loss half_per_example:",
        "mse_loss none:",
    ):
        assert f"{name} ok" in out
    assert out.count("jvp, vmap") == out.count("note: measured on float64 copies")
    assert "not offered" not in out


def test_an_operation_of_ours_without_vmap_is_a_finding(capsys, monkeypatch):
    monkeypatch.setattr(
        mbp.functional, "sigmoid", lambda x: x.sigmoid() * (1.0 if x.sum().item() < 1e9 else 2.0)
    )
    assert main([]) == 1
    assert "vmap-wrong  forward\n    vmap is not offered" in capsys.readouterr().out


def test_the_checker_imports_nothing_of_ours_but_the_list_of_operations():
    """The list is imported inside the function that checks the package's own operations."""
    terminal = {"manual_bp.console", "manual_bp.escape"}  # of no operation
    found = [
        (path.name, statement.col_offset > 0, statement.module)
        for path in sorted(Path(main.__code__.co_filename).parent.rglob("*.py"))
        for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(statement, ast.ImportFrom)
        and re.match(r"manual_bp(?!\.verify)", statement.module or "")
        and not {f"{statement.module}.{name.name}" for name in statement.names} <= terminal
        and statement.module not in terminal
    ]
    assert found == [("__main__.py", True, "manual_bp.own_operations")]


def test_somebodys_function_and_its_fault(ops, capsys):
    inputs = "randn(4,3) randn(5,3) plain"
    assert main([f"{ops}:Forgets", "--inputs", inputs]) == 1
    out = capsys.readouterr().out
    assert "sign-flip  weight" in out
    assert main([f"{ops}:right", "--inputs", inputs, "--reference", f"{ops}:right"]) == 0
    assert main([f"{ops}:right", "--inputs", inputs, "--reference", f"{ops}:off"]) == 1
    assert "forward-wrong" in capsys.readouterr().out


def test_json(ops, capsys):
    assert main([f"{ops}:Forgets", "--inputs", "randn(4,3) randn(5,3) plain", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["kind"] == "sign-flip"


def test_a_module_by_its_import_path(capsys):
    assert main(["torch.nn.functional:cross_entropy", "--inputs", "randn(4,3) randint(3,4)"]) == 0
    assert "target" not in capsys.readouterr().out.split("max abs")[1].split("ok:")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py:F", "--inputs", "randn(3)"], "nowhere.py: no such file"),
        (["torch:nothing_such", "--inputs", "randn(3)"], "torch has no nothing_such"),
        (["no_such_module:F", "--inputs", "randn(3)"], "ModuleNotFoundError"),
        (["torch", "--inputs", "randn(3)"], "expected MODULE_OR_FILE:NAME"),
        (["torch:sin"], "no inputs given"),
        (["manual_bp.verify.load"], "add :NAME, one of load"),
        (["torch:sin", "--inputs", "randn(3"], "cannot read 'randn(3'"),
        (["torch:sin", "--inputs", "eval(3)"], "eval(3) is not known"),
        (["torch:sin", "--inputs", "randn(a)"], "sizes must be integers"),
        (["torch:sin", "--inputs", "arange!(3)"], "integers have no gradient"),
        (["torch:pi", "--inputs", "randn(3)"], "float is not callable"),
        (["--inputs", "randn(3)"], "--inputs needs a MODULE_OR_FILE:NAME"),
        (["torch.nn:Linear", "--inputs", "randn(3)"], "module class"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, message, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_file_without_a_name_lists_what_could_be_meant(ops, capsys):
    assert main([ops]) == 2
    assert f"add :NAME, one of Forgets, right, off, as in {ops}:Forgets" in capsys.readouterr().err


def test_arguments_that_do_not_fit_are_answered_with_what_it_takes(ops, capsys):
    assert main([f"{ops}:Forgets", "--inputs", "randn(4,3)"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "Called with x 4×3. It takes x, weight, mode. If that is not the call you meant, mend the "
        "inputs" in out
    )


@pytest.mark.slow
def test_a_crash_of_the_process_loses_no_finding(tmp_path):
    path = tmp_path / "aborts.py"
    path.write_text(
        SOURCE.replace(
            "return x @ weight.t()\n\n    @",
            "return (x.numel() or os.abort()) and x @ weight.t()\n\n    @",
        ).replace("import torch", "import os\nimport torch", 1)
    )
    command = [sys.executable, "-m", "manual_bp.verify", f"{path}:Forgets", "--inputs"]
    environment = {**os.environ, "PYTHONPATH": str(Path(mbp.__file__).parents[1])}
    ended = subprocess.run(
        [*command, "randn(4,3) randn(5,3) plain"], capture_output=True, text=True, env=environment
    )
    assert ended.returncode == 1
    assert "sign-flip  weight" in ended.stdout
    assert "it is ended by SIGABRT in: batch of 0" in ended.stdout


def test_inputs_as_python_would_have_them():
    a, b = parse_inputs("torch.randn(4, 3), torch.randn(2,3)", torch.float32, 0)
    assert (tuple(a.shape), tuple(b.shape)) == ((4, 3), (2, 3))


def test_the_language_of_inputs():
    text = (
        "randn(2,3) rand(4), ones() zeros(2) randint(5, 6) arange(3) 3 -0.5 1e-3 None "
        'True mean "two words" ones!(2)'
    )
    a, b, c, d, e, f, *rest, asked = parse_inputs(text, torch.float64, 0)
    assert [tuple(t.shape) for t in (a, b, c, d, e, f)] == [(2, 3), (4,), (), (2,), (6,), (3,)]
    assert a.dtype == torch.float64
    assert not a.requires_grad
    assert asked.requires_grad
    assert e.dtype == torch.int64
    assert int(e.max()) < 5
    assert rest == [3, -0.5, 1e-3, None, True, "mean", "two words"]
    assert torch.equal(a, parse_inputs("randn(2,3)", torch.float64, 0)[0])


def test_inputs_of_a_kind():
    text = "psd(4) probabilities(3,5) sorted(8) unit(3,4) bool(6) rand(50)*6-3 randint(3,50)+1"
    psd, p, ascending, rows, flags, wide, counts = parse_inputs(text, torch.float64, 0)
    assert torch.equal(psd, psd.mT)
    assert float(torch.linalg.eigvalsh(psd)[0]) > 0
    assert torch.allclose(p.sum(-1), torch.ones(3).double())
    assert bool((ascending.diff() > 0).all())
    assert torch.allclose(rows.norm(dim=-1), torch.ones(3).double())
    assert flags.dtype == torch.bool
    assert -3 <= float(wide.min()) < 0 < float(wide.max()) <= 3
    assert sorted(counts.unique().tolist()) == [1, 2, 3]


def test_given_numbers_lists_and_tuples():
    text = "tensor(0, 2) tensor!(0., -1.5e1) tensor(1, 2; 3, 4), [randn(2), (3, mean)], (2, 2) []"
    whole, floating, rows, mixed, pair, empty = parse_inputs(text, torch.float32, 0)
    assert whole.tolist() == [0, 2]
    assert whole.dtype == torch.int64
    assert floating.tolist() == [0.0, -15.0]
    assert floating.requires_grad
    assert rows.tolist() == [[1, 2], [3, 4]]
    assert mixed[0].shape == (2,)
    assert mixed[1:] == [(3, "mean")]
    assert (pair, empty) == ((2, 2), [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[randn(3)", "a [ that is not closed"),
        ("randn(3)]", "a ] that closes nothing"),
        ("(randn(3)]", "a ] that closes nothing"),
        ("psd()", "expected sizes"),
        ("tensor(a)", "expected numbers"),
        ("tensor(1, 2; 3)", "different lengths"),
        ("arange!(3)", "no gradient"),
        ("[" * 9, "lists in each other"),
    ],
)
def test_inputs_that_cannot_be_read(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_inputs(text, torch.float32, 0)


def test_a_relative_import_is_told_the_package(tmp_path, capsys):
    path = tmp_path / "inner.py"
    path.write_text("from .other import f\n")
    assert main([f"{path}:f", "--inputs", "randn(3)"]) == 2
    assert "name it so: PACKAGE.inner:NAME" in capsys.readouterr().err
