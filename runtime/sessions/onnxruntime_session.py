"""Run a model on ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adadm.runtime.errors import RefusedModelError, SessionError, require
from adadm.runtime.models.onnx_reader import checked_onnx
from adadm.runtime.models.tensor_spec import TensorSpec
from adadm.runtime.sessions.session import FloatArray, Session, reason_of

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
}


class OnnxRuntimeSession(Session):
    """A model loaded into ONNX Runtime.

    Args:
        model: path or serialized model.
        providers: execution providers in order of preference, with options if needed.
        threads: threads of one operator; 0 leaves the number to ONNX Runtime.
        custom_ops: libraries of custom operators to register.
        optimize: let ONNX Runtime rewrite the graph.
        lean: hold as little memory as possible during and after a run; somewhat slower.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        EngineError: the file is not a model that a backend can load (`checked_onnx`), or its
            metadata is invalid or contradicts its tensors.
        RefusedModelError: ONNX Runtime refuses the model.
        SessionError: ONNX Runtime lacks a provider, or does not use the first.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        providers: Sequence[str | tuple[str, dict[str, Any]]] = ("CPUExecutionProvider",),
        *,
        threads: int = 0,
        custom_ops: Sequence[str] = (),
        optimize: bool = True,
        lean: bool = False,
    ) -> None:
        ort = require("onnxruntime", "cpu")
        ort.disable_telemetry_events()
        wanted = [p if isinstance(p, str) else p[0] for p in providers]
        available = ort.get_available_providers()
        if missing := sorted(set(wanted).difference(available)):
            raise SessionError(
                f"expected an ONNX Runtime with {', '.join(missing)}, got {', '.join(available)}. "
                "For CUDA and TensorRT: pip install 'adadm-deploy[gpu]' instead of [cpu]"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Errors are raised too; of CUDA and TensorRT the log says more.
        options.log_severity_level = 4 if wanted == ["CPUExecutionProvider"] else 3
        # It would keep a memory plan with its own block for each size: a quarter more memory, and
        # no faster (docs/decisions.md).
        options.enable_mem_pattern = False
        if lean:
            options.enable_cpu_mem_arena = False
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        for library in custom_ops:
            options.register_custom_ops_library(library)
        options.add_session_config_entry("session.load_model_format", "ONNX")  # no other format
        content = checked_onnx(model, needs_bodies=not custom_ops)
        name = "the model" if isinstance(model, bytes) else os.fspath(model)
        try:
            self._session = ort.InferenceSession(
                content,
                options,
                providers=list(providers),
                enable_fallback=0,  # else the CPU replaces a failing provider
            )
            inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
            metadata = self._session.get_modelmeta().custom_metadata_map
        except Exception as error:  # onnxruntime raises classes that share no narrower base
            raise RefusedModelError(
                f"ONNX Runtime cannot load {name}: {reason_of(error)}"
            ) from error
        if (used := self._session.get_providers()[0]) != wanted[0]:
            raise SessionError(f"expected ONNX Runtime to use {wanted[0]}, got {used}; see its log")
        self._describe([*map(_spec, inputs)], [*map(_spec, outputs)], metadata, name)

    def _run(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        names = [spec.name for spec in self.outputs]
        try:
            results = self._session.run(names, dict(feed))
        except Exception as error:  # as above
            raise SessionError(f"ONNX Runtime failed: {reason_of(error)}") from error
        return dict(zip(names, results, strict=True))

    def _release(self) -> None:
        del self._session


def _spec(tensor: Any) -> TensorSpec:
    if tensor.type not in _DTYPES:
        raise SessionError(f"{tensor.name}: expected {', '.join(_DTYPES)}, got {tensor.type}")
    return TensorSpec(tensor.name, tuple(tensor.shape), np.dtype(_DTYPES[tensor.type]))
