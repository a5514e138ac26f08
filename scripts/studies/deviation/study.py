#!/usr/bin/env python3
"""Train three twins of one network, measure their deviations; write docs/results/deviation.md.

    python scripts/studies/deviation/study.py --images PHOTOS --validation MORE \
        --sets Set5 Set14 B100 --work DIR

Finished twins in DIR are not trained again, and an interrupted training resumes. On two CPU cores a
training takes some four to eight minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from adadm.export import load_checkpoint
from adadm.export.networks import Network
from adadm.export.proof.sample_photographs import photographs
from adadm.export.weights.file_content import read_file
from adadm.runtime.cli import run
from adadm.runtime.errors import CheckpointError
from adadm.runtime.tables import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for a run by the path
from studies import pages
from studies.deviation import draw
from studies.deviation.measure import deviations, edges, modulators, scores
from studies.deviation.report import page
from studies.deviation.twins import TWINS

COURSE: dict[str, Any] = {
    "blocks": 16,
    "features": 32,
    "upscale": 2,
    "steps": 4000,
    "batch": 8,
    "patch": 32,
    "warmup": 200,
    "learning_rate": 1e-3,
}
SEEDS = (0, 1, 2)
EDGES_OF = "astronaut"


def main(argv: list[str]) -> None:
    """Train what is missing, measure, then write page and pictures."""
    arguments = _parse(argv)
    if arguments.draw:
        results = pages.read_results("deviation")
    else:
        results, maps = _measured(arguments, Console(stderr=True))
        pages.write_results("deviation", results)
        draw.edge_maps(
            photographs((EDGES_OF,))[EDGES_OF], maps, pages.PICTURES / "study_edges.webp"
        )
    draw.deviations(results["twins"], pages.PICTURES / "study_deviation.svg")
    draw.modulators(results["twins"]["adadm"], pages.PICTURES / "study_modulators.svg")
    pages.write_page("deviation", page(results))


def _measured(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], Any]:
    results: dict[str, Any] = {"course": COURSE, "seeds": list(SEEDS), "twins": {}}
    maps = {}
    for twin in TWINS:
        rows = []
        for seed in SEEDS:
            network = _trained(twin, seed, arguments)
            rows.append(
                {
                    "seed": seed,
                    "psnr_y_db": scores(network, arguments.sets),
                    "blocks": deviations(network, photographs().values()),
                    "modulators": modulators(network),
                }
            )
            console.print(f"{twin}, seed {seed}: {rows[-1]['psnr_y_db']}")
            if seed == SEEDS[0]:
                middle = COURSE["blocks"] // 2
                maps[twin] = edges(network, photographs((EDGES_OF,))[EDGES_OF], middle)
        results["twins"][twin] = rows
    return results, maps


def _trained(twin: str, seed: int, arguments: argparse.Namespace) -> Network:
    """Load a twin of this course, or train it if it is missing."""
    output = arguments.work / f"{twin}-{seed}.safetensors"
    arch = TWINS[twin]
    if not output.is_file():
        words = ["--arch", arch, "--seed", seed, "-o", output]
        words += ["--set", f"blocks={COURSE['blocks']}", f"features={COURSE['features']}"]
        words += ["--learning-rate", COURSE["learning_rate"], "--device", "cpu"]
        for name in ("upscale", "steps", "batch", "patch", "warmup"):
            words += [f"--{name}", COURSE[name]]
        words += ["--validate-every", COURSE["steps"]]
        words += ["--images", *arguments.images, "--validation", *arguments.validation]
        command = [sys.executable, pages.ROOT / "scripts" / "train.py", *words]
        subprocess.run([str(word) for word in command], check=True)
    _, metadata = read_file(output)
    settings = metadata.get("training", {})
    course = {**COURSE, "training_seed": seed}
    if wrong := [name for name, value in course.items() if settings.get(name) != value]:
        reasons = ", ".join(f"{name} {settings.get(name)}, not {course[name]}" for name in wrong)
        raise CheckpointError(f"{output} was trained with other settings: {reasons}; remove it")
    return load_checkpoint(output, arch, limit="off").network  # as the paper has it


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = pages.study_parser("deviation", __doc__)
    parser.add_argument("--images", type=Path, nargs="+", help="photographs to train on")
    parser.add_argument("--validation", type=Path, nargs="+", help="photographs for validation")
    parser.add_argument("--sets", type=Path, nargs="+", help="folders of originals to measure on")
    parser.add_argument("--work", type=Path, help="folder of trained twins")
    arguments = parser.parse_args(argv)
    needed = (arguments.images, arguments.validation, arguments.sets, arguments.work)
    if not arguments.draw and not all(needed):
        parser.error("--images, --validation, --sets and --work are required to measure")
    return arguments


if __name__ == "__main__":
    sys.exit(run("studies/deviation/study.py", main, sys.argv[1:]))
