"""The compared ways to run a network, each in its own process.

The processes take turns, one inference each, so that other load on the machine affects all alike.
The peak memory of a process is that of one peer.
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
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from adadm.runtime.sessions.session import Session

Array = npt.NDArray[np.float32]
Run = Callable[[Array], Array]


@dataclass(frozen=True)
class Files:
    """One network in the forms that the peers read.

    Attributes:
        int8: ours in INT8 for CPUs; None where it is not measured.
    """

    checkpoint: Path
    naive: Path
    ours: Path
    int8: Path | None = None


@dataclass(frozen=True)
class Peer:
    """One way to run a network.

    Attributes:
        color: color of its line or bar; ours are blue.
        float32: True if it computes in float32 throughout.
    """

    name: str
    color: str
    load: Callable[[Files], Run]
    float32: bool = True
    ours: bool = False


def _torch(device: str, *, compiled: bool) -> Callable[[Files], Run]:
    def load(files: Files) -> Run:
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

    return load


def _onnx(model: str, backend: str) -> Callable[[Files], Run]:
    """Loader of one model of `Files`, by its name there."""

    def load(files: Files) -> Run:
        from adadm.runtime.backends import open_session
        from adadm.runtime.sessions.openvino_session import OpenVINOSession

        path: Path = getattr(files, model)
        note = path.with_suffix(".txt")
        if note.exists():  # the exporter's error
            raise ValueError(f"torch.onnx: {note.read_text(encoding='utf-8')}")
        if backend == "openvino_bf16":
            session: Session = OpenVINOSession(path, precision="bf16")
        else:
            session = open_session(path, backend)
        return lambda lr: session.run({"lr": lr})["sr"]

    return load


CPU_PEERS = {
    "eager": Peer("PyTorch eager, channels_last", "#9c755f", _torch("cpu", compiled=False)),
    "compiled": Peer("torch.compile", "#edc948", _torch("cpu", compiled=True)),
    "naive_onnxruntime": Peer("naive export, ONNX Runtime", "#e15759", _onnx("naive", "cpu")),
    "naive_openvino": Peer("naive export, OpenVINO", "#f28e2b", _onnx("naive", "openvino")),
    "naive_openvino_bf16": Peer(
        "naive export, OpenVINO bf16", "#bab0ac", _onnx("naive", "openvino_bf16"), float32=False
    ),
    "ours_onnxruntime": Peer("ours, ONNX Runtime", "#4e79a7", _onnx("ours", "cpu"), ours=True),
    "ours_openvino": Peer("ours, OpenVINO", "#76b7e2", _onnx("ours", "openvino"), ours=True),
    "int8_openvino": Peer(
        "ours INT8, OpenVINO", "#59a14f", _onnx("int8", "openvino"), float32=False, ours=True
    ),
}
GPU_PEERS = {
    "eager_gpu": Peer(
        "PyTorch FP16 eager", "#9c755f", _torch("cuda", compiled=False), float32=False
    ),
    "compiled_gpu": Peer(
        "torch.compile FP16, CUDA graphs", "#edc948", _torch("cuda", compiled=True), float32=False
    ),
    "naive_cuda": Peer("naive export, ONNX Runtime CUDA", "#e15759", _onnx("naive", "cuda")),
    "ours_cuda": Peer("ours, ONNX Runtime CUDA", "#4e79a7", _onnx("ours", "cuda"), ours=True),
}


class Worker:
    """One peer in its process, loaded and warmed up.

    Attributes:
        failure: reason why the peer cannot run, or None.
        difference: difference of its output from the first peer's, as a share of the peak.
    """

    def __init__(self, key: str, files: Files, lr: Array, reference: Path) -> None:
        os.environ["PYTHONSAFEPATH"] = "1"  # no imports from the working folder
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, key, files, lr, reference), daemon=True
        )
        self._process.start()
        theirs.close()
        self.failure: str | None = None
        self.difference = self._receive() or 0.0

    def time_ms(self) -> float | None:
        """Time one inference, ms; None if the process failed, with the reason in `failure`."""
        return self._ask("run")

    def stop(self) -> float | None:
        """End the process; return its peak memory in bytes."""
        peak = self._ask("stop") if self.failure is None else None
        self._process.join()
        return peak

    def _ask(self, command: str) -> float | None:
        with contextlib.suppress(BrokenPipeError):  # _receive() reports it
            self._connection.send(command)
        return self._receive()

    def _receive(self) -> float | None:
        """Receive a number; None if the process failed, with the reason in `failure`."""
        try:
            answer: float | str = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            answer = f"its process ended with exit code {self._process.exitcode}"
        if isinstance(answer, str):
            self.failure = answer
            return None
        return answer


def _serve(connection: Connection, key: str, files: Files, lr: Array, reference: Path) -> None:
    """Run the process of a Worker."""
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
        connection.send(f"{type(error).__name__}: {lines[0] if lines else ''}"[:200])
        return
    connection.send(difference)
    while connection.recv() == "run":
        start = time.perf_counter()
        run(lr)
        connection.send((time.perf_counter() - start) * 1e3)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in status if line.startswith("VmHWM:"))  # memory ever held, KiB
    connection.send(float(peak.split()[1]) * 1024)
