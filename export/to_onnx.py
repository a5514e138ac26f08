#!/usr/bin/env python3
"""Export a trained checkpoint to ONNX exactly, and prove it against PyTorch.

Also `adadm export`. Batch normalization is folded exactly, and each AdaDM modulator is one node.
The file is written only if ONNX Runtime agrees with PyTorch on photographs and hard cases.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # before the imports below, to name a missing extra
    from adadm.runtime.cli import main as adadm

    sys.exit(adadm(["export", *sys.argv[1:]]))

import argparse
from dataclasses import fields
from pathlib import Path

from adadm.export.arguments import add_network_options, add_stats, network_options
from adadm.export.checkpoint import load_checkpoint
from adadm.export.options import OPSETS, Options
from adadm.export.pipeline import Export, export_onnx
from adadm.export.proof.parity import LARGEST_RELATIVE_ERROR
from adadm.runtime.arguments import Parser, Paths
from adadm.runtime.bounds import size
from adadm.runtime.models.bundled import FOR_TILES, variant_path
from adadm.runtime.progress import Bar, Progress
from adadm.runtime.tables import Console, make_table
from adadm.runtime.terminal import say


def main(argv: list[str]) -> None:
    """Parse the command line, export, write, and print the report."""
    arguments = _parse(argv)
    bar = Bar("reading the checkpoint")
    output: Path = arguments.output
    checkpoint = load_checkpoint(arguments.checkpoint, **network_options(arguments))
    options = Options(**{field.name: getattr(arguments, field.name) for field in fields(Options)})
    with bar:
        export = export_onnx(checkpoint, options, progress=bar)
    written = export.write(output, arguments.report)
    print_report(export, Console())
    for path in written:
        say(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")
    _warn(export, bar)


def print_report(export: Export, console: Console) -> None:
    """Print the hyper-parameters, the folds, and the parity with PyTorch."""
    network, say = export.checkpoint.network, console.print
    console.print(f"{network.architecture} x{network.upscale} with AdaDM", style="bold")
    for name, parameter in export.checkpoint.hyperparameters.items():
        say(f"  {name} = {parameter}")
    say(str(export.checkpoint.weights))
    _print_decisions(export, console)
    if export.tail is None:
        console.print("tail: kept (--tail original)")
    else:
        left_alone = f"kept: {export.tail.reason}"
        say(f"tail: {export.tail.result or left_alone}")
    before, after = sum(export.nodes_before.values()), sum(export.nodes_after.values())
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(export.nodes_after.items()))
    say(f"nodes: {before} before, {after} after: {counted}")

    peak = max(result.peak for result in export.parity)
    headers = ("case", "output", "largest error", "at border", "inside", "dB")
    title = f"ONNX Runtime against PyTorch, float32, output peak {peak:.4g}"
    table = make_table(title, headers, left=("case",))
    for result in export.parity:
        batch, _, height, width = result.shape
        inside = "-" if result.interior_error is None else f"{result.interior_error:.1e}"
        table.add_row(
            result.name,
            f"{batch}x{height}x{width}",
            f"{result.largest_error:.1e}",
            f"{result.border_error:.1e}",
            inside,
            f"{result.psnr_db:.1f}",
        )
    console.print(table)
    worst = max(result.largest_error for result in export.parity)
    say(
        f"parity: largest error {worst:.2e}, {worst / (peak or 1):.1e} of the peak "
        f"(limit {LARGEST_RELATIVE_ERROR:.0e})"
    )
    if export.tiles_parity:
        worst = max(result.largest_error for result in export.tiles_parity)
        say(
            f"parity of the models for tiles, given the std of the whole image: largest error "
            f"{worst:.2e}, {worst / (peak or 1):.1e} of the peak"
        )
    if export.halo:
        listed = ", ".join(f"{error.px} px {error.levels:.1g}" for error in export.halo)
        say(f"tiles, largest error in grey levels at an overlap of: {listed}")
    for backend, memory in export.memory.items():
        say(
            f"memory on {backend}: {memory.fixed_bytes / 1e6:.0f} MB and "
            f"{memory.bytes_per_pixel / 1e3:.1f} kB a pixel of the input"
        )
    if export.hashing:
        codes = sum(hashing.codes for hashing in export.hashing)
        differing = sum(hashing.differing for hashing in export.hashing)
        psnr_db = min(hashing.free_psnr_db for hashing in export.hashing)
        say(
            f"hash codes: {differing} of {codes} differ from PyTorch's, by a rounding. Above, "
            "PyTorch used the codes of ONNX Runtime; if each uses its own, outputs agree to "
            f"{psnr_db:.1f} dB or better"
        )
    for accuracy in export.accuracy:
        say(
            f"accuracy: {accuracy.name} reduced and enlarged: {accuracy.network_db:.2f} dB PSNR-Y, "
            f"bicubic {accuracy.bicubic_db:.2f} dB"
        )


def _print_decisions(export: Export, console: Console) -> None:
    say = console.print
    if export.options.fold == "off":
        console.print("batch normalization: kept (--fold off)")
        return
    forms: dict[str, list[str]] = {}
    for decision in export.decisions:
        forms.setdefault(decision.result or "affine kept", []).append(decision.node)
    for form, nodes in forms.items():
        say(f"batch normalization, {form}: {len(nodes)}")
    for decision in export.decisions:
        if decision.result is None:
            say(f"  {decision.node} kept: {decision.reason}")


def _warn(export: Export, progress: Progress) -> None:
    for warning in export.warnings:
        progress.message(warning, warning=True)
    guesses = export.checkpoint.guesses
    if guesses and not export.warnings:
        named = ", ".join(f"{name} {value:g}" for name, value in guesses.items())
        progress.message(f"note: not in the file, published values used: {named}")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="adadm export", description=__doc__)
    paths = Paths()
    parser.add_argument("checkpoint", type=paths.read_file, help="PyTorch or safetensors file")
    parser.add_argument(
        "-o",
        "--output",
        type=paths.written_as(".onnx"),
        help="default: the checkpoint's name with .onnx",
    )
    parser.add_argument(
        "--modulator",
        choices=("function", "inline"),
        default="function",
        help="function: one node with its body in the file; inline: expanded, for TensorRT 8.x; "
        "default: function",
    )
    parser.add_argument(
        "--fold",
        choices=("exact", "off"),
        default="exact",
        help="fold batch normalization exactly, or keep it; default: exact",
    )
    parser.add_argument(
        "--tail",
        choices=("collapsed", "original"),
        default="collapsed",
        help="collapsed: one convolution at low resolution and one DepthToSpace, if the tail is "
        "linear; original: unchanged; default: collapsed",
    )
    parser.add_argument(
        "--io",
        choices=("float32", "uint8"),
        default="float32",
        help="float32: (N, 3, H, W) in 0..rgb_range; uint8: images (N, H, W, 3); default: float32",
    )
    parser.add_argument("--opset", type=int, choices=OPSETS, default=19, help="default: 19")
    parser.add_argument("--static", type=size, metavar="NxHxW", help="fix the input size")
    parser.add_argument("--factors", action="store_true", help="output the modulation factors too")
    add_stats(
        parser,
        "write two more models, NAME.tile.onnx and NAME.moments.onnx, for running an image in "
        "tiles that share the statistics of the modulators; default: internal",
    )
    parser.add_argument(
        "--report", type=paths.written_file, metavar="FILE.json", help="write the report"
    )
    add_network_options(parser)
    arguments = parser.parse_args(argv)
    default = arguments.checkpoint.with_suffix(".onnx")
    arguments.output = arguments.output or paths.written(default)
    for_tiles = [variant_path(arguments.output, variant) for variant in FOR_TILES]
    paths.check(writes=for_tiles if arguments.stats == "external" else [])
    return arguments
