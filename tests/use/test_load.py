"""`mbp.load` gives the network that a run trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import manual_bp as mbp
from manual_bp.training.errors import UserError


@pytest.mark.parametrize("given", ["folder", "checkpoint", "name", "latest"])
def test_load_gives_the_trained_network(given: str, digits: Path) -> None:
    names = {"folder": digits, "checkpoint": digits / "checkpoint.pt"}
    model = mbp.load(names.get(given, "digits" if given == "name" else given), digits.parent)
    assert type(model) is mbp.MLP
    assert not model.training
    saved = torch.load(digits / "checkpoint.pt", weights_only=True)["model"]
    assert model.state_dict().keys() == saved.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[name])


def test_a_run_that_is_not_there_is_said_with_those_that_are(digits: Path) -> None:
    with pytest.raises(UserError, match=r"digitz: there is no such run; runs in .*: digits$"):
        mbp.load("digitz", digits.parent)


def test_a_builtin_run_loads_as_an_mlp(tmp_path: Path) -> None:
    from manual_bp.training.command import main

    flags = "--dataset digits --hidden 5 --epochs 0 --impl builtin --output linear --run-name b"
    result = main([*flags.split(), "--logdir", str(tmp_path)])
    model = mbp.load("b", tmp_path)
    x = torch.rand(3, 64)
    assert [type(layer) for layer in model] == [mbp.Linear, mbp.Sigmoid, mbp.Linear]
    torch.testing.assert_close(model(x), result.model(x))
