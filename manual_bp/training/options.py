"""The command line of train.py: every flag, its default, and what it means."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from manual_bp.escape import escaped
from manual_bp.normalisation import COSTS
from manual_bp.training.recipe import DIGITS, MNIST

INITIALISATIONS = ("pytorch", "uniform", "xavier", "equal")
DATASETS = ("auto", "mnist", "fashion-mnist", "digits")  # others are paths


def _number(kind: type, fits: Callable[[float], bool], expected: str) -> Callable[[str], Any]:
    """A reader for one flag's number; argparse prints the error with the flag's name before it."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not fits(value):  # no comparison holds for nan
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
        return value

    return read


LARGEST = 1_000_000_000  # of epochs and batches
MOST_THREADS = 1024
_threads = _number(
    int, lambda n: 1 <= n <= MOST_THREADS, f"a whole number from 1 to {MOST_THREADS}"
)
_width = _number(int, lambda n: 1 <= n <= 1_000_000, "a whole number from 1 to 1000000")
_natural_int = _number(int, lambda n: 0 <= n <= LARGEST, f"a whole number from 0 to {LARGEST}")
_seed = _number(int, lambda n: 0 <= n < 2**63, "a whole number from 0 to 2**63 - 1")
_positive_float = _number(float, lambda v: 0 < v < math.inf, "a number above 0")
_epsilon = _number(float, lambda v: 0 < v <= 1e6, "a number above 0, and at most a million")
_non_negative_float = _number(float, lambda v: 0 <= v < math.inf, "a number of at least 0")
_fraction = _number(float, lambda v: 0 <= v < 1, "a number of at least 0 and below 1")
_count = _number(int, lambda n: 1 <= n <= LARGEST, f"a whole number from 1 to {LARGEST}, or full")


def _batch_size(text: str) -> Any:
    return text if text == "full" else _count(text)


def _device(text: str) -> str:
    kind, _, index = text.partition(":")
    numbered = kind == "cuda" and index.isdecimal() and len(index) <= 3
    if text in ("auto", "cpu", "cuda", "mps") or numbered:
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not one of auto, cpu, cuda, cuda:N, mps")


def _run_name(text: str) -> str:
    # one that stays in the log folder, does not hide the run, and fits a file system
    odd = text.startswith(".") or any(c in "/\\\0\n\r" for c in text)
    if odd or not 0 < len(text.encode()) <= 200:
        expected = "a plain folder name of at most 200 bytes"
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return text


def _flag(default: Any, text: str, **argument: Any) -> Any:
    """A field of `Options`: its default, its line of help, and what argparse must know beside."""
    return field(default=default, metadata={"help": text, **argument})


_MANY_OR_FEW = "(default: {0}; {1} on few examples{2})"


@dataclass(frozen=True)
class Options:
    """The parsed flags; one field a flag, named as it is. None: the data set or the run decides."""

    dataset: str = _flag(
        "auto",
        "auto: MNIST if it is there or can be downloaded, else scikit-learn's handwritten digits; "
        "mnist, fashion-mnist, digits; or data of your own: a .npz file, a folder with a folder of "
        "pictures a class, or a folder of idx files",
        metavar="{auto,mnist,fashion-mnist,digits,PATH}",
    )
    data_dir: str | None = _flag(
        None,
        "folder that holds MNIST/raw/*-ubyte (default: $MANUAL_BP_DATA, else data)",
        metavar="DIR",
    )
    augment: bool = _flag(
        False,
        "distort the training images anew each epoch: shifts, rotations, elastic distortion",
    )
    hidden: tuple[int, ...] = _flag(
        (128,), "hidden layer sizes; none for a single layer", type=_width, nargs="*", metavar="N"
    )
    output: str = _flag("sigmoid", "the output unit", choices=("sigmoid", "linear"))
    init: str = _flag(
        "pytorch",
        "first weights: PyTorch's own, uniform in [−ε, ε], Xavier's, or all equal to ε, which "
        "cannot learn",
        choices=INITIALISATIONS,
    )
    init_epsilon: float = _flag(0.1, "ε of --init uniform and equal", type=_epsilon, metavar="EPS")
    cost: str = _flag(
        "half_per_example",
        "normalisation of the squared error: half_per_example is 1/(2m) Σ (a − y)²",
        choices=COSTS,
    )
    epochs: int | None = _flag(
        None,
        "passes over the training set " + _MANY_OR_FEW.format(MNIST.epochs, DIGITS.epochs, ""),
        type=_natural_int,
        metavar="N",
    )
    batch_size: int | str | None = _flag(
        None,
        "examples a step: 1 is stochastic, full is batch gradient descent "
        + _MANY_OR_FEW.format(MNIST.batch_size, DIGITS.batch_size, ""),
        type=_batch_size,
        metavar="N|full",
    )
    lr: float | None = _flag(
        None,
        "learning rate η "
        + _MANY_OR_FEW.format(
            f"{MNIST.lr:g}",
            f"{DIGITS.lr:g}",
            "; less for wide layers, momentum, a linear output, other batches, and as the cost's "
            "normalisation needs it",
        ),
        type=_positive_float,
        metavar="ETA",
    )
    lr_schedule: str = _flag(
        "cosine", "η all along, or falling to 0 as half a cosine", choices=("constant", "cosine")
    )
    momentum: float = _flag(0.0, "SGD momentum", type=_fraction, metavar="MU")
    weight_decay: float = _flag(0.0, "SGD weight decay", type=_non_negative_float, metavar="LAMBDA")
    impl: str = _flag(
        "manual",
        "the hand-derived layers, or their torch.nn twins from the same seed",
        choices=("manual", "builtin"),
    )
    engine: str = _flag(
        "autograd",
        "autograd: the Functions of this package; direct: the same algorithm run in place, many "
        "times faster",
        choices=("autograd", "direct"),
    )
    device: str = _flag(
        "auto", "where to compute", type=_device, metavar="{auto,cpu,cuda,cuda:N,mps}"
    )
    dtype: str = _flag("float32", "precision of the network", choices=("float32", "float64"))
    amp: str = _flag(
        "off",
        "mixed precision: autocast, for fp16 with GradScaler",
        choices=("off", "bf16", "fp16"),
    )
    compile: bool = _flag(False, "run the layers through torch.compile")
    deterministic: bool = _flag(False, "refuse operations that may give other bytes another time")
    threads: int | None = _flag(
        None,
        "CPU threads (default: 1 for small steps, else all cores)",
        type=_threads,
        metavar="N",
    )
    seed: int = _flag(0, "seeds the weights and the shuffling", type=_seed, metavar="N")
    logdir: str = _flag("runs", "folder of the run folders", metavar="DIR")
    run_name: str | None = _flag(
        None, "name of the run folder (default: date and network)", type=_run_name, metavar="NAME"
    )
    histograms: int = _flag(
        0,
        "every N epochs, histograms of weights, gradients, activations and δ; 0 for none",
        type=_natural_int,
        metavar="N",
    )
    resume: str | None = _flag(
        None,
        "continue a run: its folder, its name, its checkpoint.pt, or the latest in --logdir",
        metavar="PATH|NAME|latest",
    )
    dry_run: bool = _flag(False, "one step and one evaluation, nothing written")


# Each title of the help, before the first flag under it.
_TITLES = {
    "dataset": "data",
    "hidden": "network",
    "cost": "gradient descent",
    "impl": "machine",
    "logdir": "run",
}
_NOT_GIVEN = object()


def parse(argv: Sequence[str] | None = None, prog: str = "train.py") -> tuple[Options, set[str]]:
    """Read the flags. Wrong usage prints one line and exits with status 2, as argparse does.

    Returns:
        The options, and the names of those that were given rather than left to their default.
    """
    parser = _parser(prog)
    options, given = _read(parser, argv)
    place = Path(options.data_dir or "") / options.dataset
    if options.dataset not in DATASETS and not (Path(options.dataset).exists() or place.exists()):
        parser.error(
            f"argument --dataset: {options.dataset!r} is not one of {', '.join(DATASETS)}, and "
            f"there is no such file or folder"
        )
    return options, given


def _read(parser: _Parser, argv: Sequence[str] | None) -> tuple[Options, set[str]]:
    # argparse leaves an attribute alone that is there already, unless its flag is given.
    unset = {flag.name: _NOT_GIVEN for flag in fields(Options)}
    found = vars(parser.parse_args(argv, argparse.Namespace(**unset)))
    given: dict[str, Any] = {name: v for name, v in found.items() if v is not _NOT_GIVEN}
    if "hidden" in given:
        given["hidden"] = tuple(given["hidden"])
    return Options(**given), set(given)


def restore(flags: Mapping[str, object]) -> Options:
    """The options with these values, checked as strictly as a command line; others by default.

    Raises:
        ValueError: `parse` could not have given them.
    """
    argv: list[str] = []
    for name, value in flags.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            argv.append(flag)
        elif isinstance(value, (list, tuple)):
            argv += [flag, *map(str, value)]
        elif value is not None and value is not False:
            argv.append(f"{flag}={value}")
    parser = _parser("train.py")
    parser.raises = True
    return _read(parser, argv)[0]


def _parser(prog: str) -> _Parser:
    parser = _Parser(
        prog=prog,
        description="Train a sigmoid network on MNIST with hand-derived backpropagation; "
        "TensorBoard shows the run.",
        allow_abbrev=False,
    )
    group: Any = parser
    for flag in fields(Options):
        if flag.name in _TITLES:
            group = parser.add_argument_group(_TITLES[flag.name])
        default, argument = flag.default, {"default": flag.default, **flag.metadata}
        if default is False:
            argument["action"] = "store_true"
        elif default is not None and "default:" not in argument["help"]:
            shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
            argument["help"] += f" (default: {shown})"
        group.add_argument("--" + flag.name.replace("_", "-"), **argument)
    return parser


class _Parser(argparse.ArgumentParser):
    raises = False  # a ValueError instead of the end of the program

    def error(self, message: str) -> NoReturn:
        """One line, without the usage: so many flags would push the line off the screen."""
        if self.raises:
            raise ValueError(message)
        command = "python train.py" if self.prog == "train.py" else self.prog
        self.exit(2, f"{self.prog}: error: {escaped(message)} (see {command} --help)\n")
