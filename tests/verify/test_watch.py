"""A whole program is listened to: what runs is recorded, nothing is changed, and all is checked."""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import sys
import types

import pytest
import torch
import torch.utils.checkpoint
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from manual_bp.verify import check, survey, watch
from manual_bp.verify.__main__ import main
from manual_bp.verify.apply import listening_to
from manual_bp.verify.recorder import RUNS, Recorder

PROGRAM = """
import sys
import torch
from torch.autograd import Function

class Scaled(Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(x)
        ctx.factor = factor
        return x * factor

    @staticmethod
    def backward(ctx, g):
        return g * ctx.factor, None

class Doubled(Scaled):
    @staticmethod
    def backward(ctx, g):
        return 2 * g * ctx.factor, None

torch.manual_seed(3)
x = torch.randn(4, 3, requires_grad=True)
which = Doubled.apply if "wrong" in sys.argv else Scaled.apply
for _ in range(3):
    (which(x, 0.5) * torch.rand(4, 3)).sum().backward()
print(__name__, sys.argv[1:], x.grad.flatten().tolist(), torch.rand(1).item())
if "fail" in sys.argv:
    sys.exit(7)
if "raise" in sys.argv:
    raise KeyError("mine")
"""


class Scaled(Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x * factor

    @staticmethod
    def backward(ctx, g):
        return g * ctx.factor, None


class Doubled(Scaled):
    @staticmethod
    def backward(ctx, g):
        return 2 * g * ctx.factor, None


scaled = Scaled.apply  # taken before anybody listens


class Holder:
    scaled = staticmethod(Scaled.apply)


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return str(path)


def plainly(program, *arguments):
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", [program, *arguments])
        runpy.run_path(program, run_name="__main__")
    return out.getvalue()


def test_a_program_prints_what_it_would_have_and_its_functions_are_checked(program, capsys):
    plain = plainly(program, "a", "--seed", "3")
    argv, path = list(sys.argv), list(sys.path)
    assert main(["--watch", program, "a", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(plain)
    assert "Scaled  " in out
    assert "program.py:13  3×  ok" in out
    assert (sys.argv, sys.path) == (argv, path)


def test_a_finding_is_told_with_the_line_that_called(program, capsys):
    assert main(["--watch", program, "wrong"]) == 1
    out = capsys.readouterr().out
    assert "program.py:18  3×  constant-factor (x)" in out
    assert "2 times the derivative" in out
    assert "program.py:26, written in" in out


@pytest.mark.parametrize(
    ("argument", "said"), [("fail", "ended with 7"), ("raise", "raised KeyError")]
)
def test_a_program_that_fails_is_looked_at_and_not_ok(program, argument, said, capsys):
    assert main(["--watch", program, argument]) == 3
    out, err = capsys.readouterr()
    assert "3×  ok" in out
    assert f"the program itself {said}" in err
    assert "runpy" not in err


def test_a_program_is_told_where_it_lies_as_python_tells_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "where.py").write_text("import sys\nprint([__file__, sys.argv[0], sys.path[0]])")
    monkeypatch.chdir(tmp_path)
    assert main(["--watch", "where.py"]) == 0
    here = os.path.realpath(tmp_path)
    assert str([os.path.join(here, "where.py"), "where.py", here]) in capsys.readouterr().out


def test_wrong_usage_of_watch(capsys):
    assert main(["--watch"]) == 2
    assert main(["--watch", "nowhere.py"]) == 2
    assert "--watch nowhere.py: expected script.py" in capsys.readouterr().err


def test_json_of_a_program(program, capsys):
    assert main(["--json", "--watch", program, "wrong"]) == 1
    out = capsys.readouterr().out
    content = json.loads(out[out.index("{") :])
    (line,) = content["lines"]
    assert line["verdict"] == "constant-factor (x)"
    assert line["report"]["findings"][0]["kind"] == "constant-factor"


def test_what_was_taken_before_is_heard_and_put_back():
    before = scaled, vars(Holder)["scaled"], Function.__dict__["apply"]
    with watch() as seen:
        scaled(torch.randn(3, requires_grad=True), 2.0)
        Holder.scaled(torch.randn(3, requires_grad=True), 2.0)
    assert (scaled, vars(Holder)["scaled"], Function.__dict__["apply"]) == before
    (line,) = seen.report().lines
    assert (line.name, line.calls, line.verdict) == ("Scaled", 2, "ok")


def test_the_arguments_are_kept_as_they_were():
    base = torch.arange(24.0).reshape(4, 6)
    given = base.t()[:, ::2].requires_grad_()
    wide = torch.ones(1, 3).expand(5, 3)
    with listening_to(Recorder()) as recorder:
        scaled(given, 0.5)
        with torch.no_grad():
            given.zero_()
        scaled(wide, 0.5)
    first, second = next(iter(recorder.found.values())).runs.values()
    assert first.args[0].stride() == given.stride()
    assert first.args[0].requires_grad
    assert first.grad
    assert "test_watch.py" in first.site
    assert torch.equal(first.args[0], torch.arange(24.0).reshape(4, 6).t()[:, ::2])
    assert first.args[1] == 0.5
    assert second.args[0].stride() == (0, 1)
    assert second.args[0].untyped_storage().nbytes() == 12


def test_a_call_that_asks_for_a_gradient_takes_the_place_of_one_that_does_not():
    with listening_to(Recorder()) as recorder:
        for n in range(1, 6):
            scaled(torch.randn(n), 2.0)
        scaled(torch.randn(9, requires_grad=True), 2.0)
    runs = next(iter(recorder.found.values())).runs.values()
    assert len(runs) == RUNS
    assert [run.grad for run in runs].count(True) == 1


def test_recording_holds_a_bounded_number_of_bytes():
    with watch(limit=1000) as seen:
        for n in (200, 100, 60, 50, 40):
            scaled(torch.randn(n, requires_grad=True), 2.0)
    recorded = next(iter(seen.recorder.found.values()))
    assert [len(run.args[0]) for run in recorded.runs.values()] == [100, 60, 40]
    assert seen.recorder.held == 800
    with watch(limit=1000) as seen:
        scaled(torch.randn(200, requires_grad=True), 2.0)
    survey = seen.report()
    assert not survey.ok
    assert "not checked: its arguments take 0 MiB" in str(survey)


def test_torchs_own_functions_are_left_out_and_named_from_torch():
    with watch() as seen:
        torch.utils.checkpoint.CheckpointFunction.apply(
            torch.sin, True, torch.randn(3, requires_grad=True)
        )
    (line,) = seen.report().lines
    assert line.verdict == "left out: torch's own"
    assert line.place.startswith(os.path.join("torch", "utils", "checkpoint.py:"))


def test_a_check_that_fails_hides_no_other(monkeypatch):
    def failing(target, args, **options):
        if target is Scaled:
            raise RuntimeError("no\nluck")
        return check(target, args, **options)

    monkeypatch.setattr(survey, "check", failing)
    with watch() as seen:
        for cls in (Scaled, Doubled):
            cls.apply(torch.randn(3, requires_grad=True), 2.0)
    other, line = seen.report(skip=("batch-sizes", "double-backward")).lines
    assert other.verdict == "constant-factor (x)"
    assert line.verdict == "not checked: the check raised RuntimeError: no"
    assert line.status == "incomplete"


def test_left_out_with_a_reason():
    with watch() as seen:
        scaled(torch.randn(3, requires_grad=True), 2.0)
    survey = seen.report(leave_out={"Sca*": "it is slow"})
    assert survey.ok
    assert "left out: it is slow" in str(survey)


class Recomputed(Function):
    """Takes a method of a module, and the module's parameters so that autograd knows of them."""

    factor = 1.0

    @staticmethod
    def forward(ctx, run, x, *parameters):
        ctx.run = run
        ctx.save_for_backward(x, *parameters)
        with torch.no_grad():
            return run(x)

    @classmethod
    @once_differentiable
    def backward(cls, ctx, g):
        x, *parameters = ctx.saved_tensors
        given = [x.detach().requires_grad_(x.requires_grad), *parameters]
        wanted = [t for t in given if t.requires_grad]
        with torch.enable_grad():
            out = ctx.run(given[0])
        found = dict(zip(map(id, wanted), torch.autograd.grad(out, wanted, g), strict=True))
        first, *rest = (found.get(id(t)) for t in given)
        return None, first, *(None if r is None else cls.factor * r for r in rest)


class RecomputedWrongly(Recomputed):
    factor = 0.5


class Shifted(torch.nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
        self.register_buffer("shift", torch.ones(2))

    def forward(self, x):
        return (super().forward(x) + self.shift).tanh()


def test_a_module_among_the_arguments_holds_the_parameters_beside_it():
    module = Shifted()
    x = torch.randn(4, 3, requires_grad=True)
    with watch() as seen:
        Recomputed.apply(module.forward, x, *module.parameters())
        RecomputedWrongly.apply(module, x, *module.parameters())
    with torch.no_grad():
        module.weight.fill_(torch.nan)  # as a training goes on
    right, wrong = seen.report(skip=("layouts", "batch-sizes")).lines
    assert right.verdict == "ok", right.report
    assert [row.tensor for row in right.report.rows] == ["x", "input 2", "input 3"]
    assert wrong.verdict == "constant-factor (input 2) and 1 more"
    assert right.report.notes[0] == "measured on float64 copies of the float32 inputs"
    assert module.shift.dtype == torch.float32


@pytest.mark.skipif(
    not isinstance(scaled, types.BuiltinMethodType),
    reason="before torch 2.14 the compiler refuses an apply that was taken before the recording",
)
def test_what_torch_compile_traces_is_not_changed():
    torch._dynamo.reset()

    def function(x):
        return scaled(x, 2.0) + Scaled.apply(x, 3.0)

    x = torch.randn(3, requires_grad=True)
    with watch():
        out = torch.compile(function, backend="eager", fullgraph=True)(x)
    assert torch.equal(out, function(x))


def test_inside_a_transform_is_said():
    class Square(Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, g):
            return 2 * g * ctx.saved_tensors[0]

    with watch() as seen:
        torch.vmap(Square.apply)(torch.randn(3, 2))
    assert "not checked: it runs inside a transform of torch.func" in str(seen.report())


@torch.library.custom_op("verify_watch::twice", mutates_args=())
def twice(x: torch.Tensor, factors: list[torch.Tensor], by: float) -> torch.Tensor:
    return x * factors[0] * by


def _twice_context(ctx, inputs, output):
    x, factors, ctx.by = inputs
    ctx.save_for_backward(x, factors[0])


def _twice_backward(ctx, g):
    x, factor = ctx.saved_tensors
    return g * factor * ctx.by, [g * x * ctx.by], None


twice.register_autograd(_twice_backward, setup_context=_twice_context)


def test_an_operator_of_torch_library_is_named_by_its_schema():
    with watch() as seen:
        twice(torch.randn(3, requires_grad=True), [torch.randn(3)], 2.0)
    (line,) = seen.report().lines
    assert (line.name, line.verdict) == ("verify_watch.twice.default", "ok")
    report = check(twice, (torch.randn(3), [torch.randn(3)], 2.0))
    assert report.ok, report
    assert report.name == "verify_watch::twice"
    assert [row.tensor for row in report.rows] == ["x", "factors[0]"]
    assert report.checks["jvp"] == "not offered"


def batched(out_dim):
    class Square(Function):
        @staticmethod
        def forward(x):
            return x * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, g):
            return 2 * g * ctx.saved_tensors[0]

        @staticmethod
        def vmap(info, in_dims, x):
            return Square.apply(x.movedim(in_dims[0], 0)), out_dim

    return lambda x: Square.apply(x.sin())


def test_the_rules_of_a_function_inside_are_checked():
    assert check(batched(0), (torch.randn(4, 3),)).ok
    report = check(batched(7), (torch.randn(4, 3),))
    assert [(f.kind, f.tensor.endswith("Square.x")) for f in report.findings] == [
        ("vmap-wrong", True)
    ]


def test_the_rule_for_a_tangent_of_a_function_inside_is_checked():
    class Cube(Function):
        @staticmethod
        def forward(x):
            return x**3

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx, g):
            return 3 * g * ctx.saved_tensors[0] ** 2

        @staticmethod
        def jvp(ctx, t):
            raise RuntimeError("not today")

    report = check(lambda x: Cube.apply(x).cos(), (torch.randn(4, 3),))
    assert [f.kind for f in report.findings] == ["crash"], report
    assert report.findings[0].tensor.endswith("Cube.x")
