"""Upscale photographs of any size, seam-free.

An image that does not fit into memory is run in tiles that share the statistics of the modulators.
The result then equals that of the whole image and shows no seams.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from adadm.runtime.arguments import Parser, writable_path
from adadm.runtime.backends import BACKENDS
from adadm.runtime.bounds import above_zero, integer, number
from adadm.runtime.errors import AdadmError, ImageError
from adadm.runtime.images.file_kinds import PHOTO_SUFFIXES
from adadm.runtime.images.photo_reader import read_size
from adadm.runtime.images.photo_writer import WRITTEN_SUFFIXES
from adadm.runtime.images.vips import load_vips
from adadm.runtime.models.bundled import BUNDLED, companion_files
from adadm.runtime.progress import Bar, Progress
from adadm.runtime.terminal import say
from adadm.runtime.upscaling.batch import BatchResult, upscale_files
from adadm.runtime.upscaling.jobs import Job, Jobs, earlier_results, expand_inputs, find_jobs
from adadm.runtime.upscaling.reduced_size import ResultSize
from adadm.runtime.upscaling.tile_plan import DEFAULT_ACCURACY
from adadm.runtime.upscaling.upscaler import Upscaler

_MOST_SUSPECTS = 3
_SMALL_PX = 512 * 512
_FACTORS = sorted(int(name[1:]) for name in BUNDLED)


def main(argv: list[str]) -> None:
    """Parse the command line, upscale, and print a summary.

    Raises:
        ImageError: some files failed; the message lists them. The others are written.
    """
    arguments = _parse(argv)
    load_vips()
    inputs, lists = expand_inputs(arguments.input)
    models = [arguments.model] if arguments.model else list(BUNDLED)
    found = find_jobs(
        inputs,
        arguments.output,
        arguments.format,
        [*(file for model in models for file in companion_files(model)), *lists],
        suffixes=PHOTO_SUFFIXES,
        recursive=arguments.recursive,
        previews=arguments.compare,
    )
    model = arguments.model or f"x{arguments.upscale or _factor_for(found.jobs, arguments)}"
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
            self_ensemble=arguments.self_ensemble,
            accept=arguments.accept,
            may_time=not (arguments.dry_run or _is_quick(found.jobs, arguments)),
        ) as upscaler,
        Bar("images") as bar,
    ):
        if upscaler.timing:
            bar.message(f"backend {upscaler.backend}; timed here: {upscaler.timing}")
        _warn_of_earlier_results([job.source for job in found.jobs], bar)
        if arguments.dry_run:
            outcome = _announce(upscaler, found.jobs, arguments)
        else:
            outcome = upscale_files(
                upscaler,
                found.jobs,
                overwrite=arguments.overwrite,
                quality=arguments.quality,
                largest_megapixels=arguments.max_megapixels,
                size=arguments.size,
                progress=bar,
                windows=bar.beneath(),
            )
    _summarise(outcome, found, arguments)


def _factor_for(jobs: list[Job], arguments: argparse.Namespace) -> int:
    """The smallest bundled factor that makes the wanted size of every image, or the largest."""
    size: ResultSize = arguments.size
    needed = size.factor or 1.0
    for job in jobs if size.width or size.height else ():
        with contextlib.suppress(ImageError):  # it fails by itself, later
            lengths = read_size(job.source, arguments.max_megapixels)
            needed = max(needed, size.factor_of(*lengths) or 1)
    return next((f for f in _FACTORS if f >= needed), _FACTORS[-1])


def _is_quick(jobs: list[Job], arguments: argparse.Namespace) -> bool:
    """True for one small image, which is done sooner than backends are timed."""
    if len(jobs) > 1:
        return False
    with contextlib.suppress(ImageError):  # it fails by itself, later
        sizes = [read_size(job.source, arguments.max_megapixels) for job in jobs]
        return all(height * width <= _SMALL_PX for height, width in sizes)
    return True


def _warn_of_earlier_results(sources: list[Path], progress: Progress) -> None:
    suspects = list(earlier_results(sources))
    for path, original in suspects[:_MOST_SUSPECTS]:
        progress.message(
            f"{path}: WARNING: looks like an earlier result of {original}, and is upscaled too; "
            "to leave it out, move it, or name the inputs",
            warning=True,
        )
    if len(suspects) > _MOST_SUSPECTS:
        more = len(suspects) - _MOST_SUSPECTS
        progress.message(f"WARNING: {more} more look like earlier results", warning=True)


def _announce(upscaler: Upscaler, jobs: list[Job], arguments: argparse.Namespace) -> BatchResult:
    """Print what would be read and written, with sizes in px."""
    outcome = BatchResult()
    for job in jobs:
        try:
            height, width = read_size(job.source, arguments.max_megapixels)
            to_height, to_width = arguments.size.of(height, width, upscaler.upscale_factor)
        except AdadmError as error:
            outcome.failed.append((job, str(error)))
            continue
        is_there = job.target.exists() and not arguments.overwrite
        (outcome.skipped if is_there else outcome.done).append(job)
        result = "exists" if is_there else f"{to_width}x{to_height}"
        preview = f", compared in {job.preview}" if job.preview and not is_there else ""
        say(f"{job.source} {width}x{height} -> {job.target} {result}{preview}")
    return outcome


def _summarise(outcome: BatchResult, found: Jobs, arguments: argparse.Namespace) -> None:
    done, skipped, failed = (len(part) for part in (outcome.done, outcome.skipped, outcome.failed))
    hint = " (they exist; --overwrite replaces them)" if skipped else ""
    verb = "to do" if arguments.dry_run else "done"
    say(f"{arguments.output}: {done} {verb}, {skipped} skipped{hint}, {failed} failed")
    if found.passed_over:
        say(f"passed over: {found.passed_over_kinds}")
    if found.left_out:
        say(f"left out: {found.left_out} earlier results, in {arguments.output}")
    if outcome.failed:
        reasons = "\n".join(
            f"  {reason if str(job.source) in reason else f'{job.source}: {reason}'}"
            for job, reason in outcome.failed
        )
        raise ImageError(f"{failed} of {outcome.count} images failed:\n{reasons}")


def _input(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty name")
    return text


def _box(text: str) -> ResultSize:
    try:
        return ResultSize.in_box(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _factor(text: str) -> ResultSize:
    return ResultSize(factor=above_zero(text))


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="adadm upscale", description=__doc__)
    add = parser.add_argument
    add(
        "input",
        nargs="+",
        type=_input,
        help="image files, folders of images, patterns such as 'photos/**/*.jpg', and lists of "
        "inputs, one a line: @files.txt",
    )
    add(
        "-o",
        "--output",
        type=writable_path,
        required=True,
        help="a folder that mirrors the input folders, or a file name for a single image",
    )
    add(
        "--upscale",
        type=int,
        choices=_FACTORS,
        help=f"factor of the bundled model; default: {_FACTORS[0]}, or what --size or --scale need",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--size",
        type=_box,
        default=ResultSize(),
        metavar="WxH",
        help="reduce the results to fit into this box, in px, with their aspect ratio kept; Wx or "
        "xH for one side alone",
    )
    size.add_argument(
        "--scale",
        dest="size",
        type=_factor,
        default=ResultSize(),
        metavar="F",
        help="reduce the results to this factor of their sources, such as 1.5",
    )
    add(
        "--self-ensemble",
        action="store_true",
        help="mean of the results for the eight flips and rotations of each image: a little "
        "better, eight times slower",
    )
    add(
        "--model",
        help="an exported model, or an engine built from one, instead of a bundled model",
    )
    add(
        "--backend",
        choices=("auto", *BACKENDS),
        default="auto",
        help="default: auto: cuda if it works, else the faster of openvino and cpu, timed once for "
        "a model and this machine (engine for an engine)",
    )
    add(
        "--tile",
        type=integer(1, 1_000_000, "auto", "off"),
        default="auto",
        metavar="auto|N|off",
        help="side of a tile in input px, without its overlap; default: auto, the whole image if "
        "memory and the engine allow, else the largest tile that fits",
    )
    add(
        "--passes",
        type=integer(1, 1000, "settle"),
        default=2,
        metavar="N|settle",
        help="passes over the tiles: 1 gives each tile its own statistic (seams), 2 is exact to a "
        "fraction of a grey level, settle repeats until nothing changes, at most 12; default: 2",
    )
    add(
        "--overlap",
        type=integer(0, 100_000),
        metavar="PX",
        help="overlap of tiles; default: what --accuracy needs",
    )
    add(
        "--accuracy",
        type=number(0, 255, above=True),
        default=DEFAULT_ACCURACY,
        metavar="LEVELS",
        help="largest error of settled tiles against the whole image, in grey levels of 255; "
        f"default: {DEFAULT_ACCURACY}",
    )
    add(
        "--format",
        choices=[suffix[1:] for suffix in sorted(WRITTEN_SUFFIXES)],
        help="format of the results; default: that of each source, or PNG if it is not written",
    )
    add(
        "--quality",
        type=integer(1, 100),
        default=95,
        help="quality of JPEG, AVIF and WebP, 1 to 100; default: 95",
    )
    add(
        "--recursive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="search the folders in folders too; default: --recursive",
    )
    add("--overwrite", action="store_true", help="replace existing results")
    add("--dry-run", action="store_true", help="print what would be written, and write nothing")
    add(
        "--compare",
        type=writable_path,
        metavar="DIR",
        help="write there each source, enlarged by bicubic interpolation, beside its result (PNG)",
    )
    add(
        "--accept",
        action="store_true",
        help="write results that are not finite or too far from their input, with a warning; "
        "default: such an image fails",
    )
    add(
        "--memory",
        type=above_zero,
        metavar="GIB",
        help="total memory limit of the process, on a CPU; default: all that is free",
    )
    add(
        "--threads",
        type=integer(0, 1024),
        default=0,
        help="CPU threads; default: 0, the backend's choice",
    )
    add(
        "--max-megapixels",
        type=above_zero,
        default=500.0,
        help="refuse larger images, which may be decompression bombs; default: 500",
    )
    arguments = parser.parse_args(argv)
    if arguments.model and arguments.upscale:
        parser.error("--upscale chooses a bundled model: leave out --upscale or --model")
    if arguments.memory is not None and arguments.tile == "off":
        parser.error("--memory chooses tiles: leave out --memory or --tile off")
    arguments.format = arguments.format and f".{arguments.format}"
    return arguments
