"""Backpropagation without autograd, in place and fast: the algorithm of `backprop` as loops.

backward.py     `backward`: one batch, `.grad` filled as `loss.backward()` would
trainer.py      `Trainer`: steps and whole epochs of SGD
model.py        what is asked of the model before each run
task.py         what a Trainer gives to one of the loops below
memory.py       what a loop may read and write
torch_loop.py   the loop in PyTorch calls
cuda_graph.py   the same calls, recorded as CUDA graphs
native.py       the loop in C++: native.cpp, state.h, nonzeros.h, products.h, kernels.h
library.py      how the C++ is compiled and kept
statistics.py   what an epoch reports
"""

from manual_bp.direct.backward import backward
from manual_bp.direct.statistics import Statistics
from manual_bp.direct.trainer import Trainer

__all__ = ["Statistics", "Trainer", "backward"]
