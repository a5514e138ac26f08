"""Measure latency, memory, time by node, and the ceilings of the machine."""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import inliner, numpy_helper

from adadm.runtime.backends import open_session
from adadm.runtime.engines.tensorrt_api import Profile, Settings, build_engine
from adadm.runtime.errors import require
from adadm.runtime.sessions import openvino_operators
from adadm.runtime.sessions.timing import time_backends
from adadm.runtime.tables import Console
from studies.performance.peers import Files, Worker

Array = npt.NDArray[np.float32]

_PAUSE_S = 0.05
"""Pause between two processes, in which spinning threads of the first go to sleep."""
_CONV_SHAPE = (1, 64, 270, 480)
_COPY_FLOATS = 1 << 26
_ON_CPU = ("openvino", "cpu")


def run_peers(
    keys: Iterable[str], files: Files, lr: Array, *, rounds: int, console: Console
) -> dict[str, Any]:
    """Run peers in turns.

    Returns:
        For each peer: `ms`, one number a round; `peak_bytes` of its process; `difference` of its
        output from the first peer's as a share of the peak; or `failure`.
    """
    with tempfile.TemporaryDirectory() as folder:
        workers: dict[str, Worker] = {}
        with console.status("") as status:
            for key in keys:
                status.update(f"loading and warming up {key}")
                workers[key] = Worker(key, files, lr, Path(folder) / "reference.npy")
            times: dict[str, list[float | None]] = {key: [] for key in workers}
            for index in range(rounds):
                for key, worker in workers.items():
                    status.update(f"round {index + 1} of {rounds}: {key}")
                    if worker.failure is None:
                        time.sleep(_PAUSE_S)
                        times[key].append(worker.time_ms())
            results: dict[str, Any] = {}
            for key, worker in workers.items():
                memory = {"peak_bytes": worker.stop(), "difference": worker.difference}
                failure = worker.failure
                results[key] = {"failure": failure} if failure else {"ms": times[key], **memory}
    return results


def ceilings(rounds: int) -> dict[str, float]:
    """Ceilings of the CPU: multiply-adds/s of a large convolution, bytes/s of a large copy.

    The convolution is that of the trunk (64 channels, 3x3, 480x270), on the fastest of PyTorch,
    ONNX Runtime and OpenVINO.
    """
    _, channels, height, width = _CONV_SHAPE
    rng = np.random.default_rng(0)
    x = rng.normal(size=_CONV_SHAPE).astype(np.float32)
    weight = rng.normal(size=(channels, channels, 3, 3)).astype(np.float32)
    features = f"float[N, {channels}, H, W]"
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 19]> convolution ({features} lr) => ({features} sr) '
        "{ sr = Conv <pads = [1, 1, 1, 1]> (lr, weight) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    content = model.SerializeToString()
    sessions = [open_session(content, backend=backend) for backend in ("cpu", "openvino")]
    image = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
    kernel = torch.from_numpy(weight).contiguous(memory_format=torch.channels_last)
    source = torch.ones(_COPY_FLOATS)
    target = torch.empty_like(source)
    with torch.inference_mode():
        convolution = min(
            _fastest_s(run, rounds)
            for run in (
                lambda: torch.nn.functional.conv2d(image, kernel, padding=1),
                *(lambda session=session: session.run({"lr": x}) for session in sessions),
            )
        )
        copy = _fastest_s(lambda: target.copy_(source), rounds)
    return {
        "multiply_adds_per_s": weight.size * height * width / convolution,
        "bytes_per_s": 2 * source.nbytes / copy,
    }


def gpu_ceilings(rounds: int) -> dict[str, float]:
    """Ceilings of the GPU: multiply-adds/s of half-precision matrices, bytes/s of a large copy."""
    side = 8192
    factor = torch.randn(side, side, device="cuda", dtype=torch.float16)
    source = torch.ones(4 * _COPY_FLOATS, device="cuda")
    target = torch.empty_like(source)
    finish = torch.cuda.synchronize
    product = _fastest_s(lambda: (factor @ factor, finish()), rounds)
    copy = _fastest_s(lambda: (target.copy_(source), finish()), rounds)
    return {"multiply_adds_per_s": side**3 / product, "bytes_per_s": 2 * source.nbytes / copy}


def _fastest_s(run: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def profiled(model: Path, lr: Array, rounds: int) -> dict[str, Any]:
    """Profile ONNX Runtime: milliseconds of each kind of node, and the slowest nodes."""
    with tempfile.TemporaryDirectory() as folder:
        onnxruntime = require("onnxruntime", "cpu")
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(rounds + 1):
            session.run(None, {"lr": lr})
        events = json.loads(Path(session.end_profiling()).read_text())
    runs: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            runs[event["args"]["op_name"], name].append(event["dur"] / 1e3)
    return _by_kind(runs)


def _by_kind(runs: Mapping[tuple[str, str], list[float]]) -> dict[str, Any]:
    """Sum up the times of nodes, of which the first is left out, by their kind and name."""
    medians = {node: statistics.median(times[1:]) for node, times in runs.items()}
    kinds: dict[str, dict[str, float]] = defaultdict(lambda: {"ms": 0.0, "nodes": 0})
    for (kind, _), ms in medians.items():
        kinds[kind]["ms"] += ms
        kinds[kind]["nodes"] += 1
    slowest = sorted(((ms, kind, name) for (kind, name), ms in medians.items()), reverse=True)
    return {"kinds": dict(kinds), "slowest": slowest[:12], "total_ms": sum(medians.values())}


def auto_choice(model: Path) -> dict[str, Any]:
    """What `auto` times on this machine, and chooses."""
    with contextlib.ExitStack() as sessions:
        timing = time_backends(
            {name: sessions.enter_context(open_session(model, name)) for name in _ON_CPU}
        )
    assert timing is not None  # models for single images
    return {"fastest": timing.fastest, **vars(timing)}


def openvino_profiles(model: Path, lr: Array, rounds: int) -> dict[str, Any]:
    """Profile OpenVINO on a model: as it was loaded before, and as it is.

    Before, a model took any number of images at once, and a modulator added the shift to the trunk
    first: OpenVINO then fuses neither.
    """
    with patch.object(openvino_operators, "_modulated", _modulated_before):
        before = _openvino_profile(model, lr, rounds, one_image=False)
    return {"before": before, "after": _openvino_profile(model, lr, rounds, one_image=True)}


def _modulated_before(ops: Any, x: Any, r: Any, factor: Any, delta: Any) -> Any:
    trunk = x if delta is None else ops.add(x, delta)
    return ops.add(trunk, ops.multiply(r, factor))


def _openvino_profile(model: Path, lr: Array, rounds: int, *, one_image: bool) -> dict[str, Any]:
    ov: Any = require("openvino", "openvino")
    frontend: Any = require("openvino.frontend.onnx", "openvino")
    core = ov.Core()
    for operator, convert in openvino_operators.CONVERTERS.items():
        core.add_extension(frontend.ConversionExtension(operator, "adadm", convert))
    graph = core.read_model(model)
    if one_image:
        graph.reshape([1, 3, -1, -1])
    config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": "YES"}
    request = core.compile_model(graph, "CPU", config).create_infer_request()
    runs: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(rounds + 1):
        request.infer([lr])
        for node in request.get_profiling_info():
            kind = f"{node.node_type} INT8" if node.exec_type.endswith("_i8") else node.node_type
            runs[kind, node.node_name].append(node.real_time.total_seconds() * 1e3)
    return _by_kind(runs)


def cost(model: Path, size: tuple[int, int]) -> dict[str, float]:
    """Multiply-adds of the convolutions of a graph, and the bytes that its nodes read and write.

    Every node of the expanded graph counts, as if nothing were fused.
    """
    expanded = inliner.inline_local_functions(onnx.load(model))
    for dimension, number in zip(
        expanded.graph.input[0].type.tensor_type.shape.dim, (1, 3, *size), strict=True
    ):
        dimension.dim_value = number
    del expanded.graph.value_info[:]
    for output in expanded.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(expanded, data_prop=True).graph
    shapes = {t.name: tuple(t.dims) for t in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        sizes = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(dimension.dim_value for dimension in sizes)
    products = floats = 0
    for node in inferred.node:
        tensors = [shapes.get(name, ()) for name in (*node.input, *node.output)]
        floats += sum(int(np.prod(shape)) for shape in tensors if len(shape) == 4)
        if node.op_type == "Conv":
            batch, _, height, width = shapes[node.output[0]]
            products += batch * height * width * int(np.prod(shapes[node.input[1]]))
    return {"multiply_adds": products, "bytes": 4 * floats}


def built_engines(files: Files, size: tuple[int, int]) -> dict[str, Any]:
    """Kernels and sizes of the engines of TensorRT for RTX, of the naive export and of ours."""
    shape = (1, 3, *size)
    profiles = [{"lr": Profile(shape, shape, shape)}]
    results = {}
    for name, path in (("naive", files.naive), ("ours", files.ours)):
        engine = build_engine(
            path.read_bytes(), profiles, "rtx", settings=Settings(("SM89",), detailed=True)
        )
        nodes = Counter(node.op_type for node in onnx.load(path).graph.node)
        results[name] = {
            "nodes": nodes.total(),
            "layers": engine.layers,
            "engine_bytes": len(engine.plan),
            "activation_bytes": engine.activation_bytes[0],
        }
    return results
