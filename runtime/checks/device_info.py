"""Description of a machine: board, software, GPU, clocks and power mode."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from adadm.runtime.engines import cuda_runtime
from adadm.runtime.errors import AdadmError
from adadm.runtime.host import Cpu, cpu_info, installed_version

_LIBRARIES = ("adadm-deploy", "numpy", "onnxruntime", "tensorrt", "tensorrt-rtx")

_SMI_FIELDS = ("name", "compute_cap", "driver_version", "clocks.gr", "clocks.mem")
_LONGEST_S = 10.0  # a tool answers at once, or hangs with its driver


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU.

    Attributes:
        compute_capability: compute capability, such as `SM87`.
        driver: driver version.
        cuda_of_driver: newest CUDA version that the driver supports.
    """

    name: str | None = None
    compute_capability: str | None = None
    driver: str | None = None
    cuda_of_driver: str | None = None


@dataclass(frozen=True)
class Clocks:
    """Current clocks, MHz.

    Attributes:
        cpu: clock by core, such as `cpu0`.
        devices: clock by kernel name of devices that scale; on a Jetson, GPU and memory.
        gpu, gpu_memory: clocks that nvidia-smi reports.
    """

    cpu: Mapping[str, float] | None = None
    devices: Mapping[str, float] | None = None
    gpu: float | None = None
    gpu_memory: float | None = None


@dataclass(frozen=True)
class DeviceInfo:
    """A machine. Facts that cannot be read are None.

    Attributes:
        board: board model, from the device tree.
        l4t: version of a Jetson's Linux, such as 36.4.3.
        machine: architecture, such as `aarch64`.
        versions: versions of Python and of libraries, by name.
        power_mode: power mode of a Jetson, from nvpmodel.
    """

    board: str | None = None
    l4t: str | None = None
    os: str | None = None
    kernel: str | None = None
    machine: str | None = None
    cpu: Cpu = Cpu()  # noqa: RUF009 - it is frozen
    memory_bytes: int | None = None
    versions: Mapping[str, str | None] = field(default_factory=dict)
    gpu: Gpu = Gpu()
    clocks_mhz: Clocks = Clocks()
    power_mode: str | None = None

    @property
    def is_jetson(self) -> bool:
        """True on a Jetson, even in a container that does not know its L4T."""
        return self.l4t is not None or "Jetson" in (self.board or "")

    @property
    def has_gpu(self) -> bool:
        """True if there is an NVIDIA GPU, with or without its libraries."""
        return self.is_jetson or any((self.gpu.name, self.gpu.compute_capability))


def device_info(root: Path = Path("/")) -> DeviceInfo:
    """Describe this machine.

    Args:
        root: root folder of the file system.
    """
    smi = _nvidia_smi()
    kibibytes = _found(r"^MemTotal:\s*(\d+) kB", _read(root, "proc/meminfo"))
    return DeviceInfo(
        board=_read(root, "proc/device-tree/model"),
        l4t=_l4t(_read(root, "etc/nv_tegra_release")),
        os=_found(r'^PRETTY_NAME="?([^"\n]+)', _read(root, "etc/os-release")),
        kernel=platform.release() or None,
        machine=platform.machine() or None,
        cpu=cpu_info(root),
        memory_bytes=None if kibibytes is None else int(kibibytes) * 1024,
        versions={
            "python": platform.python_version(),
            **{library: installed_version(library) for library in _LIBRARIES},
            "onnxruntime": installed_version("onnxruntime") or installed_version("onnxruntime-gpu"),
        },
        gpu=Gpu(
            name=_of_cuda(cuda_runtime.device_name) or smi["name"],
            compute_capability=_of_cuda(cuda_runtime.compute_capability)
            or (smi["compute_cap"] and f"SM{smi['compute_cap'].replace('.', '')}"),
            driver=smi["driver_version"],
            cuda_of_driver=_of_cuda(cuda_runtime.driver_version),
        ),
        clocks_mhz=Clocks(
            cpu=_clocks(root, "sys/devices/system/cpu", "cpu*/cpufreq/scaling_cur_freq", 1e3),
            devices=_clocks(root, "sys/class/devfreq", "*/cur_freq", 1e6),
            gpu=_number(smi["clocks.gr"]),
            gpu_memory=_number(smi["clocks.mem"]),
        ),
        power_mode=_found(r"^NV Power Mode:\s*(.+)", _output("nvpmodel", "-q")),
    )


def _read(root: Path, name: str) -> str | None:
    """Read a text file and strip white space and NUL, which ends a device tree's string."""
    try:
        return (root / name).read_text(encoding="utf-8", errors="replace").strip("\0 \n") or None
    except OSError:
        return None


def _found(pattern: str, text: str | None) -> str | None:
    match = re.search(pattern, text or "", re.MULTILINE)
    return match and match[1].strip()


def _l4t(text: str | None) -> str | None:
    """`# R36 (release), REVISION: 4.3, GCID: ...` is 36.4.3."""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text or "")
    return match and f"{match[1]}.{match[2]}"


def _of_cuda(ask: Callable[[], str | None]) -> str | None:
    with suppress(AdadmError):  # no GPU, no driver, or no cuda-python
        return ask()
    return None


def _clocks(root: Path, folder: str, pattern: str, per_mhz: float) -> dict[str, float] | None:
    """Clocks in MHz by device name; None if none is readable."""
    clocks = {}
    for path in sorted((root / folder).glob(pattern)):
        name = path.relative_to(root / folder).parts[0]
        hertz = _number(_read(root, str(path.relative_to(root))))
        if hertz is not None:
            clocks[name] = hertz / per_mhz
    return clocks or None


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"\d+(\.\d+)?", text) else None


def _nvidia_smi() -> dict[str, str | None]:
    """Values equal on all GPUs, as it is unknown which one runs; on a Jetson most are `[N/A]`."""
    query = f"--query-gpu={','.join(_SMI_FIELDS)}"
    lines = (_output("nvidia-smi", query, "--format=csv,noheader,nounits") or "").splitlines()
    gpus = [[value.strip() for value in line.split(",")] for line in lines]
    shared: dict[str, str | None] = dict.fromkeys(_SMI_FIELDS)
    for index, name in enumerate(_SMI_FIELDS):
        values_seen = {values[index] for values in gpus if len(values) == len(_SMI_FIELDS)}
        if len(values_seen) == 1 and not re.match(r"\[|N/A|$", value := values_seen.pop()):
            shared[name] = value
    return shared


def _output(tool: str, *arguments: str) -> str | None:
    """Output of a tool; None if it is missing, fails or hangs."""
    none = subprocess.DEVNULL
    with suppress(OSError, subprocess.SubprocessError):
        printed = subprocess.check_output(
            [tool, *arguments], stdin=none, stderr=none, timeout=_LONGEST_S
        )
        return printed.decode(errors="replace").strip()
    return None
