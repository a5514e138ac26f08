#!/usr/bin/env python3
"""Compare ways to quantize the bundled networks; write docs/results/quantization.md.

    python scripts/studies/quantization/study.py --calibration PHOTOS --sets Set5 Set14 B100 Kodak24

Methods are compared on the first two folders of `--sets`, programs on all of them. Networks not
named by `--networks` keep their figures.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from adadm.calibration.quality.photographs import CalibrationImages, Photograph
from adadm.runtime.cli import run
from adadm.runtime.tables import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for a run by the path
from studies.pages import PICTURES, read_results, study_parser, write_page, write_results
from studies.quantization import edges, methods, quantizers
from studies.quantization.networks import GATED, NETWORKS, Judge, Net, load
from studies.quantization.report import page

PAGE = "quantization"
PHOTOGRAPHS = 16
COUNTS, TILES = (1, 2, 4, 8, 32), (32, 64, 128)
DEPLOYED = ("EDSR 8 x 48, x2", "EDSR 8 x 48, x4")
"""Networks that are not only for tests."""

Rows = Iterator[dict[str, Any]]


def main(argv: list[str]) -> None:
    """Measure, then write page and picture."""
    arguments = _parse(argv)
    results = read_results(PAGE)
    if not arguments.draw:
        results["setting"] = {
            "photographs": PHOTOGRAPHS,
            "gated": GATED,
            "versions": quantizers.versions(arguments.modelopt),
        }
        console = Console(stderr=True)
        for title in arguments.networks:
            results[title] = _measured(title, arguments, console)
            write_results(PAGE, results)
    edges.draw(results[edges.PICTURED]["edges"], PICTURES / "quantization_edges.svg")
    write_page(PAGE, page(results, NETWORKS))


def _measured(title: str, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Rows by part of the study, and the profiles of the picture."""
    net = load(title)
    images = CalibrationImages.of([arguments.calibration], net.upscale, count=PHOTOGRAPHS)
    photographs = list(images)
    sets = {path.name: _all_of(path, net.upscale) for path in arguments.sets}
    judge = Judge(net, dict(list(sets.items())[:2]), photographs[:GATED])
    statistics = net.collect(images)
    shipped = net.ranges(statistics)

    def judged(variants: Iterable[tuple[str, ir.Model]]) -> Rows:
        for name, model in variants:
            yield {"method": name} | judge(ir.to_proto(model))

    by_range = dict(methods.ranges(net, shipped, photographs))
    ours = net.quantized(shipped)
    (own,) = judged([(methods.SHIPPED, ours)])
    parts: dict[str, Iterable[dict[str, Any]]] = {
        "ranges": judged(by_range.items()),
        "reconstruction": judged(methods.reconstructions(net, shipped, photographs)),
        "equalizers": judged(methods.equalizers(net, shipped, statistics)),
    }
    if title in DEPLOYED:
        parts["photographs"] = judged(_photographs(net, arguments.calibration))
    results: dict[str, Any] = {}
    for part, rows in parts.items():
        results[part] = [own]
        for row in rows:
            console.print(f"{title}, {part}: {row['method']}, lost {row['lost_db']}")
            results[part].append(row)
    if title in DEPLOYED:
        judge = Judge(net, sets, photographs[:GATED])
        programs = _programs(net, photographs, arguments.modelopt)
        results["programs"] = []
        for name, proto in (*programs, *_ours(net, shipped)):
            row = {"method": name} | judge(proto) | quantizers.described(proto)
            console.print(f"{title}, programs: {name}, lost {row['lost_db']}")
            results["programs"].append(row)
    if title == edges.PICTURED:
        results["edges"] = edges.profiles(net, {methods.SHIPPED: ours, **by_range})
    return results


def _photographs(net: Net, folder: Path) -> methods.Variants:
    """Forms by number of photographs, and by tiles in place of whole photographs."""
    (first,) = CalibrationImages.of([folder], net.upscale, count=1)
    choices: list[tuple[str, int, tuple[int, int] | None]] = [
        *((f"{count}, whole", count, None) for count in COUNTS),
        *(
            (f"{PHOTOGRAPHS}, tiles of {side} px", PHOTOGRAPHS, (side, side))
            for side in TILES
            if side < min(first.lr.shape[:2])
        ),
    ]
    for name, count, tile in choices:
        images = CalibrationImages.of([folder], net.upscale, count=count, tile=tile)
        yield name, net.quantized(net.ranges(net.collect(images)))


def _programs(
    net: Net, images: Sequence[Photograph], modelopt: Path | None
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Models of other programs, from the network with its normalizations and its tail."""
    with tempfile.TemporaryDirectory() as folder:
        naive, rgb_range = Path(folder) / "naive.onnx", net.rgb_range
        onnx.save(quantizers.naive(net), naive)
        yield "ONNX Runtime", quantizers.with_onnx_runtime(naive, images, rgb_range)
        if modelopt:
            for method in quantizers.MODEL_OPTIMIZER:
                yield (
                    f"Model Optimizer, {method}",
                    quantizers.with_model_optimizer(modelopt, naive, images, rgb_range, method),
                )


def _ours(net: Net, shipped: methods.Ranges) -> Iterator[tuple[str, onnx.ModelProto]]:
    blocks = {name for name in shipped if name.endswith(("conv1", "conv2"))}
    yield "ours, the residual blocks", ir.to_proto(net.quantized(shipped, blocks))
    ends = "head and tail" if net.upscale == 2 else "the head"
    yield f"ours, all but {ends}", ir.to_proto(net.quantized(shipped))


def _all_of(folder: Path, upscale: int) -> list[Photograph]:
    return list(CalibrationImages.of([folder], upscale, count=sys.maxsize))


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = study_parser("quantization", __doc__)
    parser.add_argument("--calibration", type=Path, help="a folder of original photographs")
    parser.add_argument("--sets", type=Path, nargs="+", help="folders to measure on")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument(
        "--modelopt",
        type=Path,
        metavar="PYTHON",
        help="Python with nvidia-modelopt[onnx]; without it, Model Optimizer is left out",
    )
    arguments = parser.parse_args(argv)
    if not arguments.draw and not (arguments.calibration and arguments.sets):
        parser.error("--calibration and --sets are required to measure")
    return arguments


if __name__ == "__main__":
    sys.exit(run("studies/quantization/study.py", main, sys.argv[1:]))
