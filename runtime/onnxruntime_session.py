"""Running a model on ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from adadm.runtime.errors import SessionError, require

__all__ = ["OnnxRuntimeSession", "TensorSpec"]

Array = npt.NDArray[Any]

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
}


@dataclass(frozen=True)
class TensorSpec:
    """An input or output; a string or None in the shape is a free dimension."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype[Any]


class OnnxRuntimeSession:
    """A model loaded into ONNX Runtime.

    Args:
        model: a path, or a serialized model.
        providers: execution providers in order of preference, with options where needed.
        threads: of one operator; 0 leaves it to ONNX Runtime.
        custom_ops: libraries of custom operators to register.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        SessionError: ONNX Runtime refuses the model, lacks a provider, or does not use the first.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        providers: Sequence[str | tuple[str, dict[str, Any]]] = ("CPUExecutionProvider",),
        threads: int = 0,
        custom_ops: Sequence[str] = (),
    ) -> None:
        ort = require("onnxruntime", "cpu")
        wanted = {p if isinstance(p, str) else p[0] for p in providers}
        if missing := sorted(wanted - set(ort.get_available_providers())):
            raise SessionError(
                f"this ONNX Runtime has no {', '.join(missing)}; it has "
                f"{', '.join(ort.get_available_providers())}. For CUDA and TensorRT: "
                "pip install 'adadm-deploy[gpu]' in place of [cpu]"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        for library in custom_ops:
            options.register_custom_ops_library(library)
        source = model if isinstance(model, bytes) else os.fspath(model)
        try:
            self._session = ort.InferenceSession(source, options, providers=list(providers))
        except Exception as error:  # onnxruntime raises classes that share no narrower base
            name = "the model" if isinstance(source, bytes) else source
            raise SessionError(f"ONNX Runtime cannot load {name}: {error}") from error
        first = providers[0] if isinstance(providers[0], str) else providers[0][0]
        if (used := self._session.get_providers()[0]) != first:
            raise SessionError(f"ONNX Runtime fell back from {first} to {used}; see its log")
        self.inputs = [_spec(tensor) for tensor in self._session.get_inputs()]
        self.outputs = [_spec(tensor) for tensor in self._session.get_outputs()]
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self._smallest_area = int(self.metadata.get("adadm.smallest_area", 1))

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model on arrays by input name; returns arrays by output name.

        Raises:
            SessionError: names, data types or shapes do not fit, or ONNX Runtime fails.
        """
        self._check(feed)
        names = [spec.name for spec in self.outputs]
        try:
            results = self._session.run(names, dict(feed))
        except Exception as error:  # as above
            raise SessionError(f"ONNX Runtime failed: {error}") from error
        return dict(zip(names, results, strict=True))

    def _check(self, feed: Mapping[str, Array]) -> None:
        expected = {spec.name: spec for spec in self.inputs}
        if feed.keys() != expected.keys():
            raise SessionError(f"fed {sorted(feed)}, the model reads {sorted(expected)}")
        for name, array in feed.items():
            spec = expected[name]
            fits = len(array.shape) == len(spec.shape) and all(
                not isinstance(wanted, int) or wanted == found
                for found, wanted in zip(array.shape, spec.shape, strict=True)
            )
            if array.dtype != spec.dtype or not fits:
                raise SessionError(
                    f"{name} is {array.dtype} {array.shape}, expected {spec.dtype} {spec.shape}"
                )
            if array.ndim == 4 and array.shape[2] * array.shape[3] < self._smallest_area:
                raise SessionError(
                    f"{name} has {array.shape[2]}x{array.shape[3]} px, "
                    f"the network needs at least {self._smallest_area} in all"
                )


def _spec(tensor: Any) -> TensorSpec:
    if tensor.type not in _DTYPES:
        raise SessionError(f"{tensor.name} is {tensor.type}; supported: {', '.join(_DTYPES)}")
    return TensorSpec(tensor.name, tuple(tensor.shape), np.dtype(_DTYPES[tensor.type]))
