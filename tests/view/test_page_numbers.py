"""The page's mathematics against autograd, and its wording against `trace`'s."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from manual_bp.backprop import read
from manual_bp.notation import NOTATIONS
from manual_bp.pencil import rounded, text
from manual_bp.trace.blocks import Step
from manual_bp.trace.passes import compute
from manual_bp.trace.telling import story
from manual_bp.view import bundle
from manual_bp.worked_examples.networks import NETWORKS
from tests.view import pages

pytestmark = pytest.mark.browser
IMAGES = 6  # of a page's, whose numbers are fetched: they take seconds on their way here

# The vectors of `look.pass`; of each ∂C/∂W how far its entries are from δ a_prevᵀ, as given. The
# matrix itself would take seconds on its way here.
NUMBERS = """({ epoch, given }) => given.map((own, image) => {
  const { x, y, cost, layers } = look.pass({ epoch, image });
  return { x, y, cost, layers: layers.map(({ z, a, error, slope, delta, dW, db }, l) => {
    const { delta: left, before: right } = own[l];
    let worst = dW.length === left.length ? 0 : Infinity;
    dW.forEach((row, j) => {
      if (row.length !== right.length) worst = Infinity;
      for (let i = 0; i < row.length; i++) {
        const far = Math.abs(row[i] - left[j] * right[i]);
        if (!(far <= worst)) worst = far;
      }
    });
    return { z, a, error, slope, delta, db, worst };
  }) };
})"""


def by_autograd(layers: list[Any], x: Tensor, y: Tensor) -> tuple[float, list[Any]]:
    """C, and each layer's tensors: error, δ and the gradients are autograd's."""
    a, seen, wanted = x, [], []
    for W, b, sigmoid in layers:
        before, z = a, a @ W.T + b
        a = torch.sigmoid(z) if sigmoid else z * 1
        slope = a * (1 - a) if sigmoid else torch.ones_like(a)
        seen.append({"before": before, "z": z, "a": a, "slope": slope})
        wanted += [a, z, W, b]
    cost = ((a - y) ** 2).sum() / 2
    found = torch.autograd.grad(cost, wanted)
    for i, own in enumerate(seen):
        own |= dict(zip(("error", "delta", "dW", "db"), found[4 * i : 4 * i + 4], strict=True))
    return float(cost.detach()), [{name: t.detach() for name, t in own.items()} for own in seen]


def assert_close(ours: Any, exact: Tensor) -> None:
    """The same to 10⁻⁵ of the largest entry."""
    far = (torch.as_tensor(ours, dtype=torch.float64) - exact).abs().max()
    assert float(far) <= 1e-5 * float(exact.abs().max())


@pytest.mark.parametrize(
    ("hidden", "output", "epochs"),
    [
        ((30,), "sigmoid", 3),
        ((30,), "linear", 3),
        ((30,) * 6, "sigmoid", 3),
        pytest.param((800, 30), "sigmoid", 2, marks=pytest.mark.slow),
    ],
    ids=["small", "linear", "deep", "wide"],
)
def test_every_number_equals_autograd(
    open_page: Any, hidden: tuple[int, ...], output: str, epochs: int
) -> None:
    data = pages.run(hidden, output, epochs)
    page = open_page(data)
    assert page.evaluate("[look.epochs, look.images]") == [data["epochs"], pages.IMAGES]
    x, y = pages.inputs(data), torch.eye(10, dtype=torch.float64)[data["labels"]]
    x, y = x[:IMAGES], y[:IMAGES]
    for epoch, model in enumerate(pages.models(hidden, output, epochs)):
        layers = [
            (*(t.detach().double().requires_grad_() for t in (p.weight, p.bias)), p.sigmoid)
            for p in read(model)
        ]
        exact = [by_autograd(layers, *pair) for pair in zip(x, y, strict=True)]
        names = ("delta", "before")
        given = [[{name: p[name].tolist() for name in names} for p in own] for _, own in exact]
        found = page.evaluate(NUMBERS, {"epoch": epoch, "given": given})
        assert len(found) == IMAGES
        for i, (done, (cost, expected)) in enumerate(zip(found, exact, strict=True)):
            assert_close(done["x"], x[i])
            assert_close(done["y"], y[i])
            assert_close([done["cost"]], torch.tensor([cost]))
            for ours, own in zip(done["layers"], expected, strict=True):
                for name in ("z", "a", "error", "slope", "delta", "db"):
                    assert_close(ours[name], own[name])
                assert_close(torch.outer(own["delta"], own["before"]), own["dW"])
                assert ours["worst"] <= 1e-5 * float(own["dW"].abs().max())


def test_a_pass_has_the_promised_shape(open_page: Any) -> None:
    done = open_page(pages.run()).evaluate("look.pass({ epoch: 1, image: 3 })")
    assert sorted(done) == ["cost", "layers", "x", "y"]
    assert [sorted(layer) for layer in done["layers"]] == [
        ["a", "dW", "db", "delta", "error", "slope", "z"]
    ] * 2
    assert [(len(p["dW"]), len(p["dW"][0])) for p in done["layers"]] == [(30, 784), (10, 30)]


def module(name: str, code: str) -> str:
    """A function with the page's module `name` at hand as `m`."""
    return f"(given) => {{ {bundle._script(name)}\nconst m = ${name};\nreturn {code}; }}"


@pytest.fixture(scope="module")
def blank(browser: Any) -> Any:
    context = browser.new_context(offline=True)
    yield context.new_page()
    context.close()


def test_numbers_are_written_as_trace_writes_them(blank: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    powers = 10.0 ** torch.randint(-9, 9, (500,), generator=generator)
    values = (torch.randn(500, generator=generator, dtype=torch.float64) * powers).tolist()
    values += [0.0, -0.0, 1.0, -0.046875, 0.28125, 0.28135, 2.5, 9999.5, 0.00009999, 0.00012345]
    found = blank.evaluate(module("numbers", "given.map((v) => m.number(v))"), values)
    assert found == [text(rounded(value)) for value in values]


@pytest.mark.parametrize("document", [1, 2, 3])
def test_formulas_are_those_of_the_documents(blank: Any, document: int) -> None:
    for sizes in ([784, 128, 10], [1, 1, 1], [2, 2, 2], [3, 12, 4, 1]):
        theirs = NOTATIONS[document](sizes)
        for layer in range(1, len(sizes)):
            expected = theirs.formulas(layer, bias=True, sigmoid=True)
            if layer == theirs.last:
                expected["error"] = theirs.output_error("half_per_example")
            found = blank.evaluate(
                module("notation", "m.notation(...given.n).formulas(given.layer, true, true)"),
                {"n": [document, sizes], "layer": layer},
            )
            assert found == {key: expected[key] for key in found}


def unit_lines(page: Any) -> list[str]:
    return [line.inner_text() for line in page.locator(".line .filled").all()]


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_units_lines_are_those_of_trace(open_page: Any, name: str) -> None:
    network = NETWORKS[name]
    page = open_page(pages.example(name))
    x, y = torch.tensor(network.x), torch.tensor(network.y)
    told = compute(network.model(), x, y, cost=network.cost, lr=network.lr)
    steps = story(told, network.document, network.units)
    expected = {line for step in steps if isinstance(step, Step) for line in step.lines}
    for node in page.locator(".node:not(.input)").all():
        node.click()
        for line in unit_lines(page):
            assert line in expected


def wording(line: str) -> str:
    """A line without its numbers."""
    return re.sub(r"\(?−?\d[\d.]*(e−?\d+)?\)?", "#", line).replace("≈", "=")


def recomputed(line: str) -> tuple[float, float]:
    """What a line's printed operands give, and what is printed."""
    filled, _, value = line.replace("≈", "=").rpartition(" = ")
    code = re.sub(r"\[\d+ smaller terms: (\S+)\]", r"(\1)", filled.rpartition(" = ")[2])
    code, value = (t.replace("−", "-").replace("·", "*") for t in (code, value))
    return eval(code, {"σ": lambda z: 1 / (1 + math.exp(-z))}), float(value)


def test_a_runs_lines_are_worded_as_traces_and_a_pencil_confirms_them(open_page: Any) -> None:
    data = pages.run(classes=None)
    page = open_page(data)
    (*_, model), x = pages.models((30,), "sigmoid", 3), pages.inputs(data)
    page.locator('[data-part="gallery"] button[aria-label^="Image 4:"]').click()
    y = torch.nn.functional.one_hot(torch.tensor(data["labels"][4]), 10)
    steps = story(compute(model, x[4], y, cost="half_per_example", lr=0.5))
    expected = {wording(t) for step in steps if isinstance(step, Step) for t in step.lines}
    page.locator('[data-part="net"]').focus()
    for key in (*["ArrowUp"] * 9, "PageUp"):  # to unit 1 of layer 2, then of layer 1
        page.keyboard.press(key)
        lines = unit_lines(page)
        assert len(lines) == 6
        if key == "PageUp":
            assert {wording(line) for line in lines[:5]} <= expected
        for line in lines:
            found, printed = recomputed(line)
            unit = 10.0 ** (math.floor(math.log10(abs(found))) - 3)  # of the fourth digit
            assert abs(found - printed) <= 0.501 * unit, line
