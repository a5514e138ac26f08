"""Run the bundled model on each backend with a small image, and compare the results."""

from __future__ import annotations

import time
from contextlib import suppress

import numpy as np

from adadm.runtime.backends import BACKENDS, open_session
from adadm.runtime.checks.check import Observation, Verdict, first_line, reraise_as_session_error
from adadm.runtime.checks.device_info import DeviceInfo
from adadm.runtime.checks.packages import install_command
from adadm.runtime.checks.tensorrt_install import TensorRT, tensorrt_advice
from adadm.runtime.engines import cuda_runtime
from adadm.runtime.engines.builder import build
from adadm.runtime.engines.recipe import Recipe, default_bounds, make_recipe
from adadm.runtime.errors import AdadmError, EngineError, MissingDependencyError, ParityError
from adadm.runtime.host import installed_version
from adadm.runtime.images.compare import compare
from adadm.runtime.leftovers import temporary_folder
from adadm.runtime.models.onnx_reader import OnnxFile
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.sessions.session import FloatArray
from adadm.runtime.upscaling.variants import CPU_BACKENDS

_ENGINE = "engine"
_EXTRAS = {"cpu": "cpu", "openvino": "openvino", "cuda": "gpu", "tensorrt": "gpu"}
_SIDE_PX = 24
_BORDER_PX = 4
_LEAST_DB = 60.0


def check_backends(
    model: OnnxFile, info: DeviceInfo, tensorrt: TensorRT, *, progress: Progress = SILENT
) -> dict[str, Observation]:
    """Run a model on each backend. The first that works is the reference for the others.

    Args:
        model: a bundled model.
    """
    lr = _image() * np.float32(model.metadata.network.rgb_range)
    checks = {}
    first: tuple[str, FloatArray] | None = None
    for name in BACKENDS:
        progress.phase(f"running {model.path.name} on {name}")
        began = time.perf_counter()
        try:
            with reraise_as_session_error():
                sr = _run(name, model, lr, tensorrt)
            seconds = time.perf_counter() - began
            other, expected = first or (name, sr)
            comparison = compare(name, sr, expected, _BORDER_PX)
            if comparison.psnr_db < _LEAST_DB:
                raise ParityError(
                    f"differs from {other}, {_LEAST_DB:.0f} dB required: {comparison}"
                )
        except AdadmError as error:
            checks[name] = _failed(name, error, model, info, tensorrt)
            continue
        outcome = f"ran {model.path.name}, {_SIDE_PX} x {_SIDE_PX} px, in {seconds:.2f} s"
        if first is not None:
            outcome += f"; {comparison.psnr_db:.0f} dB from {other}"
        details = {"seconds": seconds, "compared_with": first and other, "sr": comparison}
        checks[name] = Observation(f"backend {name}", outcome, details=details)
        first = first or (name, sr)
    return checks


def _image() -> FloatArray:
    """Ramps and a diagonal edge. On noise, the factors of modulators amplify each other."""
    y, x = np.mgrid[:_SIDE_PX, :_SIDE_PX] / (_SIDE_PX - 1)
    image: FloatArray = np.stack([x, y, x > y])[np.newaxis].astype(np.float32)
    return image


def _run(name: str, model: OnnxFile, lr: FloatArray, tensorrt: TensorRT) -> FloatArray:
    if name != _ENGINE:
        with open_session(model.path, backend=name) as session:
            return session.run({"lr": lr})["sr"]
    if not tensorrt.targets:
        raise tensorrt.refusal
    cuda_runtime.compute_capability()  # TensorRT for RTX builds without a GPU, but cannot run
    recipe = _recipe(model, tensorrt)
    with temporary_folder() as folder:
        engine = folder / f"{model.path.stem}.engine"
        build(recipe, engine)
        with open_session(engine, backend=name) as session:
            return session.run({"lr": lr})["sr"]


def _recipe(model: OnnxFile, tensorrt: TensorRT) -> Recipe:
    """Recipe for the first target that can be built here and reads the form of the model."""
    bounds = [default_bounds((1, _SIDE_PX, _SIDE_PX))]
    for target in tensorrt.targets:
        with suppress(EngineError):
            return make_recipe(model, target, bounds)
    return make_recipe(model, tensorrt.targets[0], bounds)  # raises the reason


def _failed(
    name: str, error: AdadmError, model: OnnxFile, info: DeviceInfo, tensorrt: TensorRT
) -> Observation:
    is_missing = isinstance(error, MissingDependencyError)
    if name not in CPU_BACKENDS and not info.has_gpu:
        is_missing, advice = True, "requires an NVIDIA GPU with its driver: nvidia-smi"
    elif name == _ENGINE:
        is_missing = is_missing or not tensorrt.versions
        advice = tensorrt_advice(tensorrt, info, error)
        if tensorrt.targets and not is_missing:  # the builder reports more, and writes a log
            target = tensorrt.targets[0].name
            advice = f"adadm build {model.path} --target {target} -o {model.path.stem}.engine"
    else:
        if name not in CPU_BACKENDS:
            is_missing = is_missing or installed_version("onnxruntime-gpu") is None
        advice = install_command(_EXTRAS[name], again=not is_missing)
        if name not in CPU_BACKENDS and info.is_jetson:  # PyPI has no wheels for most of them
            advice = "adadm build --help: an engine needs no onnxruntime-gpu"
    verdict: Verdict = "missing" if is_missing else "broken"
    details = {"message": str(error)}
    return Observation(f"backend {name}", first_line(error), verdict, advice, details)
