"""What is compared on what: a network and a batch size, and the contenders' names."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

EXAMPLES = 60_000  # of MNIST
NAMES = (  # the keys of measure.CONTENDERS
    "direct",
    "direct-norms",
    "direct-torch",
    "functions",
    "functions-compiled",
    "torch",
    "torch-fused",
    "compiled",
    "compiled-max",
    "cuda-graph",
    "numpy",
    "jax",
    "sklearn",
    "products",
)


@dataclass(frozen=True)
class Configuration:
    """`sizes` and `batch` as in "784-30-10:10".

    A ":linear" after it means a linear output layer, ":dense" inputs without zeros.
    """

    sizes: tuple[int, ...]
    batch: int
    linear: bool = False
    dense: bool = False

    @classmethod
    def parse(cls, text: str) -> Configuration:
        """Read "784-30-10:10", "784-30-10:10:linear" or "784-30-10:10:dense".

        Raises:
            ValueError: anything else.
        """
        sizes, _, rest = text.partition(":")
        batch, *kinds = rest.split(":")
        try:
            found = cls(
                tuple(map(int, sizes.split("-"))), int(batch), "linear" in kinds, "dense" in kinds
            )
        except ValueError:
            found = None
        known = set(kinds) <= {"linear", "dense"}
        if found is None or len(found.sizes) < 2 or min(*found.sizes, found.batch) < 1 or not known:
            raise ValueError(
                f"{text!r}: a network and a batch size such as 784-30-10:10 or 784-30-10:10:linear"
            )
        return found

    def __str__(self) -> str:
        kinds = ":linear" * self.linear + ":dense" * self.dense
        return "-".join(map(str, self.sizes)) + f":{self.batch}{kinds}"

    @property
    def flops(self) -> int:
        """Operations in one step's matrix products, two a multiply-add; the input needs no δ."""
        layers = list(pairwise(self.sizes))
        return (
            2
            * self.batch
            * sum((2 if i == 0 else 3) * n_in * n_out for i, (n_in, n_out) in enumerate(layers))
        )

    def default_steps(self, device: str) -> int:
        """About 20 GFLOP; at least 2 steps, and at most 1,000 or a third of an epoch.

        On "cuda" about 5 TFLOP in 40 to 10,000 steps: a tenth of a second of the fastest contender.
        """
        if device == "cuda":
            return max(40, min(10_000, round(5e12 / self.flops)))
        return max(2, min(1_000, EXAMPLES // (3 * self.batch), round(20e9 / self.flops)))

    def default_threads(self, device: str) -> int:
        """On "cpu" every peer is faster on one thread than on more in batches below 32."""
        import torch  # takes a second: the command prints its help without torch

        return 1 if device == "cpu" and self.batch < 32 else torch.get_num_threads()
