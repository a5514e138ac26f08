"""The cache of statistics: a changed figure is measured again, never believed."""

from __future__ import annotations

import functools
import random
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from adadm.calibration.quality.photographs import CalibrationImages
from adadm.calibration.ranges.tensor_statistics import TensorStatistics, collect
from adadm.runtime.images.arrays import write_image
from adadm.runtime.progress import Progress
from fuzz.mutations import mutate_json, mutate_one
from fuzz.reader import Fault, Files, Reader


@functools.cache
def _model() -> onnx.ModelProto:
    """Enlarges by repeating; two tensors, one of them with channels that differ."""
    lr = helper.make_tensor_value_info("lr", TensorProto.FLOAT, [1, 3, "H", "W"])
    sr = helper.make_tensor_value_info("sr", TensorProto.FLOAT, [1, 3, "2*H", "2*W"])
    constants = [
        helper.make_tensor("factors", TensorProto.FLOAT, [1, 3, 1, 1], [1.0, 0.9, 0.8]),
        helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2]),
    ]
    nodes = [
        helper.make_node("Mul", ["lr", "factors"], ["scaled"]),
        helper.make_node("Resize", ["scaled", "", "scales"], ["sr"], mode="nearest"),
    ]
    graph = helper.make_graph(nodes, "g", [lr], [sr], constants)
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


_PHOTOGRAPHS = tempfile.TemporaryDirectory(prefix="fuzz-photographs-")


@functools.cache
def _images() -> CalibrationImages:
    folder, rng = Path(_PHOTOGRAPHS.name), np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        picture = np.cumsum(rng.normal(0, 9, (40, 44, 3)), axis=0) + 120
        write_image(folder / name, np.clip(picture, 0, 255).astype(np.uint8))
    return CalibrationImages.of([folder], 2, count=2)


def _collect(folder: Path) -> Mapping[str, TensorStatistics]:
    return collect(_model(), _images(), 255, (20, 24), folder)


@functools.cache
def _expected() -> Mapping[str, TensorStatistics]:
    return _collect(Path(_PHOTOGRAPHS.name) / "cache")


def _seeds() -> Mapping[str, Files]:
    """The cache of a run that ended, and of one that was interrupted among the photographs."""
    _expected()
    (whole,) = (Path(_PHOTOGRAPHS.name) / "cache").iterdir()
    seeds = {"whole": {whole.name: whole.read_bytes()}}

    class Stopped(Progress):
        def advance(self, done: int, total: int, note: str = "") -> None:
            if done == total - 1:
                raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder, suppress(KeyboardInterrupt):
        try:
            collect(_model(), _images(), 255, (20, 24), Path(folder), progress=Stopped())
        finally:
            seeds["cut"] = {whole.name: (Path(folder) / whole.name).read_bytes()}
    return seeds


def _mutate(files: Files, rng: random.Random) -> Files:
    return mutate_one(files, rng, {".json": mutate_json})


def _read(folder: Path, seed: Files) -> None:
    found = _collect(folder)
    if found.keys() != _expected().keys():
        raise Fault(f"expected statistics of {set(_expected())}, got {set(found)}")
    for name, expected in _expected().items():
        for kind, values in vars(expected).items():
            if not np.array_equal(vars(found[name])[kind], values):
                raise Fault(f"the {kind} of {name} is not what was measured")


READER = Reader(_seeds, _mutate, _read)
