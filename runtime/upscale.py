"""Upscale photographs of any size, seam-free.

An image that does not fit into memory is run in tiles that share the statistics of the modulators.
The result then equals that of the whole image and shows no seams.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from adadm.runtime.arguments import named_path, positive
from adadm.runtime.backends import BACKENDS
from adadm.runtime.errors import ImageError
from adadm.runtime.images.arrays import EXTENSIONS
from adadm.runtime.images.vips import load_vips
from adadm.runtime.models.bundled import BUNDLED, companion_files
from adadm.runtime.progress import Bar
from adadm.runtime.upscaling.batch import BatchResult, find_jobs, upscale_files
from adadm.runtime.upscaling.shared_std import Passes
from adadm.runtime.upscaling.tile_plan import DEFAULT_ACCURACY, Tile
from adadm.runtime.upscaling.upscaler import Upscaler

_FACTORS = sorted(int(name[1:]) for name in BUNDLED)


def main(argv: list[str]) -> None:
    """Parse the command line, upscale, and print a summary.

    Raises:
        ImageError: some files failed; the message lists them. The others are written.
    """
    arguments = _parse(argv)
    load_vips()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that temporary files are removed
    model = arguments.model or f"x{arguments.upscale or _FACTORS[0]}"
    jobs = find_jobs(arguments.input, arguments.output, arguments.format, companion_files(model))
    with (
        Upscaler(
            model,
            backend=arguments.backend,
            tile=arguments.tile,
            passes=arguments.passes,
            overlap=arguments.overlap,
            accuracy=arguments.accuracy,
            threads=arguments.threads,
            memory_gib=arguments.memory,
            accept=arguments.accept,
        ) as upscaler,
        Bar("images") as bar,
    ):
        outcome = upscale_files(
            upscaler,
            jobs,
            overwrite=arguments.overwrite,
            quality=arguments.quality,
            largest_megapixels=arguments.max_megapixels,
            progress=bar,
            windows=bar.beneath(),
        )
    _summarise(outcome, arguments.output)


def _summarise(outcome: BatchResult, output: Path) -> None:
    done, skipped, failed = (len(part) for part in (outcome.done, outcome.skipped, outcome.failed))
    hint = " (they exist; --overwrite replaces them)" if skipped else ""
    print(f"{output}: {done} done, {skipped} skipped{hint}, {failed} failed")
    if outcome.failed:
        reasons = "\n".join(
            f"  {reason if str(job.source) in reason else f'{job.source}: {reason}'}"
            for job, reason in outcome.failed
        )
        raise ImageError(f"{failed} of {outcome.count} images failed:\n{reasons}")


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty name")
    return Path(text)


def _tile(text: str) -> Tile:
    if text in ("auto", "off"):
        return text  # type: ignore[return-value]
    return positive(text)


def _passes(text: str) -> Passes:
    return "settle" if text == "settle" else positive(text)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="adadm upscale", description=__doc__)
    add = parser.add_argument
    add("input", nargs="+", type=_path, help="image files and folders of images")
    add(
        "-o",
        "--output",
        type=named_path,
        required=True,
        help="a folder that mirrors the input folders, or a file name for a single image",
    )
    add(
        "--upscale",
        type=int,
        choices=_FACTORS,
        help=f"factor of the bundled model; default: {_FACTORS[0]}",
    )
    add(
        "--model",
        help="an exported model, or an engine built from one, instead of a bundled model",
    )
    add(
        "--backend",
        choices=("auto", *BACKENDS),
        default="auto",
        help="default: auto, the first of cuda, openvino and cpu that works (engine for an engine)",
    )
    add(
        "--tile",
        type=_tile,
        default="auto",
        metavar="auto|N|off",
        help="side of a tile in input px, without its overlap; default: auto, the whole image if "
        "memory and the engine allow, else the largest tile that fits",
    )
    add(
        "--passes",
        type=_passes,
        default=2,
        metavar="N|settle",
        help="passes over the tiles: 1 gives each tile its own statistic (seams), 2 is exact to a "
        "fraction of a grey level, settle repeats until nothing changes, at most 12; default: 2",
    )
    add(
        "--overlap", type=int, metavar="PX", help="overlap of tiles; default: what --accuracy needs"
    )
    add(
        "--accuracy",
        type=float,
        default=DEFAULT_ACCURACY,
        metavar="LEVELS",
        help="largest error of settled tiles against the whole image, in grey levels of 255; "
        f"default: {DEFAULT_ACCURACY}",
    )
    add(
        "--format",
        choices=[suffix[1:] for suffix in sorted(EXTENSIONS)],
        help="format of the results; default: that of each source",
    )
    add("--quality", type=int, default=95, help="quality of JPEG and WebP, 1 to 100; default: 95")
    add("--overwrite", action="store_true", help="replace existing results")
    add(
        "--accept",
        action="store_true",
        help="write results that are not finite or too far from their input, with a warning; "
        "default: such an image fails",
    )
    add(
        "--memory",
        type=float,
        metavar="GIB",
        help="total memory limit of the process, on a CPU; default: all that is free",
    )
    add("--threads", type=int, default=0, help="CPU threads; default: 0, the backend's choice")
    add(
        "--max-megapixels",
        type=float,
        default=500.0,
        help="refuse larger images, which may be decompression bombs; default: 500",
    )
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.quality <= 100:
        parser.error(f"--quality: expected 1 to 100, got {arguments.quality}")
    if not arguments.max_megapixels > 0:
        parser.error(f"--max-megapixels: expected a number above 0, got {arguments.max_megapixels}")
    if arguments.model and arguments.upscale:
        parser.error("--upscale chooses a bundled model: leave out --upscale or --model")
    if arguments.memory is not None and arguments.tile == "off":
        parser.error("--memory chooses tiles: leave out --memory or --tile off")
    if arguments.threads < 0:
        parser.error(f"--threads: expected 0 or more, got {arguments.threads}")
    arguments.format = arguments.format and f".{arguments.format}"
    return arguments
