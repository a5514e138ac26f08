"""Checks of the machine: GPU, memory, and space on its disks."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from adadm.runtime.checks.check import Observation, first_line, reraise_as_session_error
from adadm.runtime.checks.device_info import DeviceInfo
from adadm.runtime.checks.packages import install_command, version_numbers
from adadm.runtime.engines import cuda_runtime
from adadm.runtime.errors import AdadmError, MissingDependencyError
from adadm.runtime.files import cache_folder
from adadm.runtime.host import installed_version
from adadm.runtime.models.onnx_reader import OnnxFile
from adadm.runtime.targets import TARGETS
from adadm.runtime.upscaling.memory import free_bytes, memory_models

_MEGAPIXEL = 10**6
_MIB, _GIB = 2**20, 2**30


def check_gpu(info: DeviceInfo) -> Observation:
    """Check the GPU and its use by CUDA."""
    gpu = info.gpu
    driver, cuda = gpu.driver, gpu.cuda_of_driver
    parts = (gpu.name, gpu.compute_capability, driver and f"driver {driver}")
    shown = ", ".join(filter(None, (*parts, cuda and f"CUDA {cuda}"))) or "of unknown name"
    try:
        with reraise_as_session_error():
            free, total = cuda_runtime.memory()
    except AdadmError as error:
        said, details = first_line(error), {**vars(gpu), "message": str(error)}
        if not info.has_gpu:
            advice = "nvidia-smi shows the driver's GPUs; cpu and openvino need none"
            return Observation("gpu", f"none: {said}", "missing", advice, details)
        text = f"{shown}; {said}"
        if isinstance(error, MissingDependencyError):
            return Observation("gpu", text, "missing", install_command("jetson"), details)
        return Observation("gpu", text, "broken", _cuda_advice(cuda), details)
    details = {**vars(gpu), "free_bytes": free, "total_bytes": total}
    return Observation("gpu", f"{shown}; {_size(free)} of {_size(total)} free", details=details)


def _cuda_advice(driver: str | None) -> str:
    """Remedy for a GPU that CUDA cannot use: the bindings must not be newer than the driver."""
    bindings = installed_version("cuda-bindings")
    if driver and bindings and version_numbers(bindings)[0] > version_numbers(driver)[0]:
        return f"pip install 'cuda-bindings=={version_numbers(driver)[0]}.*'"
    return "nvidia-smi"


def check_memory(model: OnnxFile) -> Observation:
    """Compare the free memory with the need of a photograph on the hungriest backend.

    Args:
        model: a bundled model, with the memory that export measured.
    """
    models = memory_models(model.metadata)
    backend = max(models, key=lambda name: models[name].bytes_for(_MEGAPIXEL))
    return _check_room(
        "memory",
        free_bytes(),
        models[backend].bytes_for(_MEGAPIXEL),
        reason=f"1 megapixel, {model.path.name} on {backend}, as export measured it",
        advice="end other programs, or upscale in tiles: adadm upscale IN -o OUT --tile 256",
    )


def check_disks(model: OnnxFile) -> list[Observation]:
    """Check the space for temporary files and for the cache of `adadm quantize`.

    Args:
        model: a bundled model.
    """
    gpus = max(len(target.compute_capabilities) for target in TARGETS.values())
    weights, name = len(model.content), model.path.name
    return [
        _check_disk(
            "temporary files",
            lambda: Path(tempfile.gettempdir()),
            (1 + gpus) * weights,
            f"{name} and its weights in an engine for {gpus} GPUs",
            "export TMPDIR=FOLDER",
        ),
        _check_disk(
            "cache",
            cache_folder,
            weights,
            f"calibration figures, smaller than {name}",
            "export XDG_CACHE_HOME=FOLDER",
        ),
    ]


def _check_disk(
    name: str, locate: Callable[[], Path], needed: int, reason: str, advice: str
) -> Observation:
    try:
        folder = locate().absolute()
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
    except OSError as error:  # tempfile raises it too, if no folder is writable
        return Observation(name, first_line(error), "broken", advice)
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        return Observation(name, f"{folder} is not writable", "broken", advice)
    return _check_room(name, free, needed, reason=reason, advice=advice, where=f" in {folder}")


def _check_room(
    name: str, free: int, needed: int, *, reason: str, advice: str, where: str = ""
) -> Observation:
    text = f"{_size(free)} free{where}; required: {_size(needed)} ({reason})"
    details = {"free_bytes": free, "needed_bytes": needed, "needed_for": reason}
    if free < needed:
        return Observation(name, text, "missing", advice, details)
    return Observation(name, text, details=details)


def _size(size: int) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / _MIB:.0f} MiB"
