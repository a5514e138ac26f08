#!/usr/bin/env python3
"""Compare ways to quantize the bundled networks; write docs/quantization_figures.md.

    python scripts/study_quantization.py --calibration PHOTOS --sets Set5 Set14 B100 Kodak24

The first two folders of `--sets` compare methods, all of them compare whole programs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from rich.console import Console

from adadm.calibration.images import CalibrationImages, Photograph
from adadm.runtime.cli import run
from adadm.runtime.files import written_whole
from quantizing import methods, quantizers
from quantizing.networks import GATED, NETWORKS, Judge, Net, load
from quantizing.report import page

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "quantization_figures.json"
PAGE = ROOT / "docs" / "quantization_figures.md"

PHOTOGRAPHS = 16
COUNTS, TILES = (1, 2, 4, 8, 32), (32, 64, 128)
DEPLOYED = ("EDSR 8 x 48, x2", "EDSR 8 x 48, x4")
"""Networks that are not just for the tests."""

Rows = list[dict[str, Any]]


def main(argv: list[str]) -> None:
    """Measure, then write the page."""
    arguments = _parse(argv)
    if arguments.draw:
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
    else:
        results = _measured(arguments, Console(stderr=True))
        with written_whole(RESULTS) as partial:
            partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    with written_whole(PAGE) as partial:
        partial.write_text(page(results), encoding="utf-8")
    print(f"wrote {PAGE}")


def _measured(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    results: dict[str, Any] = {
        "photographs_each": PHOTOGRAPHS,
        "gated": GATED,
        "versions": quantizers.versions(arguments.modelopt),
    }

    def note(part: str, title: str, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            console.print(f"{title}, {part}: {row['method']}")
            results.setdefault(part, {}).setdefault(title, []).append(row)

    for title in NETWORKS:
        net = load(title)
        images = CalibrationImages([arguments.calibration], net.upscale, PHOTOGRAPHS)
        photographs = list(images)
        sets = {path.name: _all_of(path, net.upscale) for path in arguments.sets}
        judge = Judge(net, dict(list(sets.items())[:2]), photographs[:GATED])
        statistics = net.collect(images)
        shipped = net.ranges(statistics)
        own = _row(judge, methods.SHIPPED, net.quantized(shipped))
        for part, variants in (
            ("ranges", methods.ranges(net, shipped, photographs)),
            ("reconstruction", methods.reconstructions(net, shipped, photographs)),
            ("equalizers", methods.equalizers(net, shipped, statistics)),
        ):
            note(part, title, [own])
            note(part, title, (_row(judge, name, model) for name, model in variants))
        if title in DEPLOYED:
            note("photographs", title, [own | {"method": f"{PHOTOGRAPHS}, whole"}])
            note("photographs", title, _photographs(net, judge, arguments.calibration))
            whole = Judge(net, sets, photographs[:GATED])
            note("quantizers", title, _quantizers(net, whole, photographs, arguments.modelopt))
            trunk = {name for name in shipped if name.startswith("body.") and "conv" in name}
            for name, names in (("ours, trunk", trunk), ("ours, all but the ends", shipped)):
                proto = ir.to_proto(net.quantized(shipped, names))
                note(
                    "quantizers",
                    title,
                    [{"method": name} | whole(proto) | quantizers.described(proto)],
                )
    return results


def _photographs(net: Net, judge: Judge, folder: Path) -> Iterable[dict[str, Any]]:
    """Fewer and more photographs, and tiles of them in place of the whole."""
    whole = min(next(iter(CalibrationImages([folder], net.upscale, 1))).lr.shape[:2])
    choices: list[tuple[str, int, tuple[int, int] | None]] = [
        *((f"{count}, whole", count, None) for count in COUNTS),
        *((f"{PHOTOGRAPHS}, tiles of {side} px", PHOTOGRAPHS, (side, side)) for side in TILES),
    ]
    for name, count, tile in choices:
        if tile and tile[0] >= whole:
            continue
        images = CalibrationImages([folder], net.upscale, count, tile)
        yield _row(judge, name, net.quantized(net.ranges(net.collect(images))))


def _quantizers(
    net: Net, judge: Judge, images: Sequence[Photograph], modelopt: Path | None
) -> Iterable[dict[str, Any]]:
    """Other programs, on the network with its normalizations and its tail."""
    with tempfile.TemporaryDirectory() as folder:
        naive = Path(folder) / "naive.onnx"
        onnx.save(quantizers.naive(net), naive)
        files = {"ONNX Runtime": quantizers.with_onnx_runtime(naive, images, net.rgb_range)}
        if modelopt:
            for method in quantizers.MODEL_OPTIMIZER:
                files[f"Model Optimizer, {method}"] = quantizers.with_model_optimizer(
                    modelopt, naive, images, net.rgb_range, method
                )
        for name, file in files.items():
            proto = onnx.load(file)
            yield {"method": name} | judge(proto) | quantizers.described(proto)


def _row(judge: Judge, method: str, model: ir.Model) -> dict[str, Any]:
    return {"method": method} | judge(ir.to_proto(model))


def _all_of(folder: Path, upscale: int) -> list[Photograph]:
    return list(CalibrationImages([folder], upscale, count=sys.maxsize))


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="study_quantization.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--draw", action="store_true", help="measure nothing, write the page")
    parser.add_argument("--calibration", type=Path, help="a folder of original photographs")
    parser.add_argument("--sets", type=Path, nargs="+", default=[], help="folders to measure on")
    parser.add_argument(
        "--modelopt",
        type=Path,
        metavar="PYTHON",
        help="that has nvidia-modelopt[onnx] installed; without, it is left out",
    )
    arguments = parser.parse_args(argv)
    if not arguments.draw and not (arguments.calibration and arguments.sets):
        parser.error("--calibration and --sets are needed")
    return arguments


if __name__ == "__main__":
    sys.exit(run("study_quantization.py", main, sys.argv[1:]))
