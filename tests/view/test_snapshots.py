"""Which epochs a run keeps the weights of, and what is refused as the snapshots of a run."""

from __future__ import annotations

import base64
import copy
import itertools
import struct
from collections.abc import Callable
from typing import Any

import pytest
import torch

from manual_bp.view.snapshots import MOST, Snapshots, base64_of, capacity, thinned


def epochs_after(epochs: int, most: int) -> list[int]:
    """What is kept of a run of so many epochs, epoch by epoch."""
    kept: list[int] = []
    for epoch in range(epochs + 1):
        kept = thinned([*kept, epoch], most)
    return kept


@pytest.mark.parametrize("most", range(2, MOST + 1))
def test_a_run_of_any_length_keeps_its_first_and_last_epoch_and_few_between(most: int) -> None:
    for epochs in (0, 1, 2, 3, 10, 11, 12, 13, 60, 300):
        kept = epochs_after(epochs, most)
        assert kept[0] == 0
        assert kept[-1] == epochs
        assert kept == sorted(set(kept))
        assert len(kept) == min(most, epochs + 1)


def test_the_first_epochs_lie_close_together() -> None:
    kept = epochs_after(300, MOST)
    assert kept[:3] == [0, 1, 2]
    gaps = [(1 + b) / (1 + a) for a, b in itertools.pairwise(kept)]
    assert max(gaps[:-1]) < 3  # no hole: each epoch but the last is at most 3 times the one before


def test_what_is_kept_follows_from_the_list_and_not_from_when_a_run_was_cut() -> None:
    kept = epochs_after(20, MOST)
    for epoch in range(21, 61):
        kept = thinned([*kept, epoch], MOST)
    assert kept == epochs_after(60, MOST)


@pytest.mark.parametrize(
    ("sizes", "most"),
    [
        ([784, 30, 10], 12),
        ([784, 128, 10], 12),
        ([784, 800, 30, 10], 2),
        ([784, 1024, 1024, 10], 0),
    ],
)
def test_a_large_network_keeps_fewer(sizes: list[int], most: int) -> None:
    parameters = sum(n_out * (n_in + 1) for n_in, n_out in itertools.pairwise(sizes))
    assert capacity(parameters) == most


def test_one_snapshot_is_the_last_and_none_is_none() -> None:
    assert epochs_after(5, 1) == [5]
    assert epochs_after(5, 0) == []


def test_the_text_is_float32_little_endian_row_by_row() -> None:
    weights = torch.tensor([[1.5, -2.0], [0.1, 3e-40]]).t()  # not contiguous
    numbers = struct.unpack("<4f", base64.b64decode(base64_of(weights)))
    assert numbers == tuple(weights.flatten().tolist())


def snapshots() -> Snapshots:
    new = Snapshots(3)
    for epoch in (0, 1, 2):
        new.add(epoch, {"0.weight": torch.tensor([[1.0, 2.0]]) + epoch, "0.bias": torch.zeros(1)})
    return new


def test_a_snapshot_is_a_copy_and_comes_back_from_a_checkpoint() -> None:
    weight = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    new = Snapshots(3)
    new.add(0, {"0.weight": weight, "0.bias": torch.tensor([3.0])})
    weight.zero_()
    back = Snapshots.of(new.state(), 3, 0)
    assert back.epochs == [0]
    assert base64.b64decode(back.texts()[0]) == struct.pack("<3f", 1, 2, 3)
    assert back.texts() == new.texts()


def test_texts_follow_the_snapshots() -> None:
    new = snapshots()
    before = new.texts()
    new.add(3, {"0.weight": torch.tensor([[9.0, 9.0]]), "0.bias": torch.zeros(1)})
    assert new.texts()[:3] == before
    assert base64.b64decode(new.texts()[3]) == struct.pack("<3f", 9, 9, 0)


Change = Callable[[dict[str, Any]], Any]
DAMAGES: dict[str, Change] = {
    "a number": lambda state: 3,
    "nothing": lambda state: {},
    "an entry too many": lambda state: {**state, "more": 1},
    "epochs of another type": lambda state: {**state, "epochs": 3},
    "an epoch of text": lambda state: {**state, "epochs": [0, 1, "2"]},
    "a true epoch": lambda state: {**state, "epochs": [0, True, 2]},
    "a negative epoch": lambda state: {**state, "epochs": [-1, 1, 2]},
    "no order": lambda state: {**state, "epochs": [1, 0, 2]},
    "an epoch twice": lambda state: {**state, "epochs": [0, 0, 2]},
    "an epoch to come": lambda state: {**state, "epochs": [0, 1, 3]},
    "not the last epoch": lambda state: {**state, "epochs": [0, 1]},
    "no epochs": lambda state: {"epochs": [], "weights": torch.empty(0, 3)},
    "too many": lambda state: {"epochs": list(range(-10, 3)), "weights": torch.zeros(13, 3)},
    "weights of another type": lambda state: {**state, "weights": [1.0]},
    "another network's": lambda state: {**state, "weights": torch.zeros(3, 4)},
    "of fewer epochs": lambda state: {**state, "weights": torch.zeros(2, 3)},
    "one row": lambda state: {**state, "weights": torch.zeros(9)},
    "float64": lambda state: {**state, "weights": torch.zeros(3, 3, dtype=torch.float64)},
    "sparse": lambda state: {**state, "weights": torch.zeros(3, 3).to_sparse()},
    "without memory": lambda state: {**state, "weights": torch.zeros(3, 3, device="meta")},
    "NaN": lambda state: {**state, "weights": torch.full((3, 3), float("nan"))},
    "infinite": lambda state: {**state, "weights": torch.full((3, 3), float("inf"))},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_snapshots_are_refused(damage: str) -> None:
    state = snapshots().state()
    Snapshots.of(copy.deepcopy(state), 3, 2)
    with pytest.raises(ValueError, match=r"."):
        Snapshots.of(DAMAGES[damage](state), 3, 2)
