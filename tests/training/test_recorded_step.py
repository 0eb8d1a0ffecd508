"""A step of the autograd engine as a CUDA graph, on tape instead of a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from manual_bp.direct.cuda_graph import Recorder
from manual_bp.training.autograd_engine import AutogradEngine, _Descent
from manual_bp.training.run import Run
from tests.direct import tape
from tests.training.test_waiting import run_of


def small(recorder: Recorder | None, *flags: str) -> Run:
    """A run on 250 examples, with a smaller last batch."""
    run = run_of("autograd", "--batch-size", "64", *flags)
    run.parts.__dict__["train"] = run.parts.train[:250]
    run.plan.__dict__["steps"] = 4
    assert isinstance(run.engine, AutogradEngine)
    run.engine._recorder = recorder
    return run


@pytest.mark.parametrize("flags", ["", "--momentum 0.5 --weight-decay 0.1", "--impl builtin"])
def test_a_replayed_step_is_the_step(flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tape.insert(monkeypatch)
    recorded, called = small(Recorder(), *flags.split()), small(None, *flags.split())
    for epoch in (1, 2):
        (row, _), (expected, _) = recorded._epoch(epoch), called._epoch(epoch)
        for tag, value in expected.items():
            if not tag.startswith("time"):
                assert row[tag] == pytest.approx(value, rel=1e-4, abs=1e-7), tag
    # Three batches of 64 and one of 58 an epoch: each shape is called once, and then recorded.
    assert [tape_.replays for tape_ in tape.Machine.tapes] == [5, 1]


def test_autograd_notices_a_replayed_step(monkeypatch: pytest.MonkeyPatch) -> None:
    tape.insert(monkeypatch)
    run = small(Recorder())
    run._epoch(1)
    run._epoch(2)
    cost = run.model(torch.rand(3, 64)).sum()
    run._epoch(3)  # of replays alone
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        cost.backward()


def test_a_gradient_that_overflowed_is_left_out() -> None:
    """GradScaler gives `found_inf`; the step itself decides, without a wait for the device."""
    W = nn.Parameter(torch.ones(3))
    descent = _Descent([W], momentum=0.5, weight_decay=0.1)
    descent.lr = 1.0
    for found in (1.0, 0.0):
        W.grad = torch.full((3,), torch.inf if found else 2.0)
        descent.found_inf = torch.tensor(found)
        descent.step()
        del descent.found_inf
        expected = 1.0 if found else 1 - 2.1
        torch.testing.assert_close(W.detach(), torch.full((3,), expected))


def test_with_fp16_no_step_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(*_: object) -> None:
        raise AssertionError("GradScaler read whether the gradient overflowed")

    monkeypatch.setattr(torch.amp.GradScaler, "_maybe_opt_step", waits)
    run = small(None, "--amp", "fp16")
    row, _ = run._epoch(1)
    assert row["cost/train"] > 0
