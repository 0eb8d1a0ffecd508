"""Memory that the system lets nobody write would end the process: refused before a step."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from manual_bp import MLP
from manual_bp.direct import Trainer, library


def _file(folder: Path) -> Path:
    path = folder / "weights"
    path.write_bytes(bytes(2 * mmap.PAGESIZE))
    return path


def _numpy(folder: Path) -> Tensor:
    return torch.from_numpy(np.memmap(_file(folder), np.float32, "r", shape=(4, 3)))


def _buffer(folder: Path) -> Tensor:
    with _file(folder).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return torch.frombuffer(mapped, dtype=torch.float32, count=12).view(4, 3)


def _view_of_a_column(folder: Path) -> Tensor:
    array: Any = np.memmap(_file(folder), np.float32, "r", shape=(4, 6))
    return torch.from_numpy(array)[:, 1:4]


MAPPED: dict[str, Callable[[Path], Tensor]] = {
    "a NumPy map": _numpy,
    "a buffer": _buffer,
    "a part of a map": _view_of_a_column,
}


@pytest.mark.filterwarnings("ignore:The given (NumPy array|buffer) is not writable:UserWarning")
@pytest.mark.parametrize("kind", MAPPED)
@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_a_file_mapped_for_reading_is_refused(kind: str, backend: str, tmp_path: Path) -> None:
    model = MLP([3, 4, 2])
    model[0].weight = nn.Parameter(MAPPED[kind](tmp_path))
    with pytest.raises(RuntimeError, match=r"layer 1 \(3→4\): weight lies in memory that cannot"):
        Trainer(model, lr=0.1, batch_size=2, backend=backend)


def test_a_file_mapped_for_writing_is_trained_and_looking_changes_nothing(tmp_path: Path) -> None:
    array = np.memmap(_file(tmp_path), np.float32, "r+", shape=(4, 3))
    array[:] = np.random.default_rng(0).random((4, 3))
    before = array.copy()
    model = MLP([3, 4, 2])
    model[0].weight = nn.Parameter(torch.from_numpy(array))
    trainer = Trainer(model, lr=0.1, batch_size=2, backend="torch")
    assert np.array_equal(array, before)
    trainer.run(torch.rand(4, 3), torch.rand(4, 2))
    assert not np.array_equal(array, before)


def test_a_parameter_that_is_gone_is_one_line() -> None:
    model = MLP([3, 4, 2])
    trainer = Trainer(model, lr=0.1, batch_size=2, backend="torch")
    del model[0].weight
    with pytest.raises(RuntimeError, match="the model has lost a parameter"):
        trainer.run(torch.rand(4, 3), torch.rand(4, 2))


def test_a_cache_that_is_a_link_is_left_as_it_is(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o755)
    target.chmod(0o755)
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(library.NativeUnavailableError, match="is a link"):
        library.own_folder(tmp_path / "link")
    assert target.stat().st_mode & 0o777 == 0o755
