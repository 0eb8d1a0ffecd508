"""Forward mode within forward mode takes private names of torch. All else works without them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from manual_bp import nested_forward

NESTED = (
    "torch._C._functorch.TransformType",
    "torch._C._functorch._add_batch_dim",
    "torch._C._functorch._unwrap_batched",
    "torch._C._functorch.peek_interpreter_stack",
    "torch._functorch.pyfunctorch.temporarily_pop_interpreter_stack",
    "torch.autograd.forward_ad._set_fwd_grad_enabled",
)
TRANSFORMS_ACTIVE = "torch._C._are_functorch_transforms_active"
# torch itself needs the names, so they are gone only while the package is imported.
WITHOUT = """
import sys
from importlib import import_module

import torch._functorch.pyfunctorch

# pytest would rewrite the assertions of a package that brings a plugin; this one is imported.
QUIET = ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]

def imported_without(*paths):
    for name in [name for name in sys.modules if name.startswith("manual_bp")]:
        del sys.modules[name]
    owners = [(import_module(owner), name) for owner, _, name in (p.rpartition(".") for p in paths)]
    taken = [(owner, name, getattr(owner, name)) for owner, name in owners]
    for owner, name in owners:
        delattr(owner, name)
    import manual_bp.direct, manual_bp.trace, manual_bp.verify, manual_bp.worked_examples
    for owner, name, value in taken:
        setattr(owner, name, value)
    return manual_bp
"""
# Each of these takes the tangent of a tangent.
FORWARD_IN_FORWARD = [
    f"--deselect=tests/test_transforms.py::test_nested_derivatives{test}"
    for test in (
        "[jacfwd of jacfwd-",
        "[jacfwd three times-",
        "_around_vmap[jacfwd of jacfwd-",
        "_around_vmap[jacfwd three times-",
        "_around_vmap_over_the_last_dimension[",
    )
]
# Of the network, which holds every operation.
TESTS = ["tests/test_gradients.py", "tests/test_transforms.py"]
TESTS += ["-knetwork and not every_choice"]
TESTS += ["-n0"]  # a worker would import the package anew, with the names


def run(code: str, *arguments: str) -> None:
    command = [sys.executable, "-c", WITHOUT + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_this_torch_has_every_private_name() -> None:
    assert nested_forward.AVAILABLE


def test_the_package_imports_without_any_one_of_them() -> None:
    run(
        "for name in sys.argv[1:]:\n"
        "    assert not imported_without(name).nested_forward.AVAILABLE, name\n"
        "assert imported_without().nested_forward.AVAILABLE",
        *NESTED,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "left_out"),
    [(NESTED, FORWARD_IN_FORWARD), ((TRANSFORMS_ACTIVE,), [])],
    ids=["nested forward mode", "whether a transform is active"],
)
def test_all_else_works_without(names: tuple[str, ...], left_out: list[str]) -> None:
    """Values, gradients, second derivatives, vmap and each other nest, by the tests themselves."""
    run(
        "imported_without(*sys.argv[1].split())\n"
        "import pytest\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *QUIET, *sys.argv[2:]]))",
        " ".join(names),
        *TESTS,
        *left_out,
    )
