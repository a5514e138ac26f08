"""Opening a model on a backend by name."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from adadm.runtime.engines.engine_session import TensorRTSession
from adadm.runtime.errors import MissingDependencyError, RefusedModelError, SessionError
from adadm.runtime.files import not_kept
from adadm.runtime.models.bundled import is_engine
from adadm.runtime.models.onnx_reader import checked_onnx
from adadm.runtime.records import read_record, write_record
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.sessions.openvino_session import OpenVINOSession
from adadm.runtime.sessions.session import Session, Timing
from adadm.runtime.sessions.timing import time_backends, timing_file

_logger = logging.getLogger(__name__)

ModelPath = str | os.PathLike[str] | bytes

# TensorFloat-32 keeps only 11 bits of each factor of a product, so it is off.
_CUDA: list[str | tuple[str, dict[str, str]]] = [
    ("CUDAExecutionProvider", {"use_tf32": "0"}),
    "CPUExecutionProvider",
]
_TENSORRT = ["TensorrtExecutionProvider", *_CUDA]
_ENGINE = "engine"


def _engine(model: ModelPath, *, trust: bool) -> Session:
    if isinstance(model, bytes) or not is_engine(model):
        name = "a model in memory" if isinstance(model, bytes) else os.fspath(model)
        raise SessionError(
            f"{name} is not a TensorRT engine (.engine, .plan); build one with 'adadm build', or "
            "choose another backend"
        )
    return TensorRTSession(model, trust=trust)


BACKENDS: dict[str, Callable[[ModelPath, int], Session]] = {
    "cpu": lambda model, threads: OnnxRuntimeSession(model, threads=threads),
    "openvino": OpenVINOSession,
    "cuda": lambda model, threads: OnnxRuntimeSession(model, _CUDA, threads=threads),
    "tensorrt": lambda model, threads: OnnxRuntimeSession(model, _TENSORRT, threads=threads),
    _ENGINE: lambda model, _: _engine(model, trust=False),
}
"""Loaders by name: ONNX Runtime on the CPU, with CUDA, and with TensorRT inside it; OpenVINO on
the CPU; and TensorRT itself, for built engines."""

_ON_CPU = ("openvino", "cpu")
AUTO_ORDER = ("cuda", *_ON_CPU)
"""Backends that `auto` tries. Not `tensorrt`, which first builds an engine for minutes."""


def open_session(
    model: ModelPath,
    backend: str = "cpu",
    *,
    threads: int = 0,
    trust: bool = False,
    may_time: bool = True,
) -> Session:
    """Load a model.

    Args:
        model: a path, or a serialized model.
        backend: one of `BACKENDS`, or `auto`: for an engine `engine`; else `cuda` if it can load
            the model, else the faster of `openvino` and `cpu`, timed at the first use of a model
            on a machine, and kept (`sessions.timing`).
        threads: CPU threads; 0 leaves the number to the backend.
        trust: load an engine even without a manifest. An engine can run any code.
        may_time: time backends for `auto`; else, without a kept time, it is the first of
            `AUTO_ORDER` that can load the model.

    Raises:
        MissingDependencyError: the backend is not installed.
        SessionError: the name is unknown, or the backend refuses the model or lacks its device.
        EngineError: the engine is incomplete or was made for another machine; or the file is not a
            model that a backend can load (`checked_onnx`).
    """
    if backend not in ("auto", *BACKENDS):
        raise SessionError(f"expected backend auto, {', '.join(BACKENDS)}, got {backend!r}")
    if not isinstance(model, bytes) and is_engine(model):
        if backend not in ("auto", _ENGINE):
            raise SessionError(
                f"{os.fspath(model)} is an engine, which {backend} cannot run; choose {_ENGINE} or "
                "auto, or give the ONNX model that it was built from"
            )
        session = _engine(model, trust=trust)
        session.backend = _ENGINE
        return session
    if backend != "auto":
        return _opened(backend, model, threads)
    return _chosen(model, threads, may_time=may_time)


def _chosen(model: ModelPath, threads: int, *, may_time: bool) -> Session:
    """The fastest backend on this machine if that is known, or may be timed; else the first."""
    path = timing_file(checked_onnx(model), threads)
    timing = read_record(Timing, path, _logger.warning)
    seconds: Mapping[str, float] = timing.seconds if timing else {}
    order = sorted(AUTO_ORDER, key=lambda name: (name in _ON_CPU, seconds.get(name, math.inf)))
    session = _first(order, model, threads)
    session.timing = timing if session.backend in seconds else None
    if seconds or not may_time or session.backend not in _ON_CPU:
        return session
    sessions = {session.backend: session}
    for name in AUTO_ORDER:
        if name in _ON_CPU and name not in sessions:
            with suppress(MissingDependencyError, SessionError):
                sessions[name] = _opened(name, model, threads)
    if len(sessions) > 1:
        with suppress(SessionError):  # the caller's own run says what is wrong
            timing = time_backends(sessions)
    if timing is not None:
        session = sessions[timing.fastest]
        session.timing = timing
        try:
            write_record(path, timing)
        except OSError as error:
            _logger.warning("%s", not_kept(error))
    for other in sessions.values():
        if other is not session:
            other.close()
    return session


def _first(names: Iterable[str], model: ModelPath, threads: int) -> Session:
    """The first backend that can load the model."""
    reasons = ""
    refusals = []
    for name in names:
        try:
            session = _opened(name, model, threads)
        except (MissingDependencyError, SessionError) as error:
            _logger.debug("passed over %s: %s", name, error)
            reasons += f"\n  {name}: {error}"
            refusals += [str(error)] if isinstance(error, RefusedModelError) else []
            continue
        _logger.debug("chose %s", name)
        return session
    if refusals:  # the model is wrong; which backends are missing does not matter
        raise RefusedModelError("; ".join(refusals))
    raise SessionError(f"no backend can load the model:{reasons}")


def _opened(name: str, model: ModelPath, threads: int) -> Session:
    session = BACKENDS[name](model, threads)
    session.backend = name
    return session
