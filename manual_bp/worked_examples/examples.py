"""Every worked example by its name in the command."""

from __future__ import annotations

from collections.abc import Callable

from manual_bp.worked_examples.document1 import one_neuron_per_layer, symmetry, two_two_two
from manual_bp.worked_examples.document2 import branching, minibatch, one_path, several_inputs
from manual_bp.worked_examples.document3 import single_layer, three_descents, vector_form
from manual_bp.worked_examples.worked import Worked

EXAMPLES: dict[str, Callable[[], Worked]] = {
    "one-neuron": one_neuron_per_layer,
    "two-two-two": two_two_two,
    "symmetry": symmetry,
    "one-path": one_path,
    "several-inputs": several_inputs,
    "branching": branching,
    "minibatch": minibatch,
    "single-layer": single_layer,
    "vector-form": vector_form,
    "three-descents": three_descents,
}
