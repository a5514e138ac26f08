"""Run a model on an image or a batch, with its modulation factors if it returns them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from adadm.calibration.quality.ledger import Output
from adadm.calibration.target_forms.float16_emulation import rounded_to_half
from adadm.calibration.target_forms.target_model import deploy
from adadm.export.graph.checker import read_model
from adadm.runtime.backends import BACKENDS
from adadm.runtime.errors import CalibrationError, SessionError
from adadm.runtime.images.arrays import Batch, batch_from_image, image_from_batch
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.sessions.session import Session
from adadm.runtime.targets import TARGETS

RunWithFactors = Callable[[Batch], Output]
"""Function of a batch (1, 3, H, W) in 0..rgb_range."""

_QUANTIZING = {"QuantizeLinear", "DequantizeLinear"}


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add `--backend`, of an ONNX model; on `cpu` it is run as `evaluated` returns it."""
    parser.add_argument(
        "--backend",
        choices=[name for name in BACKENDS if name != "engine"],
        default="cpu",
        help="backend that runs an ONNX model; cpu emulates a device's rounding to half "
        "precision; default: cpu",
    )


def evaluated(source: Path | bytes, metadata: ModelMetadata) -> onnx.ModelProto:
    """Load a model with its factors as outputs, and with a device's rounding emulated.

    Args:
        source: path or content of the model.
    """
    if metadata.version is None:  # made by another tool
        return rounded_to_half(ir.to_proto(read_model(source)))
    return deploy(source, TARGETS[metadata.target or "cpu"]).evaluated


def precision_of(graph: onnx.ModelProto, metadata: ModelMetadata) -> str:
    """Precision recorded when the model was lowered, or else that of its graph."""
    if metadata.precision != "float32":
        return metadata.precision
    if any(node.op_type in _QUANTIZING for node in graph.graph.node):
        return "int8"
    half = onnx.TensorProto.FLOAT16
    casts = (a.i for n in graph.graph.node if n.op_type == "Cast" for a in n.attribute)
    return "fp16" if half in casts else "float32"


def run_graph(graph: onnx.ModelProto, metadata: ModelMetadata) -> RunWithFactors:
    """Run a graph on ONNX Runtime, with its factors in the units of the network.

    Raises:
        CalibrationError: the metadata scales more factors than the graph has.
    """
    session = OnnxRuntimeSession(graph.SerializeToString())
    scales, outputs = metadata.factor_scales, len(session.outputs)
    if len(scales) >= outputs:
        raise CalibrationError(
            f"expected a graph with the {len(scales)} factors that its metadata scales, got "
            f"{outputs - 1}; lower the network again"
        )

    def run(lr: Batch) -> Output:
        sr, factors = _run(session, lr, metadata)
        for index, scale in enumerate(scales):
            factors[index] = np.asarray(factors[index] / scale, np.float32)
        return sr, factors

    return run


def run_session(session: Session, metadata: ModelMetadata) -> RunWithFactors:
    """Run a model as it is, without its factors."""
    return lambda lr: (_run(session, lr, metadata)[0], [])


def split_outputs(session: Session, feed: Mapping[str, Any]) -> Output:
    """Run a session; return the image, its first output, and the factors in graph order."""
    image, *factors = session.run(feed).values()
    return image, factors


def feed_of(name: str, lr: Batch, metadata: ModelMetadata) -> dict[str, Any]:
    """Inputs of a model by name: a batch, or an image for a model of images."""
    if not metadata.is_uint8:
        return {name: lr}
    return {name: image_from_batch(lr, metadata.network.rgb_range)[None]}


def _run(session: Session, lr: Batch, metadata: ModelMetadata) -> Output:
    """Run a session on a batch.

    Raises:
        SessionError: the image has another size than the metadata says.
    """
    (fed,) = feed_of("lr", lr, metadata).values()
    sr, factors = split_outputs(session, {session.inputs[0].name: fed})
    expected = metadata.enlarged(fed.shape)
    if metadata.upscale is not None and sr.shape != expected:
        raise SessionError(f"expected a result {expected} for {fed.shape}, got {sr.shape}")
    if not metadata.is_uint8:
        return np.asarray(sr, np.float32), factors
    return batch_from_image(sr[0], metadata.network.rgb_range), factors
