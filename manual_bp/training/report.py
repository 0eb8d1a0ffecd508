"""What a run leaves for people to look at: TensorBoard's pages while it goes on, and summary.png at
its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from manual_bp import trace
from manual_bp.training import histograms, pages, pictures, probe, summary
from manual_bp.training.board import Board
from manual_bp.training.data import Dataset
from manual_bp.training.network import criterion
from manual_bp.training.options import Options
from manual_bp.training.run_folder import RunFolder

_PICTURES = 5  # of the first layer's weights, between the first and the last epoch
_HPARAMS = ("dataset", "sizes", "epochs", "batch_size", "lr", "engine", "seed")
_FLAG_HPARAMS = [
    "output",
    "init",
    "init_epsilon",
    "cost",
    "lr_schedule",
    "momentum",
    "weight_decay",
    "augment",
    "impl",
    "dtype",
    "amp",
]


class Report:
    """Of one run; made by the process that writes files.

    Args:
        folder: the run's.
        config: what config.json holds.
        options: the flags.
        model: the network as it is trained.
        dataset: on the model's device.
        epochs: how many the run is to have.
        first_epoch: the first that is still to be trained.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Mapping[str, Any],
        options: Options,
        model: nn.Sequential,
        dataset: Dataset,
        epochs: int,
        first_epoch: int,
    ) -> None:
        self._folder, self._config, self._options, self._model = folder, config, options, model
        self._dataset, self._epochs = dataset, epochs
        self._dtype = next(model.parameters()).dtype
        self._board = Board(folder.path, first_epoch=first_epoch)
        start = first_epoch - 1
        self._board.layout()
        hparams = {name: config[name] for name in _HPARAMS}
        hparams |= {name: config["flags"][name] for name in _FLAG_HPARAMS}
        self._board.hparams_start(hparams | {"sizes": "-".join(map(str, config["sizes"]))})
        self._board.text("run/configuration", pages.configuration(config), start)
        self._board.text("run/environment", pages.environment(config), start)
        self._board.text(
            "run/formulas",
            pages.formulas(model, options.cost, options.momentum, options.weight_decay),
            start,
        )
        if start == 0:
            self._pictures(0, next(model.parameters()))
        self._board.flush()

    def epoch(self, row: Mapping[str, Any], trouble: Sequence[str], weights: Tensor) -> None:
        """Write an epoch's row, what is wrong with it, and the pictures that are due.

        Args:
            row: of metrics.jsonl.
            trouble: a line each.
            weights: of the first layer, on the CPU.
        """
        epoch = row["epoch"]
        self._board.scalars(row, epoch)
        if trouble:
            self._board.text("run/trouble", "\n\n".join(trouble), epoch)
        self._pictures(epoch, weights)
        self._board.flush()

    def end(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write what is looked at once, at the end: the test images, the trace of an example,
        summary.png.
        """
        last = rows[-1]
        self._board.scalars(last, self._epochs)
        answers = pictures.Answers.of(self._model, self._dataset.test, self._dtype)
        worst = pictures.figure(5, 5, left=0.01, right=0.99, top=0.99, bottom=0.01)
        pictures.draw_worst(
            worst.subplots(), answers, self._dataset.side, rows=4, columns=5, font=12
        )
        self._board.image(
            "test/worst digits, label → answer", pictures.rendered(worst), self._epochs
        )
        confusion = pictures.figure(5, 5, left=0.1, right=0.99, top=0.99, bottom=0.1)
        pictures.draw_confusion(confusion.subplots(), answers)
        self._board.image("test/confusion matrix", pictures.rendered(confusion), self._epochs)
        x, y = probe.examples(self._dataset.validation, self._dtype)
        told = trace.markdown(
            self._model, x[0], y[0], cost=self._options.cost, lr=self._config["lr"]
        )
        self._board.text("run/trace of one validation image", told, self._epochs)
        self._board.hparams_end()
        self._board.flush()
        self._folder.write_summary(summary.png(rows, answers, self._dataset.side, self._title()))

    def close(self) -> None:
        self._board.close()

    def _pictures(self, epoch: int, weights: Tensor) -> None:
        """Weights at the first, the last and about five epochs between; histograms as --histograms
        says.
        """
        if epoch in (0, self._epochs) or epoch % max(1, round(self._epochs / _PICTURES)) == 0:
            self._board.image(
                "weights/first layer", pictures.weights(weights, self._dataset.side), epoch
            )
        if self._options.histograms and epoch % self._options.histograms == 0:
            x, y = probe.examples(self._dataset.validation, self._dtype)
            cost = criterion(self._options.impl, self._options.cost)
            for tag, values in histograms.values(self._model, cost, x, y).items():
                self._board.histogram(tag, values, epoch)

    def _title(self) -> str:
        config = self._config
        sizes = "-".join(map(str, config["sizes"]))
        return (
            f"{self._folder.path.name}: {config['dataset']}, {sizes}, cost {self._options.cost}, η "
            f"= {config['lr']:g} "
            f"{self._options.lr_schedule}, batches of {config['batch_size']}"
        )
