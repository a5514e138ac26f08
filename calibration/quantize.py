"""Lower a network to FP16 or INT8, measure the loss of quality, and keep it within a budget.

Reads a checkpoint, or an export of it with --fold off. Ranges come from
photographs. The loss of each stage is measured on them in dB. A model is not written if it loses
more than the budget, adds visible artefacts, or is of a network that fails in float32 itself.
"""

from __future__ import annotations

import argparse
from dataclasses import fields

from adadm.calibration.lowering import BUDGETS_DB, LoweringOptions
from adadm.calibration.pipeline import Quantized, lower_network, plot_path
from adadm.calibration.quality.ledger import print_ledger
from adadm.calibration.quality.photographs import FEWEST, CalibrationImages
from adadm.calibration.ranges.float16_ranges import print_half_ranges
from adadm.calibration.ranges.int8_ranges import slow_channels, slow_channels_note
from adadm.calibration.search.sensitivity import print_sensitivities
from adadm.calibration.source_network import load_source_network
from adadm.export.arguments import add_network_options, add_stats, network_options
from adadm.runtime.arguments import Parser, Paths, add_accept, add_cache, add_target
from adadm.runtime.bounds import decibels, positive, size
from adadm.runtime.errors import CalibrationError
from adadm.runtime.models.bundled import FOR_TILES, report_path, variant_path
from adadm.runtime.progress import Bar
from adadm.runtime.tables import Console
from adadm.runtime.targets import TARGETS
from adadm.runtime.terminal import say

_PHOTOGRAPHS = 32


def main(argv: list[str]) -> None:
    """Parse the command line, lower the network, print the loss, and write the models."""
    arguments = _parse(argv)
    bar = Bar()
    source = load_source_network(arguments.source, **network_options(arguments))
    static = source.static or arguments.static
    if arguments.static not in (None, static) or (source.static and arguments.tile):
        raise CalibrationError(
            f"{arguments.source} takes only inputs of {'x'.join(map(str, static or ()))}; export "
            "it without --static, or give the checkpoint"
        )
    options = {field.name: getattr(arguments, field.name) for field in fields(LoweringOptions)}
    options |= {"target": TARGETS[arguments.target], "static": static}
    if arguments.budget_db is None:
        options["budget_db"] = BUDGETS_DB[arguments.precision]
    request = LoweringOptions(**options)
    tile = static[1:] if static else arguments.tile and (arguments.tile, arguments.tile)
    images = CalibrationImages.of(
        arguments.images,
        source.metadata.upscale,
        count=arguments.photographs,
        tile=tile,
        smallest_area=source.metadata.smallest_area,
        progress=bar,
    )
    calibration, proof = images.split(FEWEST)
    say(f"calibration: {calibration}")
    say(f"loss: {'the same' if proof is calibration else proof}")
    if images.too_few:
        bar.message(images.too_few, warning=True)
    with bar:
        quantized = lower_network(source, calibration, request, proof=proof, progress=bar)
    _print(quantized, Console())
    quantized.check()
    for path in quantized.write(arguments.output):
        say(f"wrote {path}")


def _print(quantized: Quantized, console: Console) -> None:
    lowering, assignment = quantized.lowering, quantized.assignment
    target = lowering.request.target
    say = console.print
    say(f"target: {target.name} ({target.description})")
    if lowering.exponent:
        say(f"trunk: multiplied by 2^{lowering.exponent}, exactly, so that float16 holds it")
    if lowering.ranges:
        print_half_ranges(lowering.ranges, console)
    if quantized.sensitivities:
        print_sensitivities(quantized.sensitivities, console, quantized.spared)
    if assignment:
        spared = ", ".join(quantized.spared) or "none"
        say(
            f"INT8: {len(assignment.int8)} of {len(lowering.work)} convolutions, "
            f"{lowering.share(assignment.int8):.1%} of the multiply-adds at 480x270; "
            f"spared: {spared}"
        )
        channels = slow_channels(lowering.whole.graph)
        if channels and target.computes_half:
            say(slow_channels_note(channels))
    print_ledger(quantized.ledger, console)
    say(
        f"PSNR-Y lost to float32: {quantized.lost_db:+.4f} dB; budget "
        f"{lowering.request.budget_db:g} dB"
    )


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="adadm quantize", description=__doc__)
    paths = Paths()
    parser.add_argument(
        "source",
        type=paths.read,
        help="PyTorch or safetensors file, or .onnx exported with --fold off",
    )
    parser.add_argument(
        "--images",
        type=paths.read,
        nargs="+",
        required=True,
        metavar="PATH",
        help="original photographs, files or folders: each is reduced by the network's factor",
    )
    parser.add_argument("--precision", choices=("fp16", "int8"), required=True)
    output = paths.written_as(".onnx")
    parser.add_argument("-o", "--output", type=output, required=True, metavar="OUT.onnx")
    add_target(parser, default="tensorrt10")
    defaults = ", ".join(f"{name} {db:g}" for name, db in BUDGETS_DB.items())
    parser.add_argument(
        "--budget-db",
        type=decibels,
        metavar="D",
        help=f"limit of the PSNR-Y loss against float32, dB; default: {defaults}",
    )
    parser.add_argument(
        "--photographs",
        type=positive,
        default=_PHOTOGRAPHS,
        metavar="N",
        help="number of photographs, chosen by their content: two thirds to calibrate, the rest to "
        f"measure the loss; default: {_PHOTOGRAPHS}",
    )
    geometry = parser.add_mutually_exclusive_group()
    geometry.add_argument(
        "--tile",
        type=positive,
        metavar="PX",
        help="calibrate for tiles of PX px with separate statistics; default: whole images",
    )
    geometry.add_argument("--static", type=size, metavar="NxHxW", help="fix the input's size")
    parser.add_argument("--io", choices=("float32", "uint8"), default="float32")
    add_stats(
        parser,
        "also lower the models for tiles that share their statistics",
    )
    parser.add_argument(
        "--sensitivity",
        action="store_true",
        help="measure each convolution even if the budget does not require it",
    )
    add_cache(parser, paths)
    add_accept(parser)
    add_network_options(parser)
    arguments = parser.parse_args(argv)
    if arguments.sensitivity and arguments.precision == "fp16":
        parser.error("--sensitivity measures convolutions in INT8; give --precision int8")
    for_tiles = [variant_path(arguments.output, variant) for variant in FOR_TILES]
    more = [report_path(arguments.output), plot_path(arguments.output)]
    paths.check(writes=more + (for_tiles if arguments.stats == "external" else []))
    return arguments
