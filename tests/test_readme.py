"""What the READMEs show is what happens: their code runs, their commands run, their links lead on.

A page is read from top to bottom, in an empty folder of its own:

    ```python   runs; a block that begins with `# name.py` is saved under that name first
    ```bash     each line is a command; EXCEPTIONS names those that are not run, with the reason
    ```         what the block before it prints: the end for python, a part of what the last command
                prints for bash

`python train.py` takes one step on the bundled digits here, whatever the page asks for, and one
epoch where the run has a name, because later blocks may read it.
"""

from __future__ import annotations

import contextlib
import doctest
import inspect
import io
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import manual_bp as mbp
import train
from tests.correctness.mutants import MUTANTS

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT)
    for found in ("README.md", "manual_bp/**/README.md", "tests/**/README.md")
    for path in ROOT.glob(found)
)
README = Path("README.md")
MINIATURE = ["--dataset", "digits", "--epochs", "1"]  # what a `python train.py` runs as here

# Commands that no test here runs, by how they begin, and why.
EXCEPTIONS = {
    "python -m pip install": "installs 6 GB; .ci/run does it",
    "python -m pytest": "this is it",
    "tensorboard": "serves until it is stopped",
    "torchrun": "tests/training/test_distributed.py runs it",
    "python train.py --compile": "compiles for a minute; tests/training/test_engine.py runs it",
    "python -m manual_bp.bench": "takes minutes; tests/test_bench.py runs it on little data",
    "python -m manual_bp.trace --run deep": "traces a run of minutes on MNIST; test_trace.py "
    "holds its table together",
    "python -m tests.cuda": "measures on a GPU; tests/cuda/test_block.py runs it without one",
    "python -m tests.correctness": "writes the block that stands below it",
}  # fmt: skip
# Likewise, of commands that stand in a sentence alone.
IN_SENTENCES = {
    'pip install -e ".[bench]"': "installs JAX",
    "manual-bp train": "is `python train.py` where the package is installed",
    "python -m tests.training.logging_cost": "measures for minutes",
    "python -m tests.view.page_cost": "trains on MNIST",
    "python tests/verify/seconds.py": "measures for a minute",
    "python -m pytest -m cuda": "needs a GPU",
}
WITH_EXAMPLE = {
    "Linear", "Sigmoid", "MSELoss", "MLP", "LinearFunction", "SigmoidFunction", "MSELossFunction",
    "convert", "conversion", "converted", "to_torch", "functional.linear", "functional.sigmoid",
    "functional.mse_loss", "verify.check", "direct.backward",
}  # fmt: skip


def text(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: Path) -> list[tuple[str, str, bool]]:
    """Each fenced block: its language, its text, and whether only blank lines, or a comment, stand
    between the block before it and this one.
    """
    found, end = [], 0
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text(page), re.DOTALL | re.MULTILINE):
        between = re.sub(r"<!--.*?-->", "", text(page)[end : match.start()], flags=re.DOTALL)
        found.append((match[1], match[2], not between.strip()))
        end = match.end()
    return found


def without_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", text(page), flags=re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[str]:
    """The command lines of a bash block, without comments; `a && b` is two commands."""
    lines = [re.split(r"\s+#", line)[0].strip() for line in block.splitlines()]
    return [command.strip() for line in lines if line for command in line.split("&&")]


def exception(command: str) -> str | None:
    return next((why for begins, why in EXCEPTIONS.items() if command.startswith(begins)), None)


def run(command: str) -> str:
    """Run a command in this process, as the shell would. Returns what it prints."""
    program, *arguments = shlex.split(command)
    assert program == "python", f"{command}: not a command that a test can run"
    main: Callable[..., Any]
    if arguments[0] == "train.py":
        main, arguments = train.main, arguments[1:]
        if "--help" not in arguments:
            named = "--run-name" in arguments or "--resume" in arguments
            arguments += MINIATURE if named else [*MINIATURE, "--dry-run"]
    elif arguments[0] == "-m":
        main, arguments = import_module(f"{arguments[1]}.__main__").main, arguments[2:]
    else:
        raise AssertionError(f"{command}: not a command that a test can run")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            status = main(arguments)
        except SystemExit as stopped:
            status = stopped.code
    assert not isinstance(status, int) or status in (0, 1), f"{command}: exit status {status}"
    return printed.getvalue()


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:  # my_ops.py of one page is not another page's
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=str)
@pytest.mark.usefixtures("empty_folder")
def test_a_page_does_what_it_shows(page: Path) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    printed: str | None = None  # by the block before
    by_python = False  # by a python block
    for language, block, follows in blocks(page):
        if language == "python" and block.startswith("@staticmethod"):
            printed = None  # a quotation
        elif language == "python":
            saved = re.match(r"# (\w+\.py)\n", block)
            if saved:
                Path(saved[1]).write_text(block, encoding="utf-8")
            out = io.StringIO()
            with contextlib.redirect_stdout(out), torch.random.fork_rng():
                exec(compile(block, str(page), "exec"), names)
            printed, by_python = out.getvalue(), True
        elif language == "bash":
            printed, by_python = None, False
            for line in commands(block):
                if line.startswith("python train.py"):  # its flags exist, though it is not run
                    train_flags(line)
                printed = run(line) if exception(line) is None else None
        elif language == "" and follows and printed is not None:
            there = printed.endswith(block) if by_python else block in printed
            assert there, f"{page} shows\n{block}\nand the block above prints\n{printed}"
        else:
            assert language == "", f"{page}: a block of {language}"


def train_flags(command: str) -> None:
    from manual_bp.training.options import parse

    arguments = shlex.split(command)[2:]
    if "--help" not in arguments:
        parse(arguments)


def test_every_exception_is_needed() -> None:
    shell = [block for page in PAGES for language, block, _ in blocks(page) if language == "bash"]
    every = [command for block in shell for command in commands(block)]
    assert len(every) > 20
    assert [b for b in EXCEPTIONS if not any(command.startswith(b) for command in every)] == []


def test_a_command_in_a_sentence_stands_in_a_block_too() -> None:
    """Up to its first placeholder: `python -m manual_bp.trace NAME`."""
    shell = [block for page in PAGES for language, block, _ in blocks(page) if language == "bash"]
    every = [command for block in shell for command in commands(block)]
    for page in PAGES:
        prose = without_blocks(page)
        for named in re.findall(r"`((?:python|pip|manual-bp|tensorboard|torchrun) [^`]+)`", prose):
            begins = re.split(r" [A-Z…]", named)[0]
            there = any(command.startswith(begins) for command in every)
            assert there or begins in IN_SENTENCES, f"{page}: {named}"


def test_the_results_are_of_flags_that_exist() -> None:
    rows = re.findall(r"^\| `(--[^`]+)`", text(Path("manual_bp/training/README.md")), re.MULTILINE)
    assert len(rows) > 3
    for flags in rows:
        train_flags(f"python train.py {flags}")


def public() -> Iterator[tuple[str, Any]]:
    """The names that a user calls: those of the package, and those of its rooms."""
    for name in mbp.__all__:
        found = getattr(mbp, name)
        if not inspect.ismodule(found):
            yield name, found
            continue
        for own in getattr(found, "__all__", []):
            if callable(getattr(found, own)):
                yield f"{name}.{own}", getattr(found, own)


@pytest.mark.parametrize("name", [name for name, _ in public()])
def test_help_opens_with_a_formula_or_a_sentence(name: str) -> None:
    """And where it gives an example, as the names of WITH_EXAMPLE do, the example is true."""
    thing = dict(public())[name]
    first = (inspect.getdoc(thing) or "").splitlines()[0]
    assert re.search(r"[.:=)]", first), f"help({name}) opens with {first!r}"
    globs = dict(vars(sys.modules[thing.__module__]))
    (found,) = doctest.DocTestFinder(recurse=False).find(thing, name, globs=globs)
    assert found.examples or name not in WITH_EXAMPLE
    assert doctest.DocTestRunner().run(found).failed == 0


def test_the_backward_of_linear_is_quoted() -> None:
    _, quoted, _ = blocks(README)[0]
    assert quoted == textwrap.dedent(inspect.getsource(mbp.LinearFunction.backward))


def test_the_readme_is_short() -> None:
    assert len(text(README).splitlines()) <= 220
    assert len(text(README).encode()) <= 14_000


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_prose_fits_100_columns(page: Path) -> None:
    """But tables, pictures, and what a program wrote."""
    prose = re.sub(r"<!-- (.*?) -->.*?<!-- /\1 -->", "", without_blocks(page), flags=re.DOTALL)
    wide = [line for line in prose.splitlines() if len(line) > 100]
    assert [line for line in wide if not line.startswith(("|", "!["))] == []


def anchors(page: Path) -> set[str]:
    """The anchors that a code host makes of the headings."""
    prose = without_blocks(page)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    prose = without_blocks(page)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", prose) if "://" not in link]
    for link in links:
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.resolve().relative_to(ROOT)), link


def test_the_readme_names_every_room() -> None:
    house = text(README).split("## The house\n")[1].split("\n## ")[0]
    assert [page for page in PAGES if page != README and f"({page.as_posix()})" not in house] == []


def test_the_speed_table_is_part_of_the_rooms() -> None:
    """µs a step, row by row, as `python -m manual_bp.bench` printed them."""
    section = text(README).split("## Speed\n")[1].split("\n## ")[0]
    header, _, *rows = [line for line in section.splitlines() if line.startswith("|")]
    contenders = [cell.strip() for cell in header.strip("|").split("|")][1:]
    room = text(Path("manual_bp/bench/README.md"))
    assert len(rows) == 4
    for row in rows:
        configuration, *shown = [cell.strip() for cell in row.strip("|").split("|")]
        table = room.split(f"\n{configuration} ")[1].split("\n\n")[0].splitlines()
        for contender, cell in zip(contenders, shown, strict=True):
            (line,) = [line for line in table if line.startswith(f"  {contender}  ")]
            assert line.removeprefix(f"  {contender}").split()[2] == cell, (
                configuration,
                contender,
            )


def test_the_results_are_part_of_the_rooms() -> None:
    section = text(README).split("## Train\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    room = text(Path("manual_bp/training/README.md"))
    assert len(rows) > 2
    for command, accuracy, seconds in rows[1:]:
        name = command.split("(")[0].strip() or "(the defaults)"
        assert any(
            line.startswith(f"| {name} ") and f"| {accuracy.strip()}" in line
            and line.endswith(f"|{seconds}|")
            for line in room.splitlines()
        ), command  # fmt: skip


def test_the_count_of_wrong_versions_is_todays() -> None:
    count = f"{len(MUTANTS)} wrong versions of the code"
    assert count in text(README)
    assert f"\n{count}, 0 survivors." in text(Path("tests/correctness/README.md"))
