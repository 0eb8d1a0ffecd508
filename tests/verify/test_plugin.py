"""`pytest --verify-functions`: what it finds and leaves out; without it nothing."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import pytest
import torch
from torch.autograd import Function

class Good(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()

class Wrong(Good):
    @staticmethod
    def backward(ctx, g):
        return -g * ctx.saved_tensors[0].cos()

class Meant(Wrong):
    pass

class Unheard(Wrong):
    pass

taken = Wrong.apply

@pytest.mark.parametrize("n", [2, 3])
def test_runs(n):
    x = torch.randn(n, requires_grad=True)
    (Good.apply(x) + taken(x) + Meant.apply(x)).sum().backward()

@pytest.mark.unverified(reason="it is another's")
def test_left_out():
    Unheard.apply(torch.randn(3, requires_grad=True))
"""


@pytest.fixture
def suite(pytester):
    pytester.makepyfile(test_them=TESTS)
    pytester.makeini("[pytest]\nunverified =\n    Me*nt: reversed on purpose\n")
    return pytester


def run(suite, *options):
    installed = any(e.name == "manual_bp_verify" for e in entry_points(group="pytest11"))
    plugin = () if installed else ("-p", "manual_bp.verify.plugin")
    return suite.runpytest_subprocess(*plugin, "-p", "no:cacheprovider", "-W", "error", *options)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_a_suite_is_listened_to(suite, workers):
    result = run(suite, "--verify-functions", *workers)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "Good *test_them.py:* 2×  ok",
            "Meant *test_them.py:* 2×  left out: reversed on purpose",
            "Wrong *test_them.py:* 2×  sign-flip (x)",
        ]
    )
    assert "Unheard" not in result.stdout.str()
    assert "minimising with it climbs" in result.stdout.str()
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_nothing_happens_without_the_option(pytester):
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_imported():
            assert "torch" not in sys.modules
            assert "manual_bp.verify.recorder" not in sys.modules
        """
    )
    result = run(pytester)
    result.assert_outcomes(passed=1)
    assert "autograd Functions" not in result.stdout.str()


def test_with_the_option_a_suite_without_torch_stays_without_it(pytester):
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_imported():
            assert "torch" not in sys.modules
        """
    )
    result = run(pytester, "--verify-functions")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["no autograd Function ran"])


def test_a_reason_must_be_given(pytester):
    pytester.makepyfile("def test_nothing():\n    pass\n")
    pytester.makeini("[pytest]\nunverified = Meant\n")
    result = run(pytester, "--verify-functions")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "expected NAME: reason" in result.stderr.str()


@pytest.mark.slow
def test_a_check_that_ends_the_process_takes_nothing_that_was_said(pytester):
    pytester.makepyfile(
        """
        import os
        import torch
        from torch.autograd import Function

        class Able(Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, g):
                return -g

        class Breaks(Able):
            @staticmethod
            def forward(ctx, x):
                if x.dtype == torch.float64:  # as the check gives it
                    os._exit(11)
                return x.clone()

        def test_them():
            for cls in (Breaks, Able):
                cls.apply(torch.randn(3, requires_grad=True))
        """
    )
    result = run(pytester, "--verify-functions")
    assert result.ret == 11
    result.stdout.fnmatch_lines(["*1 passed in *", "*autograd Functions*", "Able *reversed?*"])
