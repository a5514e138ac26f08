#!/usr/bin/env python3
"""Measure the toolkit against its peers; write docs/results/performance.md and its plots.

Every figure of that page comes from the JSON beside it. This script measures it part by part (an
hour on 2 cores); --resume keeps the measured parts. --draw only rewrites page and plots.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adadm.runtime.cli import run
from adadm.runtime.tables import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for a run by the path
from studies.pages import PICTURES, read_results, study_parser, write_page, write_results
from studies.performance.peers import CPU_PEERS, GPU_PEERS, Array, Files

if TYPE_CHECKING:  # processes of peers import this file, and must not load PyTorch
    from studies.performance.networks import Case

PACKAGES = ("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt-rtx", "numpy")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
_LARGEST_TOGETHER = 512
OURS = ("ours_onnxruntime", "ours_openvino")
SWEEP_PEERS = ("naive_onnxruntime", "naive_openvino", *OURS)


def main(argv: list[str]) -> None:
    """Measure the requested parts, then write page and plots."""
    from studies.performance import draw, networks, report

    arguments = _parse(argv)
    results = read_results("performance") if arguments.resume or arguments.draw else {}
    if not arguments.draw:
        _measure(results, arguments)
    draw.draw(results, networks.CASES, PICTURES)
    write_page("performance", report.page(results, networks.CASES))


def _measure(results: dict[str, Any], arguments: argparse.Namespace) -> None:

    from studies.performance import measure, networks

    console = Console(stderr=True)
    rounds: int = arguments.rounds

    def part(name: str, produce: Callable[[], Any]) -> None:
        if name in results:
            return
        console.print(f"measuring {name}")
        results[name] = produce()
        write_results("performance", results)

    def run_peers(keys: Iterable[str], files: Files, lr: Array, rounds: int) -> dict[str, Any]:
        return measure.run_peers(keys, files, lr, rounds=rounds, console=console)

    def case_result(case: Case) -> dict[str, Any]:
        with _prepared(case) as files:
            lr = _image(case.architecture, case.size)
            peers = [key for key in CPU_PEERS if files.int8 or key != "int8_openvino"]
            result = {"peers": run_peers(peers, files, lr, rounds)}
            models = {"naive": files.naive, "ours": files.ours}
            if case.architecture != "nlsn":  # whose attention is more than convolutions
                result["cost"] = {k: measure.cost(m, case.size) for k, m in models.items()}
            if files.int8:
                result["int8_profile"] = measure.openvino_profiles(files.int8, lr, min(rounds, 5))
            if case.hyperparameters.get("blocks") == 16 and case.architecture == "edsr":
                result["profile"] = {
                    k: measure.profiled(m, lr, min(rounds, 5)) for k, m in models.items()
                }
                result["engines"] = measure.built_engines(files, case.size)
        return result

    def choices() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for case in networks.CHOSEN:
            with _prepared(case) as files:
                for precision, path in (("float32", files.ours), ("INT8", files.int8)):
                    if path is None:
                        continue
                    auto = measure.auto_choice(path)
                    for size in networks.CHOICE_SIZES:
                        lr = _image(case.architecture, size)
                        peers = run_peers(OURS, replace(files, ours=path), lr, rounds)
                        row = {"title": case.title, "upscale": case.upscale, "size": size}
                        row |= {"precision": precision, "auto": auto, "peers": peers}
                        rows.append(row)
        return rows

    def gpu_result(case: Case) -> dict[str, Any]:
        with _prepared(case) as files:
            return run_peers(GPU_PEERS, files, _image(case.architecture, case.size), 5 * rounds)

    def sweep() -> list[dict[str, Any]]:
        points: list[dict[str, Any]] = []
        case = networks.CASES[networks.SWEPT]
        with _prepared(case) as files:
            for size in networks.SWEEP:
                fitting = [key for key in SWEEP_PEERS if _fits(key, size, points)]
                lr = _image(case.architecture, size)
                # Large ones one after the other: together they would not fit into the memory.
                small = size[0] <= _LARGEST_TOGETHER
                peers: dict[str, Any] = {}
                for group in [fitting] if small else [[key] for key in fitting]:
                    peers |= run_peers(group, files, lr, rounds if small else 2)
                points.append({"size": size, "peers": peers})
        return points

    part("machine", _machine)
    part("ceilings", lambda: measure.ceilings(2 * rounds + 1))
    if arguments.gpu:
        part("gpu_ceilings", lambda: measure.gpu_ceilings(2 * rounds + 1))
    for key, case in networks.CASES.items():
        part(key, functools.partial(case_result, case))
        if arguments.gpu:
            part(f"{key}_gpu", functools.partial(gpu_result, case))
    part("choices", choices)
    part("sweep", sweep)


@contextlib.contextmanager
def _prepared(case: Case) -> Iterator[Files]:
    from studies.performance import networks

    with tempfile.TemporaryDirectory() as folder:
        yield networks.prepare(case, Path(folder))


def _fits(key: str, size: tuple[int, int], points: list[dict[str, Any]]) -> bool:
    """True if a peer's memory, extrapolated from two sizes, leaves a tenth of the machine's."""
    measured = [
        (np.prod(point["size"]), point["peers"][key]["peak_bytes"])
        for point in points
        if "peak_bytes" in point["peers"].get(key, {})
    ]
    if len(measured) < 2:
        return len(points) < 2
    (pixels, peak), (more_pixels, more_peak) = measured[-2:]
    slope = (more_peak - peak) / (more_pixels - pixels)
    expected = more_peak + slope * (np.prod(size) - more_pixels)
    return bool(expected < 0.9 * _memory_bytes())


def _image(architecture: str, size: tuple[int, int]) -> Array:
    white = 1 if architecture == "nlsn" else 255
    noise = np.random.default_rng(0).uniform(0, white, (1, 3, *size))
    return noise.astype(np.float32)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    facts = dict(line.split("\t: ", 1) for line in map(str.strip, cpuinfo) if "\t: " in line)
    flags = next((line for line in cpuinfo if line.startswith("flags")), "").split()
    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        "date": date.today().isoformat(),
        "cpu": facts.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "memory_bytes": _memory_bytes(),
        "python": platform.python_version(),
        "packages": packages,
    }


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = study_parser("performance", __doc__)
    parser.add_argument(
        "--rounds", type=_rounds, default=7, help="inferences of each peer; default: 7"
    )
    parser.add_argument("--resume", action="store_true", help="keep the measured parts")
    parser.add_argument(
        "--gpu", action="store_true", help="also measure the peers on an NVIDIA GPU"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run("studies/performance/study.py", main, sys.argv[1:]))
