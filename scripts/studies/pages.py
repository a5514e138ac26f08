"""Common parts of all studies: figures as JSON, and pages and pictures made from them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adadm.runtime.arguments import Parser
from adadm.runtime.errors import AdadmError
from adadm.runtime.files import written_whole
from adadm.runtime.json_format import read

if TYPE_CHECKING:  # measured processes import this file, and must not load matplotlib
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINTS = ROOT / "export" / "checkpoints"
RESULTS = ROOT / "docs" / "results"
PICTURES = ROOT / "docs" / "images"


def read_results(name: str) -> dict[str, Any]:
    """Read the figures of `docs/results/<name>.json`; empty if the file is missing."""
    path = RESULTS / f"{name}.json"
    return read(dict[str, Any], path, error=AdadmError) if path.is_file() else {}


def write_results(name: str, results: dict[str, Any]) -> None:
    """Write figures to `docs/results/<name>.json`."""
    with written_whole(RESULTS / f"{name}.json") as partial:
        partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def write_page(name: str, text: str) -> None:
    """Write `docs/results/<name>.md` and print its path."""
    path = RESULTS / f"{name}.md"
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
    print(f"wrote {path}")


def save_figure(figure: Figure, path: Path, **options: Any) -> None:
    """Write a figure and close it; equal figures give equal bytes.

    Args:
        options: options of `Figure.savefig`.
    """
    from matplotlib import pyplot

    if path.suffix == ".svg":
        options["metadata"] = {"Date": None}
    with written_whole(path) as partial:
        figure.savefig(partial, **options)
    pyplot.close(figure)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """Format a table in Markdown.

    Args:
        numbers: align all columns but the first to the right.
    """
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    right = " | ".join(["| ---", *["---:"] * (len(head) - 1)]) + " |"
    return "\n".join([lines[0], right if numbers else "|---" * len(head) + "|", *lines[1:]])


def study_parser(study: str, doc: str | None) -> argparse.ArgumentParser:
    """Make a parser with the common option `--draw`."""
    parser = Parser(
        prog=f"studies/{study}/study.py",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--draw", action="store_true", help="only write page and pictures")
    return parser
