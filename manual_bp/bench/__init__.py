"""Side-by-side timing of the same steps: `python -m manual_bp.bench`.

configuration.py a network and a batch size; the contenders' names
problem.py     its data, batches and initial weights; the cost all must reach
torch_peers.py torch.nn, compiled or not, under a CUDA graph; our Functions; `direct`; bare products
array_peers.py NumPy, JAX, scikit-learn
measure.py     interleaved repeats
memory.py      peak memory, each contender in a process of its own
report.py      the table, JSON, the picture
"""
