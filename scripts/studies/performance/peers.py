"""The ways to run a network that are compared, each in a process of its own.

The processes take turns, one inference each, so that what else the machine does hits all alike;
and the peak of a process's memory is that of one peer.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CPU_PEERS", "GPU_PEERS", "Files", "Peer", "Worker"]

Array = npt.NDArray[np.float32]
Run = Callable[[Array], Array]

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Files:
    """One network in the forms that the peers read."""

    checkpoint: Path
    naive: Path
    ours: Path


@dataclass(frozen=True)
class Peer:
    """One way to run a network.

    Attributes:
        color: of its line or bar; ours are blue.
        float32: whether it computes in float32 throughout.
    """

    name: str
    color: str
    load: Callable[[Files], Run]
    float32: bool = True
    ours: bool = False


def _torch(files: Files, device: str, compiled: bool) -> Run:
    import torch

    from adadm.export import load_checkpoint

    on_gpu = device == "cuda"
    dtype = torch.float16 if on_gpu else torch.float32
    network: Any = load_checkpoint(files.checkpoint).network.eval().to(device, dtype)
    forward = network.to(memory_format=torch.channels_last)
    if compiled:
        forward = torch.compile(forward, mode="reduce-overhead" if on_gpu else "default")

    def run(lr: Array) -> Array:
        with torch.inference_mode():
            batch = torch.from_numpy(lr).to(device, dtype, memory_format=torch.channels_last)
            sr: Array = forward(batch).float().contiguous().cpu().numpy()
        return sr

    return run


def _onnx(model: Path, backend: str) -> Run:
    from adadm.runtime.backends import open_session

    _check_exported(model)
    session = open_session(model, backend)
    return lambda lr: session.run({"lr": lr})["sr"]


def _check_exported(model: Path) -> None:
    """Raise what kept the exporter from writing a model, where it did."""
    note = model.with_suffix(".txt")
    if note.exists():
        raise ValueError(f"torch.onnx: {note.read_text(encoding='utf-8')}")


def _openvino_bf16(model: Path) -> Run:
    from adadm.runtime.sessions.openvino_session import OpenVINOSession

    _check_exported(model)
    session = OpenVINOSession(model, precision="bf16")
    return lambda lr: session.run({"lr": lr})["sr"]


def _eager(files: Files) -> Run:
    return _torch(files, "cpu", compiled=False)


def _compiled(files: Files) -> Run:
    return _torch(files, "cpu", compiled=True)


def _naive_onnxruntime(files: Files) -> Run:
    return _onnx(files.naive, "cpu")


def _naive_openvino(files: Files) -> Run:
    return _onnx(files.naive, "openvino")


def _naive_openvino_bf16(files: Files) -> Run:
    return _openvino_bf16(files.naive)


def _ours_onnxruntime(files: Files) -> Run:
    return _onnx(files.ours, "cpu")


def _ours_openvino(files: Files) -> Run:
    return _onnx(files.ours, "openvino")


def _eager_gpu(files: Files) -> Run:
    return _torch(files, "cuda", compiled=False)


def _compiled_gpu(files: Files) -> Run:
    return _torch(files, "cuda", compiled=True)


def _naive_cuda(files: Files) -> Run:
    return _onnx(files.naive, "cuda")


def _ours_cuda(files: Files) -> Run:
    return _onnx(files.ours, "cuda")


CPU_PEERS = {
    "eager": Peer("PyTorch eager, channels_last", "#9c755f", _eager),
    "compiled": Peer("torch.compile", "#edc948", _compiled),
    "naive_onnxruntime": Peer("naive export, ONNX Runtime", "#e15759", _naive_onnxruntime),
    "naive_openvino": Peer("naive export, OpenVINO", "#f28e2b", _naive_openvino),
    "naive_openvino_bf16": Peer(
        "naive export, OpenVINO bf16", "#bab0ac", _naive_openvino_bf16, float32=False
    ),
    "ours_onnxruntime": Peer("ours, ONNX Runtime", "#4e79a7", _ours_onnxruntime, ours=True),
    "ours_openvino": Peer("ours, OpenVINO", "#76b7e2", _ours_openvino, ours=True),
}
GPU_PEERS = {
    "eager_gpu": Peer("PyTorch FP16 eager", "#9c755f", _eager_gpu, float32=False),
    "compiled_gpu": Peer(
        "torch.compile FP16, CUDA graphs", "#edc948", _compiled_gpu, float32=False
    ),
    "naive_cuda": Peer("naive export, ONNX Runtime CUDA", "#e15759", _naive_cuda),
    "ours_cuda": Peer("ours, ONNX Runtime CUDA", "#4e79a7", _ours_cuda, ours=True),
}


class Worker:
    """One peer in its process, loaded and warmed up.

    Attributes:
        failure: why the peer cannot run, or None.
        difference: of its output from the first peer's, as a share of the peak.
    """

    def __init__(self, key: str, files: Files, lr: Array, reference: Path) -> None:
        os.environ["PYTHONSAFEPATH"] = "1"  # or it finds modules in the working folder
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, key, files, lr, reference), daemon=True
        )
        self._process.start()
        theirs.close()
        self.difference = 0.0
        self.failure: str | None = None
        kind, value = self._receive()
        if kind == "failed":
            self.failure = value
        else:
            self.difference = value

    def time_ms(self) -> float | None:
        """One inference; None, and `failure` says why, when the process did not survive it."""
        return self._ask("run")

    def stop(self) -> float | None:
        """End the process; returns the peak of its memory in bytes."""
        peak = self._ask("stop") if self.failure is None else None
        self._process.join()
        return peak

    def _ask(self, command: str) -> float | None:
        with contextlib.suppress(BrokenPipeError):  # _receive() tells
            self._connection.send(command)
        kind, value = self._receive()
        if kind == "failed":
            self.failure = value
            return None
        return float(value)

    def _receive(self) -> tuple[str, Any]:
        try:
            kind, value = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return "failed", f"its process ended with exit code {self._process.exitcode}"
        return kind, value


def _serve(connection: Connection, key: str, files: Files, lr: Array, reference: Path) -> None:
    """The other end of a Worker."""
    try:
        run = {**CPU_PEERS, **GPU_PEERS}[key].load(files)
        sr = run(lr)
        if not np.isfinite(sr).all():
            raise FloatingPointError("the output is not finite")
        if not reference.exists():
            np.save(reference, sr)
        expected = np.load(reference)
        difference = float(np.abs(sr - expected).max() / np.abs(expected).max())
        del sr, expected
        run(lr)
    except Exception as error:  # noqa: BLE001 (whatever keeps a peer from running is a result)
        lines = str(error).strip().splitlines()
        connection.send(("failed", f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]))
        return
    connection.send(("ready", difference))
    while connection.recv() == "run":
        start = time.perf_counter()
        run(lr)
        connection.send(("ran", (time.perf_counter() - start) * 1e3))
    connection.send(("stopped", _peak_memory_bytes()))


def _peak_memory_bytes() -> int:
    """The most memory that this process ever held."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
