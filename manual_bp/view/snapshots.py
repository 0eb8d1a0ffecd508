"""The weights of a run at some of its epochs, in float32: what the page's epoch slider moves over.

The first epochs lie close together, because a network changes most in them. A run of any length
keeps at most `MOST`, and the list of a run that is lengthened thins out further:

    10 epochs: 0 1 2 3 4 5 6 7 8 9 10       60 epochs: 0 1 2 4 6 8 12 15 21 30 50 60
"""

from __future__ import annotations

import ctypes
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

MOST = 12
_PAGE = 7_000_000  # characters of base64 that the weights take of a page's 8 MB


def capacity(parameters: int) -> int:
    """How many snapshots of a network with so many weights and biases fit into a page."""
    return min(MOST, _PAGE // (4 * math.ceil(4 * parameters / 3)))


def thinned(epochs: Sequence[int], most: int) -> list[int]:
    """At most `most` of the ascending `epochs`: the first, the last, and some between.

    That epoch goes first whose neighbours lie closest in log(1 + epoch). Of two equal ones the
    later goes.
    """
    kept = list(epochs)
    while len(kept) > max(most, 2):
        gaps = [(1 + after) / (1 + before) for before, after in zip(kept, kept[2:], strict=False)]
        kept.pop(len(gaps) - gaps[::-1].index(min(gaps)))
    return kept[-most:] if most else []


def base64_of(tensor: Tensor) -> str:
    """The numbers of a CPU tensor, row by row, as base64 of their bytes; no NumPy is needed."""
    whole = tensor.detach().contiguous()
    return b64encode(ctypes.string_at(whole.data_ptr(), whole.nbytes)).decode()


class Snapshots:
    """Weights and biases by epoch, each epoch as one float32 vector: W of layer 1, b of layer 1, …

    Args:
        parameters: how many weights and biases the network has.
    """

    def __init__(self, parameters: int) -> None:
        self._parameters, self._most = parameters, capacity(parameters)
        self._weights: dict[int, Tensor] = {}
        self._texts: dict[int, str] = {}

    @property
    def epochs(self) -> list[int]:
        return list(self._weights)

    def add(self, epoch: int, model: Mapping[str, Tensor]) -> None:
        """Take a copy of the weights in a state dict; `epoch` comes after all that were added."""
        if self._most:
            parts = [value.detach().flatten().to("cpu", torch.float32) for value in model.values()]
            self._weights[epoch] = torch.cat(parts)
        self._weights = {e: self._weights[e] for e in thinned(self.epochs, self._most)}

    def texts(self) -> list[str]:
        """Each snapshot as base64; one that was asked for before is not encoded again."""
        self._texts = {
            epoch: self._texts.get(epoch) or base64_of(weights)
            for epoch, weights in self._weights.items()
        }
        return list(self._texts.values())

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        none = torch.empty(0, self._parameters)
        weights = torch.stack(list(self._weights.values())) if self._weights else none
        return {"epochs": self.epochs, "weights": weights}

    @classmethod
    def of(cls, state: Any, parameters: int, epoch: int) -> Snapshots:
        """The snapshots that `state` made `state` of, in a checkpoint of `epoch`.

        Raises:
            ValueError: no network with so many parameters has such snapshots.
        """
        if not isinstance(state, dict) or set(state) != {"epochs", "weights"}:
            raise ValueError("not a dict of epochs and weights")
        new, epochs, weights = cls(parameters), state["epochs"], state["weights"]
        whole = isinstance(epochs, list) and all(type(e) is int for e in epochs)
        if not whole or epochs != sorted(set(epochs)) or len(epochs) > new._most:
            raise ValueError(f"the epochs are not {new._most} or fewer, in order")
        if new._most and (not epochs or epochs[0] < 0 or epochs[-1] != epoch):
            raise ValueError(f"the epochs are not some of 0 to {epoch}, the last among them")
        plain = isinstance(weights, Tensor) and weights.layout == torch.strided
        if not plain or weights.dtype != torch.float32 or weights.device.type != "cpu":
            raise ValueError("the weights are not a float32 tensor")
        if tuple(weights.shape) != (len(epochs), parameters):
            shape = tuple(weights.shape)
            raise ValueError(f"the weights are {shape}, not {(len(epochs), parameters)}")
        if not bool(weights.isfinite().all()):
            raise ValueError("a weight is not finite")
        new._weights = {e: row.clone() for e, row in zip(epochs, weights, strict=True)}
        return new
