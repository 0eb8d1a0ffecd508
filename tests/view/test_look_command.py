"""`manual-bp look`: a run's page or a network's, and one line where there is none."""

from __future__ import annotations

import json
import math
import shutil
import sys
import webbrowser
from pathlib import Path

import pytest
import torch

import manual_bp as mbp
from manual_bp.__main__ import main
from manual_bp.view import html
from manual_bp.worked_examples.networks import NETWORKS
from tests.view.conftest import data_in


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def failed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["look", *argv]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("manual-bp look: error: ")
    return line


def test_a_run_by_its_folder_its_name_and_latest(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "runs" / "done"
    shutil.copytree(run_folder, copy)
    whole = (copy / "look.html").read_text()
    for run in (str(copy), "done", "latest"):
        (copy / "look.html").unlink()
        assert main(["look", run]) == 0
        assert capsys.readouterr().out == f"{(copy / 'look.html').as_uri()}\n"
        assert (copy / "look.html").read_text() == whole
    assert main(["look", "done", "--logdir", str(run_folder.parent), "--out", "here.html"]) == 0
    assert (tmp_path / "here.html").read_text() == whole


def test_open_opens_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda link: opened.append(link) or True)
    assert main(["look", "two-two-two", "--open"]) == 0
    assert opened == [(tmp_path / "two-two-two.html").as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda link: False)
    assert main(["look", "two-two-two", "--open"]) == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_a_documents_network(name: str, tmp_path: Path) -> None:
    network = NETWORKS[name]
    assert main(["look", name]) == 0
    page = data_in(tmp_path / f"{name}.html")
    exact = [
        value
        for i, matrix in enumerate(network.weights)
        for values in (*matrix, *([network.biases[i]] if network.biases else []))
        for value in values
    ]
    assert page["weights"] == [exact]
    assert page["bias"] == (network.biases is not None)
    assert (page["kind"], page["notation"]) == ("example", network.document)
    assert (tuple(page["x"]), tuple(page["y"])) == (network.x, network.y)
    assert page["activations"][-1] == network.output


def test_a_layer_without_bias_beside_one_with() -> None:
    model = [torch.nn.Linear(2, 1, bias=False), torch.nn.Sigmoid(), torch.nn.Linear(1, 1)]
    told = html(model, torch.ones(2), torch.ones(1))
    (numbers,) = json.loads(mbp.view.bundle.data_of(told) or "")["weights"]
    assert len(numbers) == 2 + 1 + 1 + 1
    assert numbers[2] == 0


def test_an_example_that_does_not_fit() -> None:
    model = mbp.MLP([2, 1])
    with pytest.raises(ValueError, match=r"\(2, 1\) numbers are expected"):
        html(model, torch.ones(3), torch.ones(1))
    with pytest.raises(ValueError, match="notation 4 is not one of"):
        html(model, torch.ones(2), torch.ones(1), notation=4)
    with pytest.raises(ValueError, match="reduction 'hinge'"):
        html(model, torch.ones(2), torch.ones(1), cost="hinge")
    with pytest.raises(ValueError, match="a page holds 300000"):
        html(mbp.MLP([1000, 500]), torch.ones(1000), torch.ones(500))
    with torch.no_grad():
        model[0].bias.fill_(math.nan)
    with pytest.raises(ValueError, match="not finite"):
        html(model, torch.ones(2), torch.ones(1))


def test_the_page_of_the_command_is_written_again_and_no_other_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("precious")
    assert "choose another --out" in failed(["two-two-two", "--out", str(mine)], capsys)
    assert mine.read_text() == "precious"
    assert "choose another --out" in failed(["two-two-two", "--out", str(tmp_path)], capsys)
    for name in ("two-two-two", "branching"):
        assert main(["look", name, "--out", "page.html"]) == 0
    assert data_in(tmp_path / "page.html")["name"] == "branching"
    capsys.readouterr()
    assert "No such file" in failed(["two-two-two", "--out", "gone/page.html"], capsys)


def test_one_line_where_there_is_no_run(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = failed(["nothing"], capsys)
    assert "there is no such run" in line
    assert "two-two-two" in line
    copy = tmp_path / "runs" / "cut"
    shutil.copytree(run_folder, copy)
    whole = (copy / "checkpoint.pt").read_bytes()
    for damaged in (b"", whole[:1000], b"text"):
        (copy / "checkpoint.pt").write_bytes(damaged)
        page = (copy / "look.html").read_bytes()
        assert str(copy.relative_to(tmp_path) / "checkpoint.pt") in failed(["cut"], capsys)
        assert (copy / "look.html").read_bytes() == page


def test_a_missing_extra_is_one_line(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    line = failed([str(run_folder)], capsys)
    assert line.endswith("needs sklearn.datasets: pip install 'manual_bp[train]'")


def test_other_data_are_one_line(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "runs" / "other"
    shutil.copytree(run_folder, copy)
    state = torch.load(copy / "checkpoint.pt", weights_only=True)
    state["plan"]["data_fingerprint"] = "0" * 64
    torch.save(state, copy / "checkpoint.pt")
    assert "was trained on other digits data" in failed(["other"], capsys)


HOSTILE = "<script>alert(1)<"


def test_a_hostile_run_name_is_no_script(run_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs" / HOSTILE
    shutil.copytree(run_folder, copy)
    clean = (run_folder / "look.html").read_text()
    assert main(["look", str(copy)]) == 0
    page = (copy / "look.html").read_text()
    assert page.count("<script") == clean.count("<script")
    assert HOSTILE not in page
    assert data_in(copy / "look.html")["name"] == HOSTILE


def test_a_folder_whose_name_is_no_text(run_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs" / b"\xff".decode(errors="surrogateescape")
    shutil.copytree(run_folder, copy)
    assert main(["look", "latest"]) == 0
    assert data_in(copy / "look.html")["name"] == "?"
