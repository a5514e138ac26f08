"""Quantize a network, exported without folding and collapsing, with other programs."""

from __future__ import annotations

import logging
import subprocess
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from adadm.calibration.quality.photographs import Photograph
from adadm.export import Options
from adadm.export.assembly import assemble
from adadm.export.tracing import trace
from adadm.runtime.engines.tensorrt_api import parse
from adadm.runtime.errors import AdadmError, EngineError
from adadm.runtime.images.arrays import batch_from_image
from adadm.runtime.python_process import python_command
from studies.quantization.networks import Net

MODEL_OPTIMIZER = ("entropy", "max")
"""Calibration methods of Model Optimizer; the first is its default."""


def naive(net: Net) -> onnx.ModelProto:
    """Export a network with its normalizations and its tail, and modulators of plain operators."""
    options = Options(fold="off", tail="original", modulator="inline")
    return assemble(trace(net.checkpoint.network), net.checkpoint.metadata, options).model


def with_onnx_runtime(
    model: Path, images: Sequence[Photograph], rgb_range: float
) -> onnx.ModelProto:
    """Quantize with ONNX Runtime's `quantize_static` and its defaults, after its preparation."""
    # Imported here, since it puts a folder of its own on sys.path.
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, quantized = model.with_name("prepared.onnx"), model.with_name("onnx_runtime.onnx")
    batches = ({"lr": batch_from_image(photograph.lr, rgb_range)} for photograph in images)
    reader = SimpleNamespace(get_next=lambda: next(batches, None))
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    logging.disable(logging.WARNING)
    try:
        quantization.quantize_static(str(prepared), str(quantized), reader)
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load(quantized)


def with_model_optimizer(
    python: Path, model: Path, images: Sequence[Photograph], rgb_range: float, method: str
) -> onnx.ModelProto:
    """Quantize with NVIDIA Model Optimizer, run by a Python that has it.

    Values that are not INT8 stay float32; the other options have their defaults.

    Raises:
        AdadmError: Model Optimizer fails.
    """
    data, quantized = model.with_suffix(".npz"), model.with_name(f"model_optimizer_{method}.onnx")
    np.savez(data, lr=np.concatenate([batch_from_image(p.lr, rgb_range) for p in images]))
    options = {
        "onnx_path": model,
        "quantize_mode": "int8",
        "calibration_method": method,
        "calibration_data_path": data,
        "calibration_eps": "cpu",
        "high_precision_dtype": "fp32",
        "output_path": quantized,
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    _output_of(python_command("modelopt.onnx.quantization", *flags, python=python))
    return onnx.load(quantized)


def versions(modelopt: Path | None) -> dict[str, str]:
    """Versions of the programs, by the names of their packages."""
    query = "from importlib.metadata import version; print(version('nvidia-modelopt'))"
    return {
        "onnxruntime": version("onnxruntime"),
        "tensorrt_rtx": version("tensorrt_rtx"),
        "modelopt": _output_of([str(modelopt), "-I", "-c", query]).strip()
        if modelopt
        else "(left out)",
    }


def described(proto: onnx.ModelProto) -> dict[str, Any]:
    """Numbers of tensors quantized at run time and of INT32 biases; True if TensorRT parses it."""
    integers = {i.name for i in proto.graph.initializer if i.data_type == TensorProto.INT32}
    counts = Counter(node.op_type for node in proto.graph.node)
    dequantized = [node for node in proto.graph.node if node.op_type == "DequantizeLinear"]
    try:
        parse(proto.SerializeToString(), "rtx")
        parsed = True
    except EngineError:
        parsed = False
    return {
        "quantized_tensors": counts["QuantizeLinear"],
        "int32_biases": sum(node.input[0] in integers for node in dequantized),
        "parsed": parsed,
    }


def _output_of(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AdadmError(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return done.stdout
