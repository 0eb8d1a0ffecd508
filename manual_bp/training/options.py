"""The command line of train.py: every flag, its default, and what it means."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from manual_bp.training.initialisation import INITIALISATIONS
from manual_bp.training.recipe import DIGITS, MNIST

DATASETS = ("auto", "mnist", "fashion-mnist", "digits")
COSTS = ("half_per_example", "half_per_element", "mean", "sum")


@dataclass(frozen=True)
class Options:
    """The parsed flags; one field a flag, named as it is."""

    dataset: str
    data_dir: str | None
    augment: bool
    hidden: tuple[int, ...]
    output: str
    init: str
    init_epsilon: float
    cost: str
    epochs: int | None  # None: the data set's own
    batch_size: int | str | None  # "full", or None: the data set's own
    lr: float | None  # None: the data set's own
    lr_schedule: str
    momentum: float
    weight_decay: float
    impl: str
    engine: str | None  # None: direct where it can be
    device: str
    dtype: str
    amp: str
    compile: bool
    deterministic: bool
    threads: int | None  # None: chosen by the size of a step
    seed: int
    logdir: str
    run_name: str | None
    histograms: int
    resume: str | None
    dry_run: bool


def parse(argv: Sequence[str] | None = None) -> tuple[Options, set[str]]:
    """Read the flags. Wrong usage prints what is wrong and exits with status 2, as argparse does.

    Returns:
        The options, and the names of those that were given rather than left to their default.
    """
    parser = _parser()
    options = Options(**vars(parser.parse_args(argv)))
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return options, set(vars(parser.parse_args(argv)))


def restore(flags: Mapping[str, object]) -> Options:
    """The options that `dataclasses.asdict` made `flags` of, checked as strictly as a command line.

    Raises:
        ValueError: they are none that `parse` could have given.
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
    parser = _parser()
    parser.raises = True
    return Options(**vars(parser.parse_args(argv)))


def _parser() -> _Parser:
    parser = _Parser(
        prog="train.py",
        description="Train a sigmoid network on MNIST with hand-derived backpropagation; "
        "TensorBoard shows the run.",
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )

    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        choices=DATASETS,
        default="auto",
        help="auto: MNIST if it is there or can be downloaded, "
        "else scikit-learn's handwritten digits",
    )
    data.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder that holds MNIST/raw/*-ubyte (default: $MANUAL_BP_DATA, else data)",
    )

    data.add_argument(
        "--augment",
        action="store_true",
        help="distort the training images anew each epoch: shifts, rotations, elastic distortion",
    )

    network = parser.add_argument_group("network")
    network.add_argument(
        "--hidden",
        type=_width,
        nargs="*",
        action=_Tuple,
        default=(128,),
        metavar="N",
        help="hidden layer sizes; none for a single layer",
    )
    network.add_argument(
        "--output", choices=("sigmoid", "linear"), default="sigmoid", help="the output unit"
    )
    network.add_argument(
        "--init",
        choices=INITIALISATIONS,
        default="pytorch",
        help="first weights: PyTorch's own, uniform in [−ε, ε], Xavier's, "
        "or all equal to ε, which cannot learn",
    )
    network.add_argument(
        "--init-epsilon",
        type=_epsilon,
        default=0.1,
        metavar="EPS",
        help="ε of --init uniform and equal",
    )
    network.add_argument(
        "--impl",
        choices=("manual", "builtin"),
        default="manual",
        help="the hand-derived layers, or their torch.nn twins from the same seed",
    )

    descent = parser.add_argument_group("gradient descent")
    descent.add_argument(
        "--cost",
        choices=COSTS,
        default="half_per_example",
        help="normalisation of the squared error: half_per_example is 1/(2m) Σ (a − y)²",
    )
    descent.add_argument(
        "--epochs",
        type=_natural_int,
        metavar="N",
        help=f"passes over the training set (default: {MNIST.epochs}; "
        f"{DIGITS.epochs} on the digits)",
    )
    descent.add_argument(
        "--batch-size",
        type=_batch_size,
        metavar="N|full",
        help="examples a step: 1 is stochastic, full is batch gradient descent "
        f"(default: {MNIST.batch_size}; {DIGITS.batch_size} on the digits)",
    )
    descent.add_argument(
        "--lr",
        type=_positive_float,
        metavar="ETA",
        help=f"learning rate η (default: {MNIST.lr:g}; {DIGITS.lr:g} on the digits; "
        "less for wide layers, momentum, a "
        "linear output, other batches, and as the cost's normalisation needs it)",
    )
    descent.add_argument(
        "--lr-schedule",
        choices=("constant", "cosine"),
        default="cosine",
        help="η all along, or falling to 0 as half a cosine",
    )
    descent.add_argument(
        "--momentum", type=_fraction, default=0.0, metavar="MU", help="SGD momentum"
    )
    descent.add_argument(
        "--weight-decay",
        type=_non_negative_float,
        default=0.0,
        metavar="LAMBDA",
        help="SGD weight decay",
    )

    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--engine",
        choices=("autograd", "direct"),
        help="the Functions through autograd, or the documents' algorithm run in place, faster "
        "(default: direct where it can be)",
    )
    machine.add_argument(
        "--device",
        type=_device,
        default="auto",
        metavar="{auto,cpu,cuda,cuda:N,mps}",
        help="where to compute",
    )
    machine.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="precision of the network",
    )
    machine.add_argument(
        "--amp",
        choices=("off", "bf16", "fp16"),
        default="off",
        help="mixed precision: autocast, for fp16 with GradScaler",
    )
    machine.add_argument(
        "--compile", action="store_true", help="run the layers through torch.compile"
    )
    machine.add_argument(
        "--deterministic",
        action="store_true",
        help="refuse operations that may give other bytes another time",
    )
    machine.add_argument(
        "--threads",
        type=_positive_int,
        metavar="N",
        help="CPU threads (default: 1 for small steps, else all cores)",
    )
    machine.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="seeds the weights and the shuffling"
    )

    run = parser.add_argument_group("run")
    run.add_argument("--logdir", default="runs", metavar="DIR", help="folder of the run folders")
    run.add_argument(
        "--run-name",
        type=_run_name,
        metavar="NAME",
        help="name of the run folder (default: date and network)",
    )
    run.add_argument(
        "--histograms",
        type=_natural_int,
        default=0,
        metavar="N",
        help="every N epochs, histograms of weights, gradients, activations and δ; 0 for none",
    )
    run.add_argument(
        "--resume",
        metavar="PATH|latest",
        help="continue a run: its folder, its checkpoint.pt, or the latest in --logdir",
    )
    run.add_argument(
        "--dry-run", action="store_true", help="one step and one evaluation, nothing written"
    )
    return parser


class _Parser(argparse.ArgumentParser):
    raises = False  # a ValueError instead of the end of the program

    def error(self, message: str) -> NoReturn:
        """One line, without the usage: with so many flags it would push the one line that matters
        off the screen.
        """
        if self.raises:
            raise ValueError(message)
        self.exit(2, f"{self.prog}: error: {message} (see python {self.prog} --help)\n")


class _HelpFormatter(argparse.HelpFormatter):
    """Append the default to each help line that does not spell it out."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if text is None or "default:" in text or action.default in (None, argparse.SUPPRESS):
            return text
        default = action.default
        if default is False:
            return text
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
        return f"{text} (default: {shown})"


class _Tuple(argparse.Action):
    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        setattr(namespace, self.dest, tuple(values))


def _number(
    kind: type[int] | type[float], fits: Callable[[float], bool], expected: str
) -> Callable[[str], Any]:
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


_positive_int = _number(int, lambda n: n >= 1, "a whole number of at least 1")
_width = _number(int, lambda n: 1 <= n <= 1_000_000, "a whole number from 1 to 1000000")
_natural_int = _number(int, lambda n: n >= 0, "a whole number of at least 0")
_seed = _number(int, lambda n: 0 <= n < 2**63, "a whole number from 0 to 2**63 - 1")
_positive_float = _number(float, lambda v: 0 < v < math.inf, "a number above 0")
_epsilon = _number(float, lambda v: 0 < v <= 1e6, "a number above 0, and at most a million")
_non_negative_float = _number(float, lambda v: 0 <= v < math.inf, "a number of at least 0")
_fraction = _number(float, lambda v: 0 <= v < 1, "a number of at least 0 and below 1")


def _batch_size(text: str) -> int | str:
    if text == "full":
        return text
    size: int = _number(int, lambda n: n >= 1, "a whole number of at least 1, or full")(text)
    return size


def _device(text: str) -> str:
    kind, _, index = text.partition(":")
    if text in ("auto", "cpu", "cuda", "mps") or (
        kind == "cuda" and index.isdecimal() and len(index) <= 3
    ):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not one of auto, cpu, cuda, cuda:N, mps")


def _run_name(text: str) -> str:
    # one plain folder name: nothing that leaves the log folder, hides the run, or is too long for a
    # file system
    if (
        not text
        or text.startswith(".")
        or len(text.encode()) > 200
        or any(c in "/\\\0\n\r" for c in text)
    ):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a plain folder name of at most 200 bytes"
        )
    return text
