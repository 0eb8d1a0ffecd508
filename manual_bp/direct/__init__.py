"""Backpropagation without autograd: the documents' algorithm run as a loop over layers, in place.

layers.py      which models it takes, and how it reads them
one_pass.py    `backward`: one batch, `.grad` filled as `loss.backward()` would
trainer.py     `Trainer`: steps and whole epochs of SGD
epoch.py       what it hands to one of the three loops below
eager.py       the loop in PyTorch calls
graph.py       the same on CUDA, captured as CUDA graphs
native.py      the same in C++ (native.cpp, state.h, nonzeros.h, kernels.h)
statistics.py  what an epoch reports
transfer.py    between the CPU and an accelerator
"""

from manual_bp.direct.one_pass import Pass, backward, one_pass
from manual_bp.direct.statistics import Launched, Statistics
from manual_bp.direct.trainer import Trainer

__all__ = ["Launched", "Pass", "Statistics", "Trainer", "backward", "one_pass"]
