"""Gradients that are not the derivative on purpose: asked about, declared, held to their word."""

from __future__ import annotations

import pytest
import torch
from gallery import make

from manual_bp.verify import check, meant, watch


def round_(ctx, x):
    ctx.save_for_backward(x)
    return x.round()


def spike(ctx, x):
    ctx.save_for_backward(x)
    return (x > 0).to(x.dtype)


def same(ctx, x):
    return x.view_as(x)


def fast_sigmoid(ctx, g):
    return g / (1 + 5 * ctx.saved_tensors[0].abs()) ** 2


def within(ctx, g):
    return g * (ctx.saved_tensors[0].abs() < 1)


ASKED = {
    "straight-through": make("Round", round_, lambda ctx, g: g),
    "straight-through in a range": make("RoundWithin", round_, within),
    "surrogate": make("Spike", spike, fast_sigmoid),
    "reversed": make("Reverse", same, lambda ctx, g: -0.5 * g),
    "scaled": make("Scale", same, lambda ctx, g: 0.1 * g),
    "clipped": make("Clip", same, lambda ctx, g: g.clamp(-0.7, 0.7)),
}
X = torch.linspace(-2.2, 2.3, 12).reshape(4, 3)


@pytest.mark.parametrize("name", ASKED)
def test_what_may_be_meant_is_a_question(name):
    word = name.split()[0]
    report = check(ASKED[name], (X,))
    assert not report.ok
    assert not report.findings, report
    assert [q.kind for q in report.questions] == [word]
    assert report.verdict == f"{word}? (x)"
    assert f"is this meant?  {word}  x" in str(report)
    assert f'@verify.meant("{word}")' in " ".join(str(report).split())
    assert report.checks["second backward"] == "ok"  # it hides nothing
    strict = check(ASKED[name], (X,), strict=True)
    assert strict.findings
    assert not strict.questions


@pytest.mark.parametrize("name", ASKED)
def test_what_is_declared_is_ok(name):
    declared = meant(name.split()[0])(type(name, (ASKED[name],), {}))
    report = check(declared, (X,))
    assert report.ok, report
    assert report.rows[0].verdict == f"ok ({name.split()[0]}, as declared)"
    with watch() as seen:
        declared.apply(X.clone().requires_grad_())
    assert seen.report().ok


@pytest.mark.parametrize(
    ("word", "forward", "backward"),
    [
        ("straight-through", round_, lambda ctx, g: 2 * g),
        ("reversed", same, lambda ctx, g: 0.5 * g),
        ("scaled", same, lambda ctx, g: -0.5 * g),
        ("clipped", same, lambda ctx, g: g.clamp(-0.7, 0.7) * 1.5),
        ("surrogate", spike, lambda ctx, g: g.abs()),
    ],
)
def test_what_is_declared_is_held_to_it(word, forward, backward):
    (finding,) = check(meant(word)(make("Declared", forward, backward)), (X,)).findings
    assert finding.kind == "wrong-values"
    assert f"declared as {word}" in finding.detail


def test_a_derivative_that_is_right_may_be_declared_all_the_same():
    assert check(meant("scaled")(make("Same", same, lambda ctx, g: g)), (X,)).ok


def test_a_flipped_sign_of_another_function_is_no_question():
    flipped = make("Flipped", lambda ctx, x: x * 3, lambda ctx, g: -3 * g)
    assert [f.kind for f in check(flipped, (X,)).findings] == ["sign-flip"]


def test_an_argument_that_is_not_used_is_no_surrogate():
    unused = make("Unused", lambda ctx, x, y: x * 2, lambda ctx, g: (2 * g, g))
    report = check(unused, (X, X.clone()))
    assert report.findings
    assert not report.questions


def test_a_word_that_is_not_known():
    with pytest.raises(ValueError, match="expected one of straight-through"):
        meant("whatever")


def test_an_argument_whose_twin_is_returned_is_asked_about():
    stitched = make("Stitched", lambda ctx, x, y: y.clone(), lambda ctx, g: (g, None))
    report = check(stitched, (X.clone().requires_grad_(), X + 1))
    assert [q.kind for q in report.questions] == ["straight-through"], report
    assert not report.findings


def test_a_jump_at_every_element_is_asked_about():
    step = make(
        "Step",
        lambda ctx, x: (ctx.save_for_backward(x), (x > 0).to(x))[1],
        lambda ctx, g: g / (1 + ctx.saved_tensors[0] ** 2),
    )
    assert [q.kind for q in check(step, torch.zeros(3)).questions] == ["straight-through"]
    assert check(torch.relu, torch.zeros(3)).ok
