"""Run a model on OpenVINO, an optional extra."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from adadm.runtime.errors import RefusedModelError, SessionError, require
from adadm.runtime.models.graph_check import check_well_formed
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.models.onnx_reader import checked_onnx
from adadm.runtime.models.tensor_spec import TensorSpec
from adadm.runtime.sessions.openvino_operators import CONVERTERS
from adadm.runtime.sessions.session import FloatArray, Session, reason_of


class OpenVINOSession(Session):
    """A model loaded into OpenVINO on the CPU.

    OpenVINO's ONNX frontend does not expand the model's own functions (domain `adadm`):
    `openvino_operators` converts them.

    Args:
        model: path or serialized model.
        threads: threads of one inference; 0 leaves the number to OpenVINO.
        precision: `f32`, which is never lowered, or `bf16`, if the CPU supports it.

    Raises:
        MissingDependencyError: openvino or onnx is not installed.
        EngineError: the file is not a model that a backend can load (`checked_onnx`), or its
            metadata is invalid or contradicts its tensors.
        RefusedModelError: the ONNX checker or OpenVINO refuses the model.
    """

    def __init__(
        self, model: str | os.PathLike[str] | bytes, threads: int = 0, precision: str = "f32"
    ) -> None:
        ov: Any = require("openvino", "openvino")
        frontend: Any = require("openvino.frontend.onnx", "openvino")
        core = ov.Core()
        for operator, convert in CONVERTERS.items():
            core.add_extension(frontend.ConversionExtension(operator, "adadm", convert))
        config = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = str(threads)
        content = checked_onnx(model)
        name = "the model" if isinstance(model, bytes) else os.fspath(model)
        try:
            check_well_formed(content, "openvino")
            graph = core.read_model(content)
            inputs = [_spec(port) for port in graph.inputs]
            outputs = [_spec(port) for port in graph.outputs]
            # The frontend stores the metadata of the ONNX file with its own.
            kept = graph.get_rt_info("framework").value if graph.has_rt_info("framework") else {}
            metadata = {key: str(value) for key, value in kept.items()}
            noted = ModelMetadata.from_props(metadata, name)
            self._batched = [] if noted.upscale is None else _fix_batch(graph, inputs)
            self._compiled = core.compile_model(graph, "CPU", config)
            self._request = self._compiled.create_infer_request()
        except (RuntimeError, ValueError, TypeError) as error:
            raise RefusedModelError(f"OpenVINO cannot load {name}: {reason_of(error)}") from error
        self._describe(inputs, outputs, metadata, name)

    def _run(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        arrays = {name: np.ascontiguousarray(array) for name, array in feed.items()}
        batch = next((len(arrays[name]) for name in self._batched), 1)
        try:
            if batch == 1:
                return self._infer(arrays)
            singles = [
                self._infer({**arrays, **{name: arrays[name][i : i + 1] for name in self._batched}})
                for i in range(batch)
            ]
        except RuntimeError as error:
            raise SessionError(f"OpenVINO failed: {reason_of(error)}") from error
        return {name: np.concatenate([single[name] for single in singles]) for name in singles[0]}

    def _infer(self, arrays: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        results = self._request.infer(arrays, share_inputs=True)
        return {spec.name: results[index] for index, spec in enumerate(self.outputs)}

    def _release(self) -> None:
        del self._request, self._compiled


def _fix_batch(graph: Any, inputs: list[TensorSpec]) -> list[str]:
    """Make a model of ours one for a single image; return the inputs that took any number.

    With a free batch, OpenVINO cannot tell that two tensors have the same shape, and fuses less.
    """
    batched = [spec.name for spec in inputs if spec.shape[0] is None]
    graph.reshape({name: [1, *_sizes(graph.input(name))[1:]] for name in batched})
    return batched


def _sizes(port: Any) -> list[int]:
    """Sizes of a port; -1 for a free one."""
    return [size.get_length() if size.is_static else -1 for size in port.get_partial_shape()]


def _spec(port: Any) -> TensorSpec:
    shape = tuple(None if size < 0 else int(size) for size in _sizes(port))
    return TensorSpec(port.get_any_name(), shape, np.dtype(port.get_element_type().to_dtype()))
