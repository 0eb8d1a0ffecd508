"""What `convert` does to other people's models, and what other people's tools do with ours.

`python -m tests.correctness.third_party` prints two tables; `--write FILE` puts them between the
markers there. A package that is not installed gives a line that says so, and no failure.

A model is compared with its torch.nn original: the output in training and in evaluation bit for
bit, the gradients of each module within 16 rounding units. A tool runs five times: on torch.nn, on
the converted model, on that after `to_torch`, and on the converted one with the derivative of the
Linear or of the Sigmoid poisoned, which shows whether it ran.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import importlib.util
import io
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import manual_bp as mbp
from manual_bp import LinearFunction, SigmoidFunction
from tests.correctness import compare
from tests.correctness.poison import poisoned
from tests.correctness.readme import write
from tests.correctness.third_party_models import MODELS, Model
from tests.correctness.third_party_tools import TOOLS, Outcome, Tool, network

Grads = dict[str, Tensor | None]
Ran = tuple[list[Tensor], Grads, list[Tensor]]


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@dataclass(frozen=True)
class Converted:
    """One row of the first table."""

    counts: str
    left: str
    gradients: str
    verdict: str


def _tensors(output: object) -> list[Tensor]:
    """The differentiable tensors in what a forward gave."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    parts = list(output.values()) if isinstance(output, dict) else output
    return [t for p in parts for t in _tensors(p)] if isinstance(parts, list | tuple) else []


def _ran(model: nn.Module, inputs: dict[str, Tensor]) -> Ran:
    """The outputs in training, each parameter's gradient, the outputs in evaluation."""
    torch.manual_seed(0)
    np.random.seed(0)  # the generator of transformers' masks
    outputs = [t for t in _tensors(model.train()(**inputs)) if t.requires_grad]
    torch.autograd.backward(outputs, [torch.randn_like(t) for t in outputs])
    gradients = {name: p.grad for name, p in model.named_parameters()}
    with torch.no_grad():
        return outputs, gradients, _tensors(model.eval()(**inputs))


def _agree(ours: Grads, theirs: Grads) -> str:
    """How many gradients are bit-equal; those of one module must agree to rounding.

    A module's gradients are compared together: the true gradient of some biases is 0, and what is
    computed is nothing but rounding.
    """
    assert [n for n, g in ours.items() if g is None] == [n for n, g in theirs.items() if g is None]
    pairs = {n: (ours[n], g) for n, g in theirs.items() if g is not None}
    for owner in {name.rpartition(".")[0] for name in pairs}:
        mine = [pair for name, pair in pairs.items() if name.rpartition(".")[0] == owner]
        a, b = (torch.cat([g.flatten() for g in side]) for side in zip(*mine, strict=True))
        compare.agree(a, b, zero=not bool(b.count_nonzero()))
    equal = sum(torch.equal(a, b) for a, b in pairs.values())
    return f"{equal} of {len(pairs)}"


def convert(row: Model) -> Converted:
    """Convert the model and compare it with the original."""
    try:
        torch.manual_seed(0)
        theirs = row.make()
        ours = mbp.convert(copy.deepcopy(theirs))
        expected = _ran(theirs, row.inputs)
    except Exception as error:
        return Converted("-", "-", "-", f"FAIL on torch.nn itself: {_said(error)}")
    found = mbp.conversion(ours)
    counts = ", ".join(f"{n} {kind}" for kind, n in found.converted.items()) or "none"
    reasons = Counter(found.left.values())
    left = "; ".join(f"{n} × {why}" for why, n in reasons.items()) or "nothing"
    try:
        gradients = _compare(ours, row.inputs, expected, found.left)
    except Exception as error:
        return Converted(counts, left, "-", f"FAIL: {_said(error)}")
    return Converted(counts, left, gradients, "PASS")


def _compare(ours: nn.Module, inputs: dict[str, Tensor], expected: Ran, left: Iterable[str]) -> str:
    """Run the converted model; raise where it differs, or where `left` keeps something back."""
    layers = {n: m for n, m in ours.named_modules() if type(m) is mbp.Linear}
    called: set[str] = set()
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _module, _inputs, name=name: called.add(name))
    seen = _ran(ours, inputs)
    for a, b in zip(seen[0] + seen[2], expected[0] + expected[2], strict=True):
        compare.same(a, b, zero=not bool(b.count_nonzero()))
    named = tuple("" if name == "the model" else f"{name}." for name in left)
    for name, layer in layers.items():
        if name not in called and layer.weight.grad is not None and not name.startswith(named):
            raise AssertionError(f"{name} is not called, and `left` does not say so")
    return _agree(seen[1], expected[1])


def _said(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0][:120]
    return line if isinstance(error, AssertionError) else f"{type(error).__name__}: {line}"


POISONED = {"Linear": LinearFunction, "Sigmoid": SigmoidFunction}
VARIANTS = ("torch.nn", "converted", "to_torch", *POISONED)


def _outcome(tool: Tool, variant: str) -> Outcome | str:
    """What the tool gives on one variant of the network, or the error it raised."""
    model = network()
    if variant != "torch.nn":
        mbp.convert(model)
    if variant == "to_torch":
        mbp.to_torch(model)
    state = poisoned(POISONED[variant]) if variant in POISONED else contextlib.nullcontext()
    try:
        with state, contextlib.redirect_stdout(io.StringIO()):
            return [t.detach().clone() for t in tool.use(model)]
    except Exception as error:
        return _said(error)


def _work(rank: int, folder: str) -> None:
    quiet()
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/met", rank=rank, world_size=2)
    tools = [tool for tool in TOOLS if tool.distributed]
    found = {(t.name, variant): _outcome(t, variant) for t in tools for variant in VARIANTS}
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may outlive the group


@cache
def _distributed() -> dict[tuple[str, str], Outcome | str]:
    """Every distributed tool on every variant, with two processes, as process 0 has it."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_work, args=(folder,), nprocs=2)
        found: dict[tuple[str, str], Outcome | str] = torch.load(Path(folder) / "found.pt")
    return found


def _differs(seen: Outcome | str, expected: Outcome) -> str | None:
    """How an outcome differs from that on torch.nn; None where it does not."""
    if isinstance(seen, str):
        return seen
    for a, b in zip(seen, expected, strict=True):
        try:
            compare.agree(a, b, zero=not bool(b.count_nonzero()))
        except AssertionError as error:
            if a.shape != b.shape or not bool(b.count_nonzero()):
                return str(error)
            off = float((a - b).abs().max() / b.abs().max())
            return f"off by {off:.2%} of the largest element"
    return None


@cache
def judge(tool: Tool) -> tuple[str, str]:
    """The verdict, and which of the hand-derived backward passes ran."""
    found = {v: _distributed()[tool.name, v] if tool.distributed else None for v in VARIANTS}
    found = {v: _outcome(tool, v) if seen is None else seen for v, seen in found.items()}
    expected = found["torch.nn"]
    if isinstance(expected, str):
        return f"FAIL on torch.nn itself: {expected}", "-"
    difference = _differs(found["converted"], expected)
    back = _differs(found["to_torch"], expected)
    if back is not None:
        return f"FAIL: after to_torch: {back}", "-"
    if difference is not None:
        why = tool.why and f"needs to_torch: {tool.why} ({difference})"
        return why or f"FAIL: {difference}", "-"
    ran = [v for v in POISONED if _differs(found[v], expected) is not None]
    return "PASS", ", ".join(ran) or ("none" if "gradients" in tool.compared else "-")


def quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def tables() -> str:
    """Both tables as Markdown, with the versions."""
    packages = dict.fromkeys(row.package for row in (*MODELS, *TOOLS))
    here = [f"{p} {importlib.metadata.version(p)}" for p in packages if installed(p)]
    lines = [f"{', '.join(here)}; {machine()}.", ""]
    lines += [
        _line("package", "model", "converted", "left alone", "gradients bit-equal", "verdict")
    ]
    lines += ["|---|---|---|---|---|---|"]
    for model in MODELS:
        if not installed(model.package):
            lines.append(_line(model.package, model.name, "-", "-", "-", "not installed"))
            continue
        row = convert(model)
        cells = (row.counts, row.left, row.gradients, row.verdict)
        lines.append(_line(model.package, model.name, *cells))
    lines += ["", _line("tool", "compared with torch.nn", "verdict", "our backward ran")]
    lines += ["|---|---|---|---|"]
    for tool in TOOLS:
        verdict = judge(tool) if installed(tool.package) else ("not installed", "-")
        lines.append(_line(tool.name, tool.compared, *verdict))
    return "\n".join(lines)


def machine() -> str:
    cores, gpu = len(os.sched_getaffinity(0)), torch.cuda.is_available()
    return f"{cores} cores, {torch.cuda.get_device_name() if gpu else 'no GPU'}"


if __name__ == "__main__":
    quiet()
    torch.set_num_threads(1)
    write("third party", tables(), sys.argv[1:])
