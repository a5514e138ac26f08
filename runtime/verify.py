#!/usr/bin/env python3
"""Verify a bundle on its target device.

Runs the engines, or the models where there are none, on the inputs in the bundle, compares the
outputs with the recorded ones, and measures latency.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from rich.table import Table

from adadm.runtime import json_format
from adadm.runtime.arguments import Parser, Paths
from adadm.runtime.bounds import above_zero
from adadm.runtime.bundles.bundle import Bundle, could_be_imported
from adadm.runtime.bundles.case_results import Times
from adadm.runtime.bundles.verification import Verification, verify
from adadm.runtime.cli import run
from adadm.runtime.engines.builder import adopt, check_builds_here
from adadm.runtime.engines.recipe import Recipe, make_recipe
from adadm.runtime.errors import EngineError, ParityError
from adadm.runtime.images.compare import Comparison
from adadm.runtime.models.onnx_reader import read_onnx
from adadm.runtime.progress import Bar
from adadm.runtime.tables import Console
from adadm.runtime.terminal import say


def main(argv: list[str]) -> None:
    """Parse the command line, verify or record, and print the findings.

    Raises:
        ParityError: the bundle does not pass; the result file is written nevertheless.
        EngineError: the folder is not a bundle, or there is nothing to record.
    """
    arguments = _parse(argv)
    bundle = Bundle.open(arguments.bundle)
    arguments.paths.check(bundle.read_files)
    if arguments.check_machine:
        _check_machine(bundle)
        return
    if arguments.record:
        _record(bundle)
        return
    with Bar() as bar:
        verification = verify(
            bundle, arguments.backend, arguments.seconds, trust=arguments.trust, progress=bar
        )
    _print(verification)
    if arguments.json is not None:
        json_format.write(arguments.json, verification.report)
    if not verification.report.passed:
        raise ParityError(_why(verification))


def _check_machine(bundle: Bundle) -> None:
    """Refuse models or a machine that trtexec must not build with."""
    if damaged := bundle.damaged_files():
        listed = ", ".join(damaged)
        raise EngineError(
            f"{listed}: missing or differs from the shipped file; copy the bundle again"
        )
    for variant in bundle.models:
        check_builds_here(_recipe(bundle, variant))


def _record(bundle: Bundle) -> None:
    """Turn the plans that trtexec built into engines with manifests."""
    plans = {variant: bundle.path(f"{engine}.plan") for variant, engine in bundle.engines.items()}
    if not any(plan.is_file() for plan in plans.values()):
        raise EngineError(
            f"{bundle.folder} has no plan of trtexec ("
            f"{', '.join(plan.name for plan in plans.values())}); run build.sh, which builds and "
            "records them"
        )
    for variant, plan in plans.items():
        if plan.is_file():
            engine = bundle.path(bundle.engines[variant])
            adopt(_recipe(bundle, variant), plan, engine)
            plan.unlink()
            say(f"wrote {engine}")


def _recipe(bundle: Bundle, variant: str) -> Recipe:
    """The recipe by which build.sh has trtexec build an engine."""
    model = read_onnx(bundle.path(bundle.models[variant]))
    recipe = make_recipe(model, bundle.target, (), workspace_bytes=bundle.workspace_bytes)
    return replace(recipe, profiles=bundle.profiles[variant])


def _print(found: Verification) -> None:
    report = found.report
    table = Table("reference", "form", "output", "dB", "required", "largest error", "at the border")
    for outcome in found.outcomes:
        reference = outcome.reference
        for name, comparison in outcome.comparisons.items():
            found_db, largest, border = _cells(comparison)
            asked_db = f"{reference.psnr_db[name]:.1f}"
            cells = (reference.name, reference.variant, name, found_db, asked_db, largest, border)
            table.add_row(*cells, style="red" if outcome.failures else None)
    if table.rows:
        Console().print(table)
    if (latency := report.latency) is not None:
        say(f"latency of {latency.reference}, end to end: {_line(latency.end_to_end_ms)}")
        if latency.kernels_ms is not None:
            say(f"latency of {latency.reference}, kernels: {_line(latency.kernels_ms)}")
    for name in report.unlisted_files:
        if not could_be_imported(name):
            say(f"note: {name} is not part of the bundle")
    say(f"{'passed' if report.passed else 'FAILED'} on {report.backend}: {report.reason}")


def _cells(comparison: Comparison | None) -> tuple[str, str, str]:
    """PSNR, largest error, and largest error at the border, which only images have."""
    if comparison is None:
        return "none", "", ""
    border = f"{comparison.border_error:.3g}" if len(comparison.shape) == 4 else ""
    return f"{comparison.psnr_db:.1f}", f"{comparison.largest_error:.3g}", border


def _line(times: Times) -> str:
    return (
        f"median {times.median:.3g} ms, mean {times.mean:.3g}, p90 {times.p90:.3g}, p99 "
        f"{times.p99:.3g}, {times.min:.3g} to {times.max:.3g} in {times.count} runs"
    )


def _why(found: Verification) -> str:
    """The reasons of a failure, one a line."""
    reasons = [
        f"{name} is missing or differs from the shipped file" for name in found.report.changed_files
    ]
    reasons += [
        f"{name} is not part of the bundle, and could be imported in place of a module: remove it"
        for name in found.report.unlisted_files
        if could_be_imported(name)
    ]
    for outcome in found.outcomes:
        title = f"{outcome.reference.name}, {outcome.reference.variant}"
        reasons += [f"{title}: {failure}" for failure in outcome.failures]
    if found.report.diagnosis is not None:
        reasons.append(f"diagnosis: {found.report.diagnosis}")
    listed = "\n".join(f"  {reason}" for reason in reasons)
    return f"{found.bundle.folder} does not pass on {found.report.backend}:\n{listed}"


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="verify.py", description=__doc__)
    paths = Paths()
    add = parser.add_argument
    add("bundle", type=paths.read, help="folder made by 'adadm bundle'")
    add("--json", type=paths.written_file, metavar="OUT", help="write all findings")
    add(
        "--backend",
        choices=("auto", "engine", "cpu"),
        default="auto",
        help="cpu: ONNX Runtime on the models; default: auto, the engine if it can run, else cpu",
    )
    add(
        "--seconds",
        type=above_zero,
        default=5.0,
        help="measuring time, each for a model and its kernels; default: 5",
    )
    add(
        "--record",
        action="store_true",
        help="only turn the plans that trtexec built into engines with manifests",
    )
    add(
        "--check-machine",
        action="store_true",
        help="only check that engines can be built here: files, TensorRT version, GPU",
    )
    add(
        "--trust",
        action="store_true",
        help="run engines without a manifest, as trtexec alone writes them; an engine is code",
    )
    arguments = parser.parse_args(argv)
    arguments.paths = paths
    return arguments


if __name__ == "__main__":
    sys.exit(run("verify.py", main, sys.argv[1:]))
