"""Make everything that devices need from a checkpoint: models, certificates, engines, bundles.

Lowers the network to FP16 and INT8 within a budget for each target, certifies
each model on photographs not used for its calibration, builds the engines that this machine can
build, and makes a bundle for each device. A repeated run does only the steps that are not done, or
whose inputs have changed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from adadm.calibration.lowering import BUDGETS_DB
from adadm.deployment.shipping.options import ShipOptions, ShipResult, made_before
from adadm.deployment.shipping.run import ShipRun
from adadm.deployment.signatures import add_sign
from adadm.export.arguments import add_network_options, add_stats, network_options
from adadm.runtime import json_format
from adadm.runtime.arguments import Parser, Paths, add_accept, add_cache, add_target
from adadm.runtime.bounds import decibels, positive
from adadm.runtime.errors import ParityError
from adadm.runtime.progress import Bar
from adadm.runtime.tables import Console, make_table
from adadm.runtime.targets import TARGETS
from adadm.runtime.terminal import say


def main(argv: list[str]) -> None:
    """Parse the command line, make what is missing, and print the summary.

    Raises:
        ParityError: a model could not be made within its budget, or was not certified.
    """
    arguments = _parse(argv)
    started = time.monotonic()
    rows: list[ShipResult] = []
    with Bar("looking at the photographs") as bar:
        line = ShipRun.of(
            ShipOptions(
                checkpoint=arguments.checkpoint,
                images=arguments.images,
                targets=[TARGETS[name] for name in dict.fromkeys(arguments.target)],
                folder=arguments.output,
                undetectable=network_options(arguments),
                photographs=arguments.photographs,
                budgets_db={**BUDGETS_DB, "int8": arguments.budget_db},
                stats=arguments.stats,
                wheels=arguments.wheels,
                cache=arguments.cache,
                sign=arguments.sign,
                accept=arguments.accept,
            ),
            progress=bar,
        )
        for row in line.run():
            rows.append(row)
            products = ", ".join(row.made) or (str(row.model) if row.model else "nothing")
            bar.message(f"{row.target} {row.precision}: {products}")
    _write_summary(rows, arguments.output / "summary.json")
    _print_summary(rows, Console())
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    done, unchanged = line.steps.done, line.steps.unchanged
    say(f"steps: {done} done, {unchanged} up to date; {minutes} min {seconds} s")
    if failed := [row for row in rows if not row.passed]:
        raise ParityError(
            f"{len(failed)} of {len(rows)} are not certified:"
            + "".join(f"\n  {row.target} {row.precision}: {_why(row)}" for row in failed)
        )


def _print_summary(rows: Sequence[ShipResult], console: Console) -> None:
    headers = ("target", "precision", "MB", "parity dB", "dB lost", "speed here", "")
    words = ("target", "precision", "")
    table = make_table("What was made", headers, left=words, padding=(0, 1, 0, 0))
    for row in rows:
        figures = _figures(row)
        table.add_row(
            row.target,
            row.precision,
            *(
                "-" if figures[name] is None else f"{figures[name]:{form}}"
                for name, form in (
                    ("megabytes", ".2f"),
                    ("parity_db", ".1f"),
                    ("lost_db", "+.4f"),
                    ("speed_to_pytorch", ".2f"),
                )
            ),
            Text("certified") if row.passed else Text("FAILED", "bold red"),
        )
    console.print(table)
    timed = next((row.certificate.speed[-1] for row in rows if row.certificate), None)
    if timed:
        size, backend = "x".join(map(str, timed.lr_px)), timed.name.split(", ")[-1]
        console.print(
            f"parity: worst photograph. speed: backend {backend} relative to PyTorch, measured in "
            f"turns on this machine, not on a device; {size} px"
        )


def _figures(row: ShipResult) -> dict[str, float | None]:
    checks = row.certificate.checks if row.certificate else ()
    figures = {check.name: check.figure for check in checks}
    median_ms = [speed.median_ms for speed in row.certificate.speed] if row.certificate else []
    content: dict[str, float | None] = json_format.as_json(
        {
            "megabytes": row.model.stat().st_size / 1e6 if row.model else None,
            "parity_db": figures.get("worst parity"),
            "lost_db": figures.get("PSNR-Y lost"),
            "median_ms": median_ms[-1] if median_ms else None,
            "speed_to_pytorch": median_ms[0] / median_ms[-1] if median_ms else None,
        }
    )
    return content


def _why(row: ShipResult) -> str:
    if row.problem or row.certificate is None:
        return str(row.problem)
    return "; ".join(row.certificate.failures)


def _write_summary(rows: Sequence[ShipResult], path: Path) -> None:
    content = [
        {
            "target": row.target,
            "precision": row.precision,
            "model": str(row.model.relative_to(path.parent)) if row.model else None,
            "made": list(row.made),
            "passed": row.passed,
            "problem": row.problem,
            **_figures(row),
        }
        for row in rows
    ]
    json_format.write(path, json_format.rounded(content))


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="adadm ship", description=__doc__)
    paths = Paths()
    parser.add_argument("checkpoint", type=paths.read_file, help="PyTorch or safetensors file")
    parser.add_argument(
        "--images",
        type=paths.read,
        nargs="+",
        required=True,
        metavar="PATH",
        help="original photographs, files or folders",
    )
    add_target(parser, nargs="+")
    parser.add_argument("-o", "--output", type=paths.written, required=True, metavar="DIR")
    parser.add_argument(
        "--budget-db",
        type=decibels,
        default=BUDGETS_DB["int8"],
        metavar="D",
        help="limit of the PSNR-Y loss of INT8, dB; default: %(default)s",
    )
    parser.add_argument(
        "--photographs",
        type=positive,
        default=ShipOptions.photographs,
        metavar="N",
        help="number of photographs, chosen by their content: two thirds to calibrate, the rest "
        "to certify; default: %(default)s",
    )
    add_stats(
        parser,
        "also make the models for tiles",
    )
    parser.add_argument(
        "--no-wheels",
        dest="wheels",
        action="store_false",
        help="leave the wheels out of the bundles; fetching them needs network access",
    )
    add_cache(parser, paths)
    add_sign(parser, paths)
    add_accept(parser)
    add_network_options(parser)
    arguments = parser.parse_args(argv)
    paths.check(rewrites=made_before(arguments.output, arguments.checkpoint))
    return arguments
