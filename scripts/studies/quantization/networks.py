"""The quantized networks, and the loss of their lowered forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from adadm.calibration.quality.gates import Run, measure_gates
from adadm.calibration.quality.ledger import Stage, measure
from adadm.calibration.quality.photographs import Photograph
from adadm.calibration.ranges.int8_ranges import (
    ConvolutionRange,
    choose_ranges,
    quantize_convolutions,
)
from adadm.calibration.ranges.tensor_statistics import TensorStatistics, collect
from adadm.export import Checkpoint, collapse_tail, fold_batch_norm, load_checkpoint
from adadm.export.graph.channels import affine_of_batch_norm, reached_convolutions
from adadm.export.graph.rewriting import label
from adadm.export.passes.collapse_linear_tail import is_border_strip
from adadm.export.tracing import trace
from adadm.runtime.images.arrays import Batch, batch_from_image
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from studies.pages import CHECKPOINTS

NETWORKS = {
    "EDSR 8 x 48, x2": "edsr_adadm_x2",
    "EDSR 8 x 48, x4": "edsr_adadm_x4",
    "RDN 5 x 4 x 24, x2": "rdn_adadm_x2",
    "NLSN 8 x 32, x2": "nlsn_adadm_x2",
}
DRAWN_SIZE = (48, 64)
GATED = 4
"""Number of photographs for the gates."""
_IMAGE_CHANNELS = 3

Array = npt.NDArray[np.float64]
Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Net:
    """A bundled network.

    Attributes:
        model: float32, folded and collapsed.
        affine: |a| of the normalization that was folded into a shifted trunk, by name of each
            convolution that reads it; 1 for other channels.
        lowered: convolutions for INT8, without border strips: for factor 2 all but head and tail,
            for factor 4 all but the head.
    """

    checkpoint: Checkpoint
    model: ir.Model
    affine: dict[str, Array]
    lowered: tuple[str, ...]

    @property
    def rgb_range(self) -> float:
        """Value of white of the network."""
        return self.checkpoint.network.rgb_range

    @property
    def upscale(self) -> int:
        """Upscale factor of the network."""
        return self.checkpoint.network.upscale

    def collect(self, images: Any) -> dict[str, TensorStatistics]:
        """Collect statistics with the shipped method."""
        return collect(ir.to_proto(self.model), images, self.rgb_range, DRAWN_SIZE)

    def ranges(self, statistics: Mapping[str, TensorStatistics]) -> dict[str, ConvolutionRange]:
        """Ranges by the shipped method, of the convolutions for INT8."""
        ranges = choose_ranges(self.model.graph, statistics)
        return {name: ranges[name] for name in self.lowered}

    def quantized(
        self, ranges: Mapping[str, ConvolutionRange], names: Collection[str] = ()
    ) -> ir.Model:
        """Quantize the graph with INT8 ranges, of all or of some convolutions."""
        model = self.model.clone()
        quantize_convolutions(model, ranges, names or ranges)
        return model


def load(title: str) -> Net:
    """Trace, fold and collapse a bundled network."""
    checkpoint = load_checkpoint(CHECKPOINTS / f"{NETWORKS[title]}.safetensors")
    model = trace(checkpoint.network)
    norms = {}
    for node in model.graph:
        if node.op_type == "BatchNormalization":
            leaves = reached_convolutions(node.outputs[0])
            names = [(label(leaf.convolution), leaf.offset) for leaf in leaves]
            norms[label(node)] = np.abs(affine_of_batch_norm(node).scale), names
    shifted = [d.node for d in fold_batch_norm(model) if d.result == "shifted trunk"]
    collapse_tail(model)
    affine, lowered = {}, []
    for node in model.graph:
        if node.op_type != "Conv" or is_border_strip(node):
            continue
        channels = int(node.inputs[1].shape[1])  # type: ignore[union-attr, index, arg-type]
        affine[label(node)] = np.ones(channels)
        is_tail = label(node).endswith("collapsed")
        if channels > _IMAGE_CHANNELS and not (is_tail and checkpoint.network.upscale == 2):
            lowered.append(label(node))
    for norm in shifted:
        scale, names = norms[norm]
        for name, offset in names:
            affine[name][offset : offset + scale.size] = scale
    return Net(checkpoint, model, affine, tuple(lowered))


def inputs_of(model: ir.Model, names: Collection[str]) -> dict[str, str]:
    """Name of the value that each convolution reads, by its name."""
    return {
        label(node): str(node.inputs[0].name)
        for node in model.graph
        if node.op_type == "Conv" and label(node) in names and node.inputs[0] is not None
    }


def observed(
    model: ir.Model, names: Collection[str], images: Sequence[Photograph], rgb_range: float
) -> Iterator[dict[str, Values]]:
    """Yield values of a graph, (C, H, W), for one photograph after the other."""
    watched = model.clone()
    values = {v.name: v for node in watched.graph for v in node.outputs if v.name in names}
    watched.graph.outputs.extend(values.values())
    session = OnnxRuntimeSession(ir.to_proto(watched).SerializeToString())
    for photograph in images:
        outputs = session.run({"lr": batch_from_image(photograph.lr, rgb_range)})
        yield {name: outputs[name][0] for name in names}


class Judge:
    """Measure the loss of a lowered form against float32, and the gates that it fails.

    Args:
        sets: photographs to measure on, by name.
        gated: photographs for the gates.
    """

    def __init__(
        self, net: Net, sets: Mapping[str, Sequence[Photograph]], gated: Sequence[Photograph]
    ) -> None:
        self._net, self._sets, self._gated = net, sets, gated
        self._float32 = _remembering(_runner(ir.to_proto(net.model)))

    def __call__(self, proto: onnx.ModelProto) -> dict[str, Any]:
        """PSNR-Y lost and PSNR to the float32 output by set, dB; and the failed gates."""
        rgb_range, upscale, run = self._net.rgb_range, self._net.upscale, _runner(proto)
        stages = [Stage("float32", _as_stage(self._float32)), Stage("lowered", _as_stage(run))]
        lost, parity = {}, {}
        for name, photographs in self._sets.items():
            stage = measure(stages, photographs, rgb_range, upscale).stages[1]
            lost[name], parity[name] = stage.lost_db or 0.0, stage.parity_db or math.inf
        gates = measure_gates(
            self._float32, run, self._gated, rgb_range=rgb_range, upscale=upscale, size=DRAWN_SIZE
        )
        return {
            "lost_db": lost,
            "parity_db": parity,
            "failed": [result.as_json() for result in gates if not result.passed],
        }


def _runner(proto: onnx.ModelProto) -> Run:
    session = OnnxRuntimeSession(proto.SerializeToString())
    (name,) = [spec.name for spec in session.inputs]
    (sr,) = [spec.name for spec in session.outputs]
    return lambda lr: session.run({name: lr})[sr]


def _as_stage(run: Run) -> Callable[[Batch], tuple[Batch, list[Batch]]]:
    return lambda lr: (run(lr), [])


def _remembering(run: Run) -> Run:
    outputs: dict[bytes, Batch] = {}

    def remembered(lr: Batch) -> Batch:
        key = lr.shape[2].to_bytes(4) + lr.tobytes()
        if key not in outputs:
            outputs[key] = run(lr)
        return outputs[key]

    return remembered
