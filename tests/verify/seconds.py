"""How long a check takes: `python tests/verify/seconds.py` prints the seconds of one core for six
functions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from gallery_layers import Attention, Convolution
from gallery_linear import Base
from torch import Tensor, nn

from manual_bp.verify import check

CASES: dict[str, tuple[Callable[..., Any] | type, tuple[Tensor, ...]]] = {
    "linear": (Base, (torch.randn(20, 40), torch.randn(29, 40), torch.randn(29))),
    "gelu": (F.gelu, (torch.randn(40, 50),)),
    "convolution": (
        Convolution,
        (torch.randn(4, 4, 10, 10), torch.randn(10, 4, 3, 3), torch.randn(10)),
    ),
    "attention": (
        Attention,
        (torch.randn(4, 16, 10), torch.randn(4, 16, 10), torch.randn(4, 16, 10)),
    ),
    "module": (
        nn.Sequential(nn.Linear(30, 30), nn.LayerNorm(30), nn.GELU()),
        (torch.randn(30, 30),),
    ),
    "large linear": (Base, (torch.randn(64, 784), torch.randn(300, 784), torch.randn(300))),
}

if __name__ == "__main__":
    check(
        Base, (torch.randn(2, 3), torch.randn(4, 3), torch.randn(4))
    )  # imports what the first check imports
    for name, (function, inputs) in CASES.items():
        start = time.process_time()  # check itself runs on one thread
        check(function, inputs).raise_if_failed()
        print(f"{name:<14}{time.process_time() - start:5.1f} s")
