"""Show what will cost quality in deployment, block by block, with remedies.

Lists each modulator and normalization of a checkpoint, or of an ONNX file exported from one, and
measures the contrast that the network bears. With photographs, also shows how deviations and
factors vary with their content, and the headroom of float16 and INT8.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from adadm.calibration.quality.photographs import CalibrationImages
from adadm.deployment.inspection.contact_sheet import draw_contact_sheet
from adadm.deployment.inspection.contrast import Contrast, measure_contrast
from adadm.deployment.inspection.figure import PICTURES, draw_inspection
from adadm.deployment.inspection.inspected_file import InspectedFile, read_inspected_file
from adadm.deployment.inspection.summary import Inspection, inspect_on_images, inspect_weights
from adadm.deployment.inspection.tables import print_inspection
from adadm.export.arguments import add_network_options, network_options
from adadm.runtime import json_format
from adadm.runtime.arguments import Parser, Paths
from adadm.runtime.errors import CalibrationError
from adadm.runtime.files import cache_folder, written_whole
from adadm.runtime.models.bundled import is_onnx
from adadm.runtime.progress import Bar
from adadm.runtime.tables import Console
from adadm.runtime.terminal import say


def main(argv: list[str]) -> None:
    """Parse the command line, inspect, print, and write the requested files."""
    arguments = _parse(argv)
    is_model = is_onnx(arguments.source)
    images: list[Path] | None = arguments.images
    with Bar("reading the network" if is_model else "tracing the network") as bar:
        inspected = read_inspected_file(
            arguments.source, free_sizes=bool(images), **network_options(arguments)
        )
        contrast = measure_contrast(inspected, progress=bar)
    if arguments.sheet is not None and contrast is None:
        raise CalibrationError(
            f"{arguments.source} fixes the size of its input, so that no drawn pictures are run; "
            "give the checkpoint, or leave out --sheet"
        )
    if images:
        inspection = _on_images(inspected, images, contrast)
    else:
        inspection = inspect_weights(inspected, contrast)
    print_inspection(inspection, Console())
    for path in _write(inspection, arguments.output, arguments.sheet, arguments.json):
        say(f"wrote {path}")


def _write(
    inspection: Inspection, picture: Path | None, sheet: Path | None, report: Path | None
) -> list[Path]:
    """Write all files or none."""
    with ExitStack() as files:
        if sheet is not None and inspection.contrast is not None:
            draw_contact_sheet(inspection.contrast, files.enter_context(written_whole(sheet)))
        if picture is not None:
            draw_inspection(inspection, files.enter_context(written_whole(picture)))
        if report is not None:
            content = json_format.text(inspection.as_json())
            files.enter_context(written_whole(report)).write_text(content, encoding="utf-8")
    return [path for path in (picture, sheet, report) if path is not None]


def _on_images(
    inspected: InspectedFile, paths: list[Path], contrast: Contrast | None
) -> Inspection:
    if inspected.static and inspected.static[0] > 1:
        raise CalibrationError(
            f"{inspected.path} has a batch size of {inspected.static[0]}, but photographs are "
            "measured one by one; give the checkpoint, or leave out --images"
        )
    tile = inspected.static and inspected.static[1:]
    with Bar("reading the photographs") as bar:
        images = CalibrationImages.of(
            paths,
            inspected.metadata.upscale,
            tile=tile,
            smallest_area=inspected.metadata.smallest_area,
            progress=bar,
        )
        return inspect_on_images(inspected, images, cache_folder(), contrast=contrast, progress=bar)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="adadm inspect", description=__doc__)
    paths = Paths()
    parser.add_argument(
        "source",
        type=paths.read,
        help="PyTorch or safetensors file, or .onnx of adadm export or adadm quantize; an export "
        "with --fold off shows the most",
    )
    parser.add_argument(
        "--images",
        type=paths.read,
        nargs="+",
        metavar="PATH",
        help="original photographs, files or folders: each is reduced by the network's factor",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=paths.written_as(*PICTURES),
        metavar="PICTURE",
        help="draw the figures: .svg or .png",
    )
    parser.add_argument(
        "--sheet",
        type=paths.written_as(*PICTURES),
        metavar="PICTURE",
        help="show the drawn pictures that are enlarged worst, with and without limits: .svg or "
        ".png",
    )
    parser.add_argument(
        "--json", type=paths.written_file, metavar="FILE", help="write a JSON report"
    )
    add_network_options(parser)
    arguments = parser.parse_args(argv)
    paths.check()
    return arguments
