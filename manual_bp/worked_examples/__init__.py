"""The documents' example networks, runnable: `python -m manual_bp.worked_examples [NAME]`.

Each function's docstring works its example by hand. The function computes the same values from the
document's formulas and returns them beside autograd's answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from manual_bp.lazy import lazy
from manual_bp.worked_examples.networks import NETWORKS, Network

if TYPE_CHECKING:
    from manual_bp.worked_examples.document1 import one_neuron_per_layer, symmetry, two_two_two
    from manual_bp.worked_examples.document2 import branching, minibatch, one_path, several_inputs
    from manual_bp.worked_examples.document3 import (
        descent,
        single_layer,
        three_descents,
        vector_form,
    )
    from manual_bp.worked_examples.examples import EXAMPLES
    from manual_bp.worked_examples.worked import Worked

# The keys of EXAMPLES, for the command's help: EXAMPLES itself needs torch.
NAMES = (
    "one-neuron",
    "two-two-two",
    "symmetry",
    "one-path",
    "several-inputs",
    "branching",
    "minibatch",
    "single-layer",
    "vector-form",
    "three-descents",
)

_HOMES = {
    "EXAMPLES": "examples",
    "Worked": "worked",
    "branching": "document2",
    "descent": "document3",
    "minibatch": "document2",
    "one_neuron_per_layer": "document1",
    "one_path": "document2",
    "several_inputs": "document2",
    "single_layer": "document3",
    "symmetry": "document1",
    "three_descents": "document3",
    "two_two_two": "document1",
    "vector_form": "document3",
}

__all__ = [
    "EXAMPLES",
    "NAMES",
    "NETWORKS",
    "Network",
    "Worked",
    "branching",
    "descent",
    "minibatch",
    "one_neuron_per_layer",
    "one_path",
    "several_inputs",
    "single_layer",
    "symmetry",
    "three_descents",
    "two_two_two",
    "vector_form",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
