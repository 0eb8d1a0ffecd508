"""`manual-bp look`: the page of a run that train.py wrote, or of a document's network."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from manual_bp import console
from manual_bp.escape import escaped
from manual_bp.worked_examples.networks import NETWORKS


def main(argv: Sequence[str] | None = None, prog: str = "python -m manual_bp.view") -> int:
    """Write a page. Returns 0, or 1 after a fault with one line on stderr; wrong usage exits 2."""
    args = _parse(argv, prog)
    try:
        path = _write(args)
    except ValueError as error:
        print(f"{prog}: error: {escaped(error)}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        line = f"a run's page needs {error.name}: pip install 'manual_bp[train]'"
        print(f"{prog}: error: {line}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"{prog}: error: {escaped(error.filename)}: {error.strerror or error}", file=sys.stderr
        )
        return 1
    link = path.resolve().as_uri()
    print(link)
    if args.open and not webbrowser.open(link):
        print(f"{prog}: error: no browser was found: open that page by hand", file=sys.stderr)
        return 1
    return 0


def _parse(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write a page on which a browser goes forward and back through a network: z, "
        "a, error, slope, δ and ∂C/∂W of every unit.",
    )
    parser.add_argument(
        "what",
        metavar="RUN|NETWORK",
        help="a run that train.py wrote: its folder, its name in --logdir, or latest, the one "
        f"written last; or a documents' network: {', '.join(NETWORKS)}",
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (default: look.html in the run's folder; NETWORK.html)",
    )
    parser.add_argument(
        "--logdir", default="runs", metavar="DIR", help="folder of run folders (default: runs)"
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="where the run's data are now (default: where they were)",
    )
    return parser.parse_args(argv)


def _write(args: argparse.Namespace) -> Path:
    if args.what in NETWORKS:
        return _save(args.out or Path(f"{args.what}.html"), _of_network(args.what))
    # Training stands above this room and takes a second to import: only if a run is read.
    from manual_bp.training import look
    from manual_bp.training.errors import UserError

    try:
        folder, page = look.read(args.what, Path(args.logdir), args.data_dir)
        if args.out is not None:
            return _save(args.out, page)
        folder.write_look(page)
    except UserError as error:
        names = ", ".join(NETWORKS)
        known = "" if Path(args.what).exists() else f"; the documents' networks: {names}"
        raise ValueError(f"{error}{known}") from error
    return folder.path / "look.html"


def _of_network(name: str) -> str:
    from manual_bp.view import html
    from manual_bp.worked_examples.networks import tensor

    network = NETWORKS[name]
    return html(
        network.model(),
        tensor(network.x),
        tensor(network.y),
        name=name,
        title=f"Document {network.document}: {network.title}",
        cost=network.cost,
        lr=network.lr,
        notation=network.document,
        units=network.units,
    )


def _save(path: Path, page: str) -> Path:
    """Write `page` where no file is, or where one of these pages is.

    Raises:
        ValueError: another file is there.
    """
    from manual_bp.view import bundle

    if path.exists() and (not path.is_file() or bundle.data_of(_text(path)) is None):
        raise ValueError(f"{path} exists, and is no page of this command: choose another --out")
    path.write_text(page, encoding="utf-8")
    return path


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


if __name__ == "__main__":
    sys.exit(console.run(main, "python -m manual_bp.view"))
