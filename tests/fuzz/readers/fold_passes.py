"""The folding passes on changed graphs: where ONNX Runtime runs both, the numbers stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from adadm.export import collapse_tail, fold_batch_norm
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from fuzz.models import MODEL, mutate_case, seed_models
from fuzz.reader import REFUSALS, Fault, Files, Reader

_FREE_PX = 12
_TOLERANCE = 1e-3
_LARGEST = 1e4
"""Of weights: larger ones cancel, and float32 does not hold what is left."""


def _seeds() -> dict[str, Files]:
    models = seed_models()
    names = ("foreign", "unfolded", "unfolded-tail", "inlined", "int8")
    return {name: {MODEL: models[name][MODEL]} for name in names}


def _read(folder: Path, _: Files) -> None:
    content = (folder / MODEL).read_bytes()
    try:
        model: ir.Model = ir.from_proto(onnx.load_from_string(content))
    except Exception:  # noqa: BLE001 - the passes take what onnx_ir has read
        return
    before = _outputs(content)
    decisions = [*fold_batch_norm(model), collapse_tail(model)]
    if before is None or not any(decision.result for decision in decisions):
        return
    after = _outputs(ir.to_proto(model).SerializeToString())
    if after is None or len(after) != len(before):
        raise Fault("ONNX Runtime ran the graph before, and does not after")
    if not _is_tame(content):
        return
    for one, other in zip(before, after, strict=True):
        finite = np.isfinite(one).all()
        if one.shape != other.shape or (
            finite and np.abs(one - other).max(initial=0) > _TOLERANCE * (1 + np.abs(one).max())
        ):
            raise Fault("the numbers differ")


def _outputs(content: bytes) -> list[npt.NDArray[np.float64]] | None:
    """What ONNX Runtime makes of fixed inputs; None if it refuses the model."""
    try:
        with OnnxRuntimeSession(content, threads=1) as session:
            rng = np.random.default_rng(0)
            feed = {}
            for spec in session.inputs:
                shape = [
                    length if isinstance(length, int) else 1 if axis == 0 else _FREE_PX
                    for axis, length in enumerate(spec.shape)
                ]
                if np.prod(shape) > 1e6:
                    return None
                feed[spec.name] = rng.uniform(0, 9, shape).astype(spec.dtype)
            return [array.astype(np.float64) for array in session.run(feed).values()]
    except REFUSALS:
        return None


def _is_tame(content: bytes) -> bool:
    """Whether all constants are numbers of usual size."""
    for tensor in onnx.load_from_string(content).graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and not (np.abs(values) < _LARGEST).all():
            return False
    return True


READER = Reader(_seeds, mutate_case, _read)
