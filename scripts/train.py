#!/usr/bin/env python3
"""Train a network on a folder of photographs: L1, Adam, random crops, flips and rotations.

    python scripts/train.py --images PHOTOS --validation MORE_PHOTOS --upscale 2 -o x2.safetensors

Interrupted, the same command goes on where it stopped: everything that the run needs (weights,
optimizer, random state) is saved beside the output every few minutes, as OUT.resume.
"""

from __future__ import annotations

import argparse
import inspect
import io
import math
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)
from torch import nn

from adadm.export.checkpoint import build_network, load_checkpoint, network_class, save_checkpoint
from adadm.export.networks import ARCHITECTURES, Network
from adadm.runtime.arguments import Paths
from adadm.runtime.cli import run
from adadm.runtime.errors import CheckpointError, ImageError
from adadm.runtime.files import written_whole
from adadm.runtime.images.arrays import (
    ImageArray,
    batch_from_image,
    crop_to_multiple,
    enlarge,
    find_images,
    image_from_batch,
    read_image,
    reduce,
)
from adadm.runtime.images.metrics import psnr_y

console = Console(stderr=True)
_STATEFUL = ("network", "optimizer", "schedule")


@dataclass(frozen=True)
class Pair:
    """A photograph and its reduction, uint8 (H, W, 3)."""

    lr: ImageArray
    hr: ImageArray


@dataclass(frozen=True)
class Training:
    """What changes from step to step, and the settings that must not."""

    settings: dict[str, float | str]
    network: Network
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    def save(self, path: Path, step: int) -> None:
        """Write all that is needed to go on after so many steps."""
        states = {name: getattr(self, name).state_dict() for name in _STATEFUL}
        randomness = (random.getstate(), torch.get_rng_state())
        content = io.BytesIO()
        torch.save(
            {"step": step, "settings": self.settings, "random": randomness, **states}, content
        )
        with written_whole(path) as partial:
            partial.write_bytes(content.getvalue())

    def restore(self, path: Path) -> int:
        """Go on from what was saved; returns the number of steps that were done.

        Raises:
            CheckpointError: it is of a run with other settings.
        """
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for name, value in self.settings.items():
            if (before := saved["settings"].get(name)) != value:
                raise CheckpointError(
                    f"{path} is of a run with {name} {before}, not {value}; "
                    "finish that one, or remove the file"
                )
        for name in _STATEFUL:
            getattr(self, name).load_state_dict(saved[name])
        state, torch_state = saved["random"]
        random.setstate((state[0], tuple(state[1]), state[2]))
        torch.set_rng_state(torch_state)
        console.log(f"going on from step {saved['step']} of {path}")
        return int(saved["step"])


def main(argv: list[str]) -> None:
    """Run the training that the command line describes."""
    arguments = _parse(argv)
    random.seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    device = torch.device(arguments.device)
    network = _build(arguments).to(device)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), lr=arguments.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _learning_rate_factor(step, arguments.warmup, arguments.steps)
    )
    resume = resume_of(arguments.output)
    course = ("arch", "steps", "batch", "patch", "learning_rate", "warmup", "clip", "half")
    settings = {**network.hyperparameters, **{name: getattr(arguments, name) for name in course}}
    settings["training_seed"] = arguments.seed
    resume.parent.mkdir(parents=True, exist_ok=True)
    training = Training(settings, network, optimizer, schedule)
    first = training.restore(resume) if resume.exists() else 0

    pairs = _load_pairs(find_images(arguments.images), network.upscale, "reading training images")
    patch: int = arguments.patch
    pairs = [pair for pair in pairs if min(pair.lr.shape[:2]) >= patch]
    if not pairs:
        raise ImageError(
            f"no image is as large as {patch}x{patch} after reduction; use a smaller --patch"
        )
    held_out = find_images(arguments.validation)
    validation = _load_pairs(held_out, network.upscale, "reading validation")
    features = torch.compile(network.features) if arguments.compile else network.features
    half_until = round(arguments.steps * arguments.half)
    baseline = np.mean(
        [psnr_y(enlarge(p.lr, network.upscale), p.hr, network.upscale) for p in validation]
    )

    losses: list[float] = []
    last_save = time.monotonic()
    columns = "{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[note]}"
    times = TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, *times, console=console) as progress:
        task = progress.add_task("training", total=arguments.steps, completed=first, note="")
        for step in range(first, arguments.steps):
            network.train()
            lr, hr = _batch(pairs, arguments.batch, patch, network, device)
            with torch.autocast(device.type, torch.bfloat16, enabled=step < half_until):
                trunk = features(lr)
            loss = nn.functional.l1_loss(network.reconstruct(trunk.float()), hr)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), arguments.clip)
            optimizer.step()
            schedule.step()
            losses.append(loss.item() * 255 / network.rgb_range)
            done = step + 1
            progress.update(task, completed=done, note=f"L1 {np.mean(losses[-100:]):.3f}")
            if done % arguments.validate_every == 0 or done == arguments.steps:
                score = _validate(network, validation, device)
                console.log(
                    f"step {done}: L1 {np.mean(losses[-500:]):.4f} levels, {score:.3f} dB, "
                    f"{score - baseline:+.3f} dB over bicubic"
                )
            if time.monotonic() - last_save > arguments.save_every_s:
                training.save(resume, done)
                last_save = time.monotonic()
    save_checkpoint(arguments.output, network, {"training": {**settings, "images": len(pairs)}})
    resume.unlink(missing_ok=True)
    print(f"wrote {arguments.output}")


def resume_of(output: Path) -> Path:
    """Where a run keeps what it needs to go on."""
    return output.with_suffix(".resume")


def _build(arguments: argparse.Namespace) -> Network:
    architecture = network_class(arguments.arch)
    parameters = inspect.signature(architecture).parameters
    settable = set(parameters) - {"upscale"}
    if unknown := sorted(arguments.hyperparameters.keys() - settable):
        raise CheckpointError(
            f"{arguments.arch} has no hyper-parameter {', '.join(unknown)} to set; "
            f"it has {', '.join(sorted(settable))}"
        )
    factor = {"upscale": arguments.upscale} if "upscale" in parameters else {}
    network = build_network(architecture, {**factor, **arguments.hyperparameters})
    if network.upscale != arguments.upscale:
        raise CheckpointError(
            f"{arguments.arch} enlarges x{network.upscale}, --upscale is {arguments.upscale}"
        )
    if arguments.start_from:
        trained = load_checkpoint(arguments.start_from, arguments.arch).network.state_dict()
        fresh = network.state_dict()
        shared = {k: v for k, v in trained.items() if k in fresh and v.shape == fresh[k].shape}
        network.load_state_dict(shared, strict=False)
        console.log(f"{len(shared)} of {len(fresh)} tensors from {arguments.start_from}")
    return network


def _load_pairs(paths: list[Path], upscale: int, what: str) -> list[Pair]:
    pairs = []
    for path in track(paths, description=what, console=console):
        hr = crop_to_multiple(read_image(path), upscale)
        pairs.append(Pair(reduce(hr, upscale), hr))
    return pairs


def _batch(
    pairs: list[Pair], size: int, patch: int, network: Network, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random crops, weighted by image area, each turned and mirrored at random."""
    areas = [pair.lr.shape[0] * pair.lr.shape[1] for pair in pairs]
    batches: dict[int, list[np.ndarray]] = {1: [], network.upscale: []}
    for pair in random.choices(pairs, weights=areas, k=size):
        top = random.randint(0, pair.lr.shape[0] - patch)
        left = random.randint(0, pair.lr.shape[1] - patch)
        turns, mirror = random.randrange(4), random.random() < 0.5
        for (factor, crops), image in zip(batches.items(), (pair.lr, pair.hr), strict=True):
            rows = slice(top * factor, (top + patch) * factor)
            columns = slice(left * factor, (left + patch) * factor)
            crop = np.rot90(image[rows, columns], turns)
            crops.append(batch_from_image(crop[:, ::-1] if mirror else crop, network.rgb_range))
    lr, hr = (torch.from_numpy(np.concatenate(crops)).to(device) for crops in batches.values())
    return lr.contiguous(memory_format=torch.channels_last), hr


@torch.inference_mode()
def _validate(network: Network, pairs: list[Pair], device: torch.device) -> float:
    """Mean PSNR-Y (dB) over whole images."""
    network.eval()
    scores = []
    for pair in pairs:
        lr = torch.from_numpy(batch_from_image(pair.lr, network.rgb_range)).to(device)
        sr = image_from_batch(network(lr).cpu().numpy(), network.rgb_range)
        scores.append(psnr_y(sr, pair.hr, shave=network.upscale))
    return float(np.mean(scores))


def _learning_rate_factor(step: int, warmup: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to a thousandth."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 1e-3 + (1 - 1e-3) * 0.5 * (1 + math.cos(math.pi * done))


def _hyperparameter(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, int(value) if value.isdecimal() else float(value)
    except ValueError:
        message = f"{text!r} is not NAME=NUMBER, such as blocks=8"
        raise argparse.ArgumentTypeError(message) from None


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    paths = Paths()
    parser.add_argument(
        "--images", type=paths.read, nargs="+", required=True, help="files or folders"
    )
    parser.add_argument("--validation", type=paths.read, nargs="+", required=True)
    parser.add_argument(
        "-o", "--output", type=paths.written, required=True, help="a .safetensors file"
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
        help="hyper-parameters of the network, such as blocks=8 features=48 (default: published)",
    )
    parser.add_argument(
        "--start-from", type=paths.read, help="a checkpoint whose fitting tensors are used"
    )
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--patch", type=int, default=48, help="crop size at low resolution, px")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=200, help="steps")
    parser.add_argument("--clip", type=float, default=10.0, help="largest gradient norm")
    parser.add_argument(
        "--half", type=float, default=0.0, help="share of the steps whose trunk runs in bfloat16"
    )
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--validate-every", type=int, default=500, help="steps")
    parser.add_argument("--save-every-s", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)
    arguments.hyperparameters = dict(arguments.hyperparameters)
    if arguments.output.suffix != ".safetensors":
        parser.error(f"the output is {arguments.output}, expected a .safetensors file")
    paths.check(writes=[resume_of(arguments.output)])
    return arguments


if __name__ == "__main__":
    sys.exit(run("train.py", main, sys.argv[1:]))
