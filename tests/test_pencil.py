"""A pencil confirms a trace: each printed line is recomputed from the operands printed in it.

The arithmetic here reads the text alone. It evaluates with 80 digits and λ = ln 3, and rounds by
its own rule; it shares no code with `manual_bp.pencil`.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Context, Decimal, localcontext
from itertools import pairwise
from typing import Any

import pytest
import torch

import manual_bp as mbp
from manual_bp import trace
from manual_bp.trace.__main__ import main
from manual_bp.worked_examples import NETWORKS, Network, two_two_two

KINDS = {
    "heading", "drawing", "formula", "given", "arithmetic", "whole", "copied", "in words", "norm",
    "table heading", "prose", "measured",
}  # fmt: skip
SEEDS = (None, 0, 1, 2, 3, 4)  # None: the document's own weights
LAMBDA = Decimal(3).ln(Context(prec=80))
DOTS = {chr(0x2800 + bits) for bits in range(256)}  # of a drawing
ALMOST = Decimal("1e-60")  # of what is evaluated with 80 digits


@pytest.fixture(autouse=True)
def eighty_digits() -> Any:
    with localcontext() as context:
        context.prec = 80
        yield


def sigma(z: Decimal) -> Decimal:
    return 1 / (1 + (-z).exp())


def value(text: str) -> Decimal:
    """What a person reads: 3/4 · (−2λ), [(0.75 − 1)² + …], σ(1.099), 7.677e−5."""
    text = re.sub(r"\[\d+ smaller terms: ([^\]]+)\]", r"(\1)", text)
    text = text.translate(str.maketrans("−·[]", "-*()")).replace("σ", "sigma")
    text = re.sub(r"\d+(?:\.\d+)?(?:e-?\d+)?", r"D('\g<0>')", text)
    text = text.replace(")λ", ")*L").replace("λ", "L").replace("²", "**2")
    names = {"D": Decimal, "L": LAMBDA, "sigma": sigma}
    return Decimal(eval(text, {"__builtins__": {}}, names))


def to_four_digits(exact: Decimal) -> Decimal:
    """Four digits from the first that is not 0; a half goes away from 0."""
    if exact == 0:
        return exact
    unit = Decimal(10) ** (exact.adjusted() - 3)
    half = Decimal("0.5").copy_sign(exact)
    return (exact / unit + half).to_integral_value(ROUND_DOWN) * unit


def as_written(filled: str) -> Decimal:
    """The four digits of what the operands give; those of 1 − a for an a of a sigmoid above ½."""
    exact = value(filled)
    above = filled.startswith("σ") and exact > Decimal("0.5")
    return 1 - to_four_digits(1 - exact) if above else to_four_digits(exact)


def agrees(line: str) -> bool:
    """Whether `name = operands = result`, with `≈ decimals` after it or not, is right."""
    _, _, filled, sign, result, *decimals = re.split(r" (:=|=|≈) ", line)
    exact, told = value(filled), value(result)
    if decimals or sign == "=":  # = is exact, in fractions and λ too
        right = sign == "=" and abs(exact - told) < ALMOST
    else:
        right = as_written(filled) == told != exact
    if decimals:
        short = to_four_digits(exact)
        right &= value(decimals[1]) == short
        right &= decimals[0] == ("=" if abs(exact - short) < ALMOST else "≈")
    return right


def members(text: str) -> list[Decimal]:
    """0.5, (0.75, 0.25), [[1, 2], [3, 4]]; of a shortened vector those that are shown."""
    shown = re.sub(r", … \d+ more\).*", "", text)
    return [value(member) for member in re.sub(r"^[(\[]+|[\[\]]|\)$", "", shown).split(", ")]


@dataclass
class Read:
    """A printed trace. Each of its lines falls under one of `KINDS`, and is checked there."""

    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    steps: list[tuple[str, list[Decimal]]] = field(default_factory=list)  # formula, results
    given: list[Decimal] = field(default_factory=list)  # x, y, then W and b, unit by unit
    scale: Decimal = Decimal(1)  # s of C = s Σ (a − y)²
    tables: list[list[list[str]]] = field(default_factory=list)
    prose: str = ""

    def judge(self, kind: str, line: str, right: bool) -> None:
        self.kinds[kind] += 1
        self.wrong += [] if right else [f"{kind}: {line}"]

    def step(self, formula: str, lines: list[str]) -> None:
        results: list[Decimal] = []
        for line in lines:
            name, _, first, *rest = re.split(r"(?:^| )(:=|=|≈) ", line)
            if formula.startswith("input"):
                given = re.sub(r"\S+ = ", "", line)
                self.given += members(given)
                self.judge("given", line, not set("·σ") & set(given))
            elif shown := re.search(r" × .* largest (\S+) at", first):
                self.judge("shortened", line, value(shown[1]) in results)
            elif not name or ", " in first:  # a whole vector or matrix: its entries stand above
                entries = results or self.steps[-2][1]  # ∂C/∂b is δ, two steps above
                right = members(first) == entries[: len(members(first))]
                if rest:
                    right &= members(rest[1]) == [to_four_digits(entry) for entry in entries]
                self.judge("whole", line, right)
            elif rest:
                if "²" in first and "[" in first:
                    self.scale = value(first.split(" · [")[0]) if " · [" in first else Decimal(1)
                self.judge("arithmetic", line, agrees(line))
                results.append(value(rest[1]))
            else:  # a linear unit: a is z, and its slope is 1
                right = (
                    first == "1" if formula.endswith(" = 1") else value(first) in self.steps[-1][1]
                )
                self.judge("copied", line, right)
                results.append(value(first))
        self.steps.append((formula, results))


def read(printed: str) -> Read:
    found = Read()
    printed = re.sub(r"\n {8}(?=\S)", " ", printed)  # long lines in one piece again
    for block in printed.strip("\n").split("\n\n"):
        first, *rest = block.split("\n")
        if rest and set(rest[0]) == {"─"}:
            found.kinds["heading"] += 2
        elif set(block) & DOTS:
            found.kinds["drawing"] += len(rest) + 1
        elif rest and all(line.startswith("    ") for line in rest):
            found.kinds["formula"] += 1
            found.step(re.split(r"  +", first)[0], [line.strip() for line in rest])
        elif first.startswith(("layer  ", "gradient ")):
            found.kinds["table heading"] += 1
            found.tables.append([re.split(r"  +", line) for line in rest])
        else:
            found.kinds["prose"] += len(rest) + 1
            found.prose += " ".join((first, *rest)) + "\n"
    return found


def check_words(found: Read) -> None:
    """The numbers that stand in no step: the costs in a sentence, the table of norms."""
    sizes = [int(n) for n in found.prose.split(" network, ")[0].split("\n")[-1].split("-")]
    layers = len(sizes) - 1
    forward, rest = found.steps[1 : 2 * layers + 2], found.steps[2 * layers + 2 :]
    (_, (cost,)) = forward[-1]
    told = re.search(r" = (\S+) before the update and is (\S+) after it", found.prose)
    assert told is not None
    found.judge("in words", told[0], value(told[1]) == to_four_digits(cost))
    # After the update: with W and b as they are printed, unit by unit.
    updates = [step for formula, step in rest if ":=" in formula]
    biased = len(updates) == 2 * layers
    a, y = found.given[: sizes[0]], found.given[sizes[0] : sizes[0] + sizes[-1]]
    for layer, (n_in, n_out) in enumerate(pairwise(sizes)):
        W = updates.pop(0)
        z = updates.pop(0) if biased else [Decimal()] * n_out
        z = [sum((W[n_in * j + k] * a[k] for k in range(n_in)), z[j]) for j in range(n_out)]
        a = [sigma(v) for v in z] if "e^" in forward[2 * layer + 1][0] else z
    squares = sum(((v - u) ** 2 for v, u in zip(a, y, strict=True)), Decimal())
    found.judge("in words", told[0], value(told[2]) == to_four_digits(found.scale * squares))
    # The norms: of the vectors and the matrix as they are printed, the last layer's first.
    norms, errors_of_float64 = found.tables
    found.kinds["measured"] += len(errors_of_float64)
    after: Decimal | None = None
    steps = iter([step for formula, step in rest if ":=" not in formula])
    for _, error, mean, delta, *ratio, dW in norms:
        errors, slopes, deltas, dWs = (next(steps) for _ in range(4))
        if biased:
            next(steps)  # ∂C/∂b is δ
        for told_norm, numbers in ((error, errors), (delta, deltas), (dW, dWs)):
            norm = to_four_digits(sum((v * v for v in numbers), Decimal()).sqrt())
            found.judge("norm", f"{told_norm} of {numbers}", value(told_norm) == norm)
        average = to_four_digits(sum(slopes, Decimal()) / len(slopes))
        found.judge("norm", f"mean slope {mean}", value(mean) == average)
        if ratio:
            assert after is not None
            right = value(ratio[0]) == to_four_digits(value(delta) / after)
            found.judge("norm", f"ratio {ratio[0]}", right)
        after = value(delta)


@pytest.mark.parametrize("notation", ["1", "2", "3"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_pencil_confirms_every_line(
    name: str, notation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in SEEDS:
        drawn = [] if seed is None else ["--seed", str(seed)]
        assert main([name, "--notation", notation, *drawn]) == 0
        printed = capsys.readouterr().out
        found = read(printed)
        check_words(found)
        assert found.wrong == []
        assert set(found.kinds) <= KINDS
        network = NETWORKS[name] if seed is None else NETWORKS[name].drawn(seed)
        assert [float(number) for number in found.given] == pytest.approx(
            numbers(network), rel=1e-15
        )
        # Nothing that looks like arithmetic went by unread.
        computed = re.findall(r"^    .* [·−] .*[=≈] ", printed, re.MULTILINE)
        assert len(computed) <= found.kinds["arithmetic"] + found.kinds["whole"]


def numbers(network: Network) -> list[float]:
    """What a trace starts from, in the order in which it is listed."""
    listed = [*network.x, *network.y]
    for i, matrix in enumerate(network.weights):
        for j, row in enumerate(matrix):
            listed += [*row, *([network.biases[i][j]] if network.biases else [])]
    return listed


@pytest.mark.parametrize("seed", [*map(str, range(5))])
def test_a_pencil_confirms_networks_of_any_size(
    seed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for sizes in ("1 1", "2 3 1", "4 4 4", "3 2 4 1 2 1"):
        for notation in "123":
            assert main(["--sizes", *sizes.split(), "--seed", seed, "--notation", notation]) == 0
            found = read(capsys.readouterr().out)
            check_words(found)
            assert found.wrong == []


@pytest.mark.parametrize("seed", range(5))
def test_a_pencil_confirms_what_is_shown_of_a_wide_network(seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = mbp.MLP([30, 20, 6], output="linear" if seed % 2 else "sigmoid")
        printed = trace.text(model, torch.rand(30), torch.rand(6), cost="mean", lr=0.3)
    found = read(printed)
    assert [line for line in found.wrong if "arithmetic" in line] == []
    assert "smaller terms" in printed
    assert found.kinds["arithmetic"] > 20


@pytest.mark.parametrize("seed", [None, 7])
def test_one_wrong_digit_in_any_line_is_seen(
    seed: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    network = NETWORKS["vector-form"] if seed is None else NETWORKS["vector-form"].drawn(seed)
    assert main(["vector-form", *([] if seed is None else ["--seed", str(seed)])]) == 0
    lines, spoilt = capsys.readouterr().out.splitlines(), 0
    for i, line in enumerate(lines):
        numeric = line.startswith(("    ", "layer 1 (2→2)  ", "The cost")) and not set(line) & DOTS
        if numeric and (digits := [*re.finditer(r"\d", line)]):
            last = digits[-1]
            digit = "8" if last[0] == "9" else str(int(last[0]) + 1)
            wrong = f"{line[: last.start()]}{digit}{line[last.end() :]}"
            found = read("\n".join([*lines[:i], wrong, *lines[i + 1 :]]))
            check_words(found)
            right_start = [float(number) for number in found.given] == numbers(network)
            assert found.wrong or not right_start, wrong
            spoilt += 1
    assert spoilt > 60


def test_a_pencil_confirms_every_path() -> None:
    for partial in two_two_two().partials:
        *chains, filled, result = str(partial).splitlines()
        assert len(chains) == len(partial.paths)
        assert agrees(f"{partial.symbol} {filled.strip()} {result.strip()}")
        assert max(map(len, (*chains, filled, result))) <= 100
