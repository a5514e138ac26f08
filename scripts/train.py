#!/usr/bin/env python3
"""Train a network on photographs and drawn pictures: L1, Adam, random crops, turned and mirrored.

    python scripts/train.py --images PHOTOS --validation MORE_PHOTOS --upscale 2 -o x2.safetensors

After an interruption, the same command resumes the run: its whole state (weights, optimizer, random
state) is saved beside the output every few minutes, as OUT.resume.
"""

from __future__ import annotations

import argparse
import inspect
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.progress import (
    BarColumn,
    Progress,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from adadm.export.checkpoint import build_network, load_checkpoint, network_class, save_checkpoint
from adadm.export.networks import ARCHITECTURES, Network
from adadm.export.proof.accuracy import drawn_margins
from adadm.export.proof.drawn_pictures import draw_at_random
from adadm.export.proof.pytorch import enlarge_image
from adadm.runtime.arguments import Parser, Paths
from adadm.runtime.bounds import above_zero, integer, number, positive, seconds
from adadm.runtime.cli import run
from adadm.runtime.errors import CheckpointError, ImageError
from adadm.runtime.images.arrays import (
    ImageArray,
    enlarge,
    find_images,
    read_image,
)
from adadm.runtime.images.metrics import LARGEST_LOSS_DB, psnr_y
from adadm.runtime.progress import track
from adadm.runtime.tables import Console
from adadm.runtime.terminal import say
from training.crops import Crops, Pair, make_pair, make_sharp_pair
from training.state import Training, resume_of
from training.step import Phase, Step

console = Console(stderr=True)
_COURSE = (
    *("arch", "steps", "seconds", "batch", "patch", "learning_rate", "warmup", "clip", "half"),
    *("drawn", "drawn_pictures", "freeze_norm"),
)
_REPORT_EVERY = 50


def main(argv: list[str]) -> None:
    """Run the training that the command line describes."""
    arguments = _parse(argv)
    torch.manual_seed(arguments.seed)
    device = torch.device(arguments.device)
    network = _build(arguments).to(device)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    crops = _crops(arguments, network, device)
    validation = _load_pairs(find_images(arguments.validation), network.upscale, "validation")
    step = Step(
        network,
        crops,
        batch=arguments.batch,
        clip=arguments.clip,
        compiled=arguments.compile,
        device=device,
    )
    resume = resume_of(arguments.output)
    settings = {**network.hyperparameters, **{name: getattr(arguments, name) for name in _COURSE}}
    settings["training_seed"] = arguments.seed
    resume.parent.mkdir(parents=True, exist_ok=True)
    training = Training(settings, network, step.optimizer, torch.Generator())
    training.generator.manual_seed(arguments.seed)
    if resume.exists():
        training.restore(resume)
        console.log(f"resuming from step {training.step} of {resume}")
    _train(training, step, arguments, validation)
    save_checkpoint(arguments.output, network, {"training": {**settings, "images": crops.pictures}})
    resume.unlink(missing_ok=True)
    say(f"wrote {arguments.output}")


def _train(
    training: Training, step: Step, arguments: argparse.Namespace, validation: list[Pair]
) -> None:
    """Train from the current step to the end of the course."""
    network = training.network
    bicubic_db = _psnr_db([enlarge(p.lr, network.upscale) for p in validation], validation)
    began = last_save = time.monotonic()
    before_s = training.elapsed_s
    columns = "{task.description}", BarColumn(), "{task.percentage:>5.1f} %", "{task.fields[note]}"
    times = TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, *times, console=console) as progress:
        task = progress.add_task("training", total=1.0, note="")
        while (share := _share(training, arguments)) < 1:
            step.learning_rate.fill_(_learning_rate(share, training.step, arguments))
            phase = Phase(share < arguments.half, frozen=share >= 1 - arguments.freeze_norm)
            step(step.crops.choose(arguments.batch, training.generator), phase)
            training.step += 1
            training.elapsed_s = before_s + time.monotonic() - began
            if training.step % _REPORT_EVERY == 0:
                mean = step.loss.item() / _REPORT_EVERY * 255 / network.rgb_range
                step.loss.zero_()
                rate = f"{training.step} steps, {training.step / training.elapsed_s:.1f}/s"
                progress.update(task, completed=share, note=f"{rate}, L1 {mean:.3f}")
            ended = _share(training, arguments) >= 1
            if training.step % arguments.validate_every == 0 or ended:
                console.log(f"step {training.step}: {_validate(network, validation, bicubic_db)}")
            if time.monotonic() - last_save > arguments.save_every_s:
                training.save(resume_of(arguments.output))
                last_save = time.monotonic()


def _share(training: Training, arguments: argparse.Namespace) -> float:
    """Finished share of the course, by steps or by time, 0..1."""
    if arguments.seconds is None:
        return training.step / int(arguments.steps)
    seconds: float = arguments.seconds
    return training.elapsed_s / seconds


def _learning_rate(share: float, step: int, arguments: argparse.Namespace) -> float:
    """A linear warm-up, and half a cosine down to a thousandth."""
    warm: float = min(1.0, (step + 1) / arguments.warmup)
    cosine = 1e-3 + (1 - 1e-3) * 0.5 * (1 + math.cos(math.pi * share))
    return float(arguments.learning_rate) * warm * cosine


def _build(arguments: argparse.Namespace) -> Network:
    architecture = network_class(arguments.arch)
    parameters = inspect.signature(architecture).parameters
    settable = set(parameters) - {"upscale"}
    if unknown := sorted(arguments.hyperparameters.keys() - settable):
        raise CheckpointError(
            f"{arguments.arch} has no hyper-parameter {', '.join(unknown)}; "
            f"expected one of {', '.join(sorted(settable))}"
        )
    factor = {"upscale": arguments.upscale} if "upscale" in parameters else {}
    network = build_network(architecture, {**factor, **arguments.hyperparameters})
    if network.upscale != arguments.upscale:
        raise CheckpointError(
            f"expected --upscale {network.upscale} of {arguments.arch}, got {arguments.upscale}"
        )
    if arguments.start_from:
        trained = load_checkpoint(
            arguments.start_from, arguments.arch, limit="off"
        ).network.state_dict()
        fresh = network.state_dict()
        shared = {k: v for k, v in trained.items() if k in fresh and v.shape == fresh[k].shape}
        network.load_state_dict(shared, strict=False)
        console.log(f"{len(shared)} of {len(fresh)} tensors from {arguments.start_from}")
    return network


def _crops(arguments: argparse.Namespace, network: Network, device: torch.device) -> Crops:
    """Make crops of the photographs and of pictures that are drawn for this run."""
    upscale = network.upscale
    photographs = _load_pairs(find_images(arguments.images), upscale, "photographs")
    rng = np.random.default_rng(arguments.seed)
    count = arguments.drawn_pictures if arguments.drawn else 0
    drawn = []
    for index in track(range(count), "drawing"):
        if index % 2:
            drawn.append(make_sharp_pair(draw_at_random(2 * arguments.patch, rng), upscale))
        else:
            drawn.append(make_pair(draw_at_random(4 * arguments.patch, rng), upscale))
    return Crops(
        photographs,
        drawn,
        drawn_share=arguments.drawn,
        patch=arguments.patch,
        rgb_range=network.rgb_range,
        device=device,
    )


def _load_pairs(paths: list[Path], upscale: int, what: str) -> list[Pair]:
    pairs = []
    for path in track(paths, f"reading {what}"):
        try:
            pair = make_pair(read_image(path), upscale)
        except ImageError as error:
            console.print(f"left out: {error}", style="yellow", soft_wrap=True)
            continue
        pairs.append(pair)
    if not pairs:
        raise ImageError(f"{what}: none of {len(paths)} is usable")
    return pairs


def _validate(network: Network, photographs: list[Pair], bicubic_db: float) -> str:
    """Validate: photographs by PSNR-Y as in papers, drawn pictures by distance from their input."""
    network.eval()
    score = _psnr_db([enlarge_image(network, pair.lr) for pair in photographs], photographs)
    said = f"{score:.3f} dB, {score - bicubic_db:+.3f} dB over bicubic"
    for unseen in (False, True):
        margins = drawn_margins(network, unseen=unseen)
        worst = min(margins, key=margins.__getitem__)
        below = sum(margin < -LARGEST_LOSS_DB for margin in margins.values())
        said += f"; {below} of {len(margins)} {'unseen' if unseen else 'drawn'} fail, "
        said += f"{worst} {margins[worst]:+.1f} dB"
    return said


def _psnr_db(images: list[ImageArray], pairs: list[Pair]) -> float:
    """Mean PSNR-Y of enlarged images against their originals, dB."""
    shave = pairs[0].hr.shape[0] // pairs[0].lr.shape[0]
    return float(
        np.mean([psnr_y(sr, pair.hr, shave) for sr, pair in zip(images, pairs, strict=True)])
    )


def _hyperparameter(text: str) -> tuple[str, float]:
    name, is_given, value = text.partition("=")
    if not is_given:
        raise argparse.ArgumentTypeError(f"expected NAME=NUMBER, such as blocks=8, got {text!r}")
    found = number(-1e6, 1e6)(value)
    return name, int(found) if value.isdecimal() else found


_fraction = number(0, 1)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    paths = Paths()
    parser.add_argument(
        "--images", type=paths.read, nargs="+", required=True, help="photographs, files or folders"
    )
    parser.add_argument("--validation", type=paths.read, nargs="+", required=True)
    parser.add_argument(
        "-o", "--output", type=paths.written_file, required=True, help="a .safetensors file"
    )
    parser.add_argument(
        "--arch",
        default="edsr",
        help=f"{', '.join(ARCHITECTURES)}, or package.module:factory; default: edsr",
    )
    parser.add_argument("--upscale", type=int, choices=(2, 3, 4), default=2)
    parser.add_argument(
        "--set",
        dest="hyperparameters",
        type=_hyperparameter,
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=NUMBER",
        help="hyper-parameters of the network, such as blocks=8 features=48; default: published",
    )
    parser.add_argument(
        "--start-from", type=paths.read, help="checkpoint whose fitting tensors are used"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=positive, default=10_000)
    length.add_argument(
        "--seconds", type=above_zero, help="duration of the training, s, in place of --steps"
    )
    parser.add_argument("--batch", type=integer(1, 65_536), default=16)
    parser.add_argument(
        "--patch", type=integer(1, 4096), default=48, help="crop size at low resolution, px"
    )
    parser.add_argument("--learning-rate", type=number(0, 1, above=True), default=1e-3)
    parser.add_argument("--warmup", type=integer(0, 1_000_000), default=200, help="steps")
    parser.add_argument("--clip", type=above_zero, default=10.0, help="largest gradient norm")
    parser.add_argument(
        "--half", type=_fraction, default=0.0, help="share of the run whose trunk runs in bfloat16"
    )
    parser.add_argument(
        "--drawn", type=_fraction, default=0.0, help="share of drawn pictures among the crops"
    )
    parser.add_argument(
        "--drawn-pictures",
        type=integer(0, 1_000_000),
        default=1500,
        help="number of drawn pictures",
    )
    parser.add_argument(
        "--freeze-norm",
        type=_fraction,
        default=0.0,
        help="share of the run, at its end, with batch normalization as in deployment",
    )
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--validate-every", type=positive, default=500, help="steps")
    parser.add_argument("--save-every-s", type=seconds, default=120)
    parser.add_argument("--seed", type=integer(0, 2**32 - 1), default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)
    arguments.hyperparameters = dict(arguments.hyperparameters)
    if arguments.output.suffix != ".safetensors":
        parser.error(f"expected a .safetensors file as output, got {arguments.output}")
    paths.check(writes=[resume_of(arguments.output)])
    return arguments


if __name__ == "__main__":
    sys.exit(run("train.py", main, sys.argv[1:]))
