"""Responses of a network to photographs: deviations and factors, block by block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from adadm.calibration.lowering import Lowering
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.deployment.certification.running import evaluated, run_graph
from adadm.deployment.inspection.inspected_file import InspectedFile
from adadm.export.graph.channels import pooled_variance
from adadm.export.graph.rewriting import constant_of, new_initializer
from adadm.export.operators.modulator import SIGNATURES, modulators
from adadm.export.passes import ExposeFactors
from adadm.runtime.errors import CalibrationError
from adadm.runtime.images.arrays import batch_from_image
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

Array = npt.NDArray[np.float64]

_TRUNK, _RESIDUAL = 0, 1
"""Inputs of a modulator."""


@dataclass(frozen=True)
class Spread:
    """Range of a nonnegative figure over the photographs."""

    least: float
    mean: float
    largest: float

    @property
    def ratio(self) -> float:
        """Largest value over the least: the dependence on the content of photographs."""
        return self.largest / self.least if self.least else math.inf

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Spread of the values of at least one photograph."""
        return Spread(min(values), sum(values) / len(values), max(values))


@dataclass(frozen=True)
class BlockResponse:
    """Figures of a block over the photographs; a folded or lowered file has only its factor.

    Attributes:
        factor: modulation factor.
        trunk: std of the trunk that the modulator reads.
        residual, modulated: std of the residual before and after its factor.
        channels: std (C,) of each channel of the trunk, on the photograph where it is largest.
    """

    factor: Spread
    trunk: Spread | None = None
    residual: Spread | None = None
    modulated: Spread | None = None
    channels: Array | None = None


@dataclass(frozen=True)
class _Planes:
    """Mean and (biased) variance of each channel (C,) of one image, over its pixels."""

    means: Array
    variances: Array
    pixels: int

    @property
    def std(self) -> float:
        """Unbiased std over all channels, as in the modulator."""
        count = self.means.size * self.pixels
        variance = pooled_variance(self.means, self.variances)
        return math.sqrt(variance * count / max(count - 1, 1))


def measure_responses(lowering: Lowering, *, progress: Progress = SILENT) -> list[BlockResponse]:
    """Measure the response of each block of a network to the photographs, in graph order."""
    progress.phase("observing deviations")
    centers = [_center(node) for node in modulators(lowering.whole.graph)]
    session = OnnxRuntimeSession(_with_planes(lowering.whole).SerializeToString(), lean=True)
    seen: list[list[tuple[_Planes, _Planes, float]]] = [[] for _ in centers]
    for count, photograph in enumerate(lowering.images, 1):
        outputs = session.run(
            {"lr": batch_from_image(photograph.lr, lowering.source.metadata.rgb_range)}
        )
        pixels = photograph.lr.shape[0] * photograph.lr.shape[1]
        wide = {name: values.astype(np.float64).ravel() for name, values in outputs.items()}
        for index, center in enumerate(centers):
            trunk, residual = (
                _Planes(wide[f"{index}::{of}::mean"], wide[f"{index}::{of}::variance"], pixels)
                for of in (_TRUNK, _RESIDUAL)
            )
            trunk = _Planes(trunk.means - center, trunk.variances, pixels)
            seen[index].append((trunk, residual, wide[f"factor_{index}"].item()))
        progress.advance(count, len(lowering.images))
    return [
        BlockResponse(
            factor=Spread.of([factor for *_, factor in block]),
            trunk=Spread.of([trunk.std for trunk, *_ in block]),
            residual=Spread.of([residual.std for _, residual, _ in block]),
            modulated=Spread.of([residual.std * factor for _, residual, factor in block]),
            channels=np.sqrt(np.max([trunk.variances for trunk, *_ in block], axis=0)),
        )
        for block in seen
    ]


def measure_deployed_responses(
    inspected: InspectedFile, images: CalibrationImages, *, progress: Progress = SILENT
) -> list[BlockResponse]:
    """Measure the factors of a folded or lowered file, in the units of the network.

    Raises:
        CalibrationError: the file does not show its factors.
    """
    progress.phase("running photographs")
    run = run_graph(evaluated(inspected.path, inspected.metadata), inspected.metadata)
    factors = []
    for count, photograph in enumerate(images, 1):
        _, found = run(batch_from_image(photograph.lr, inspected.metadata.rgb_range))
        if len(found) != len(inspected.structure.blocks):
            raise CalibrationError(
                f"{inspected.path} has inlined modulators, which do not show their factors; "
                "export it with --modulator function, or give the checkpoint"
            )
        factors.append([factor.item() for factor in found])
        progress.advance(count, len(images))
    return [BlockResponse(Spread.of(block)) for block in zip(*factors, strict=True)]


def _center(modulator: ir.Node) -> Array | float:
    """Constant that a folded normalization added to each channel of the trunk."""
    if not SIGNATURES[modulator.op_type].shifted:
        return 0.0
    center = constant_of(modulator.inputs[2])
    assert center is not None  # ShiftTrunk made it
    return center.ravel()


def _with_planes(model: ir.Model) -> onnx.ModelProto:
    """Add the factors, and the moments of each input plane of each modulator, as outputs."""
    observed = model.clone()
    ExposeFactors()(observed)
    graph = observed.graph
    axes = new_initializer(graph, "over_pixels", np.array([2, 3]), ir.DataType.INT64)
    for index, modulator in enumerate(modulators(graph)):
        for place in (_TRUNK, _RESIDUAL):
            mean = ir.node("ReduceMean", [modulator.inputs[place], axes])
            deviation = ir.node("Sub", [modulator.inputs[place], mean.outputs[0]])
            square = ir.node("Mul", [deviation.outputs[0], deviation.outputs[0]])
            variance = ir.node("ReduceMean", [square.outputs[0], axes])
            for kind, node in (("mean", mean), ("variance", variance)):
                node.outputs[0].name = f"{index}::{place}::{kind}"
                node.outputs[0].dtype = ir.DataType.FLOAT
                graph.outputs.append(node.outputs[0])
            graph.extend([mean, deviation, square, variance])
    proto: onnx.ModelProto = ir.to_proto(observed)
    return proto
