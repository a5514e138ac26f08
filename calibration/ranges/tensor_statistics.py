"""Statistics of the tensors of a float32 graph over the calibration images; cached as JSON."""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from adadm.calibration.quality.gates import resemblance_lost_db
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.export.graph.rewriting import new_initializer
from adadm.export.passes import ExposeFactors
from adadm.export.proof.drawn_pictures import plain_pictures
from adadm.runtime.errors import CalibrationError
from adadm.runtime.files import not_kept
from adadm.runtime.images.arrays import batch_from_image
from adadm.runtime.images.metrics import LARGEST_LOSS_DB
from adadm.runtime.json_format import Figure
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.records import read_record, write_record
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

Array = npt.NDArray[np.float64]

METHOD = "largest magnitude by channel, of photographs and drawn inputs; mean of photographs; 2"
"""Definition of the figures and version of their computation: part of the cache key."""

FACTOR = "factor_"
"""Prefix of the statistics of modulation factors; the modulator's index in graph order follows."""

_LARGEST, _MEAN, _SQUARE = "largest", "mean", "square"
_IMAGE_RANK = 4


@dataclass(frozen=True)
class TensorStatistics:
    """Statistics of one value by channel, (C,); (1,) for a value that is not (N, C, H, W).

    Attributes:
        largest: largest magnitude over photographs and drawn inputs.
        mean: mean over the photographs.
        square: mean square over the photographs.
    """

    largest: Array
    mean: Array
    square: Array

    @property
    def peak(self) -> float:
        """Largest magnitude over all channels."""
        return float(self.largest.max())

    @property
    def rms(self) -> float:
        """Root mean square over all channels."""
        return math.sqrt(self.square.mean())


def collect(
    model: onnx.ModelProto,
    images: CalibrationImages,
    rgb_range: float,
    drawn_size: tuple[int, int],
    cache: Path | None = None,
    *,
    progress: Progress = SILENT,
) -> dict[str, TensorStatistics]:
    """Collect statistics of each float value of a graph, and of each modulator's factor.

    The graph runs on ONNX Runtime with a few reductions beside each value.

    Args:
        model: float32, (N, 3, H, W) in and out, modulators as nodes; opset 18 or later.
        drawn_size: height and width of the drawn inputs (`plain_pictures`), which contain what
            photographs seldom do: flat black and white, and edges between them.
        cache: folder of JSON files, named by the digest of model, images and method. A file is
            rewritten after each image; the next call resumes from it.
        progress: receives the number of finished inputs.

    Raises:
        CalibrationError: the model's output of a photograph is not finite.
    """
    digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    key_of = "\n".join((METHOD, str(drawn_size), images.digest, digest))
    key = hashlib.sha256(key_of.encode()).hexdigest()
    file = cache / f"statistics-{key[:32]}.json" if cache else None
    known = file and read_record(_State, file, partial(progress.message, warning=True))
    state = known or _State(0, {})
    drawn = plain_pictures(*drawn_size)
    total = len(drawn) + len(images)
    progress.advance(state.done, total)
    if state.done < total:
        session = OnnxRuntimeSession(_with_reductions(model).SerializeToString(), lean=True)
        inputs = itertools.chain(
            ((name, image, True) for name, image in drawn.items()),
            ((photograph.name, photograph.lr, False) for photograph in images),
        )
        for name, lr, is_drawn in itertools.islice(inputs, state.done, None):
            outputs = session.run({"lr": batch_from_image(lr, rgb_range)})
            sr = outputs.pop("sr")
            if is_drawn and resemblance_lost_db(sr, lr, rgb_range) > LARGEST_LOSS_DB:
                outputs = {}
            elif not np.isfinite(sr).all():
                raise CalibrationError(
                    f"{name}: the output of the float32 model is not finite: the network diverges, "
                    "or its hyper-parameters are not those of its training"
                )
            state.add(outputs, is_drawn=is_drawn)
            if file is not None:
                try:
                    write_record(file, state)
                except OSError as error:
                    progress.message(not_kept(error), warning=True)
                    file = None
            progress.advance(state.done, total)
    return state.result(len(images))


@dataclass
class _State:
    """Sums over the finished inputs, in JSON's own types."""

    done: int
    tensors: dict[str, dict[str, list[Figure]]]

    def add(self, outputs: dict[str, npt.NDArray[Any]], *, is_drawn: bool) -> None:
        for output, values in outputs.items():
            name, _, kind = output.rpartition("::")
            if is_drawn and kind != _LARGEST:
                continue
            new = values.astype(np.float64).ravel()
            kinds = self.tensors.setdefault(name, {})
            old = np.array(kinds.get(kind, np.zeros(new.size)))
            kinds[kind] = (np.maximum(old, new) if kind == _LARGEST else old + new).tolist()
        self.done += 1

    def result(self, photographs: int) -> dict[str, TensorStatistics]:
        return {
            name: TensorStatistics(
                np.array(kinds[_LARGEST]),
                np.array(kinds[_MEAN]) / photographs,
                np.array(kinds[_SQUARE]) / photographs,
            )
            for name, kinds in self.tensors.items()
        }


def _with_reductions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add outputs `NAME::largest`, `NAME::mean`, `NAME::square` for each value."""
    observed: ir.Model = ir.from_proto(model)
    ExposeFactors()(observed)
    common.ShapeInferencePass()(observed)
    graph = observed.graph
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    axes = new_initializer(graph, "all_but_channels", np.array([0, 2, 3]), ir.DataType.INT64)
    del graph.outputs[1:]  # factors are measured as values
    for value in values:
        if value.dtype != ir.DataType.FLOAT:
            continue
        magnitude = ir.node("Abs", [value])
        square = ir.node("Mul", [value, value])
        by_channel = value.shape is not None and len(value.shape) == _IMAGE_RANK
        nodes = [magnitude, square]
        for kind, op_type, reduced in (
            (_LARGEST, "ReduceMax", magnitude.outputs[0]),
            (_MEAN, "ReduceMean", value),
            (_SQUARE, "ReduceMean", square.outputs[0]),
        ):
            inputs = [reduced, axes] if by_channel else [reduced]
            node = ir.node(op_type, inputs, {"keepdims": 0})
            node.outputs[0].name = f"{value.name}::{kind}"
            node.outputs[0].dtype = ir.DataType.FLOAT
            nodes.append(node)
            graph.outputs.append(node.outputs[0])
        graph.extend(nodes)
    proto: onnx.ModelProto = ir.to_proto(observed)
    return proto
