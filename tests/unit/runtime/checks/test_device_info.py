from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest

from adadm.runtime.checks.device_info import Clocks, DeviceInfo, Gpu, device_info
from adadm.runtime.errors import AdadmError
from adadm.runtime.host import Cpu
from adadm.runtime.json_format import read, write

_JETSON = {
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, "
    "EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\nID=ubuntu\n',
    "proc/cpuinfo": "".join(
        f"processor\t: {index}\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nCPU part\t: 0xd42\n\n"
        for index in range(12)
    ),
    "proc/meminfo": "MemTotal:       64349592 kB\nMemFree:        58012340 kB\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600\n",
    "sys/devices/system/cpu/cpu11/cpufreq/scaling_cur_freq": "2201600\n",
    "sys/devices/system/cpu/cpu4/cpufreq/scaling_cur_freq": "<unknown>\n",
    "sys/devices/17000000.gpu/cur_freq": "1300500000\n",
    "sys/devices/bus@0/cactmon/cur_freq": "3199000000\n",
}

_NVPMODEL = "NVPM WARN: patching tpc_pg_mask: (0x1:0x4)\nNV Power Mode: MODE_30W\n2\n"


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name, content in _JETSON.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    devices = root / "sys" / "class" / "devfreq"
    devices.mkdir(parents=True)
    (devices / "17000000.gpu").symlink_to("../../devices/17000000.gpu")
    (devices / "cactmon").symlink_to("../../devices/bus@0/cactmon")
    return root


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder where tools are looked for."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def _make_tool(path: Path, prints: str, code: int = 0) -> None:
    path.write_text(f"#!/bin/sh\nprintf '%s' '{prints}'\nexit {code}\n")
    path.chmod(0o755)


def test_a_jetson(jetson: Path, tools: Path) -> None:
    _make_tool(tools / "nvpmodel", _NVPMODEL)
    _make_tool(tools / "nvidia-smi", "Orin (nvgpu), [N/A], 540.4.0, [N/A], [Not Supported]\n")
    info = device_info(jetson)
    assert info.board == "NVIDIA Jetson AGX Orin Developer Kit"
    assert info.l4t == "36.4.3"
    assert info.os == "Ubuntu 22.04.5 LTS"
    assert info.cpu == Cpu("ARMv8 Processor rev 1 (v8l)", 12)
    assert info.memory_bytes == 64349592 * 1024
    assert info.power_mode == "MODE_30W"
    assert info.gpu.driver == "540.4.0"
    assert info.clocks_mhz == Clocks(
        cpu={"cpu0": 729.6, "cpu11": 2201.6}, devices={"17000000.gpu": 1300.5, "cactmon": 3199.0}
    )
    assert info.is_jetson and info.has_gpu


def test_what_cannot_be_read_is_none(tmp_path: Path, tools: Path) -> None:
    info = device_info(tmp_path / "nowhere")
    known = DeviceInfo(kernel=info.kernel, machine=info.machine, versions=info.versions)
    assert replace(info, gpu=Gpu()) == known
    assert info.gpu.driver is None and not info.is_jetson


def test_unlike_contents_are_no_guess(jetson: Path, tools: Path) -> None:
    _make_tool(tools / "nvpmodel", "NVPM ERROR: no permission\n", code=1)
    (tools / "nvidia-smi").write_text("no program")
    (tools / "nvidia-smi").chmod(0o755)
    (jetson / "etc" / "nv_tegra_release").write_text("something else")
    (jetson / "proc" / "meminfo").write_bytes(b"\xff\xfe MemTotal")
    (jetson / "proc" / "device-tree" / "model").write_text("\0")
    info = device_info(jetson)
    assert (info.l4t, info.memory_bytes, info.board, info.power_mode) == (None,) * 4
    assert info.gpu.driver is None


def test_of_several_gpus_what_they_share(tmp_path: Path, tools: Path) -> None:
    lines = ("NVIDIA L4, 8.9, 550.54.15, 2040, 6251", "NVIDIA L4, 8.9, 550.54.15, 210, 6251")
    _make_tool(tools / "nvidia-smi", "\n".join(lines) + "\n")
    info = device_info(tmp_path)
    assert info.gpu.driver == "550.54.15"
    assert info.clocks_mhz == Clocks(gpu_memory=6251.0)


def test_this_machine(tmp_path: Path) -> None:
    info = device_info()
    assert info.memory_bytes == psutil.virtual_memory().total
    assert info.cpu.cores == psutil.cpu_count()
    assert info.machine == platform.machine()
    assert info.versions["python"] == platform.python_version()
    assert info.versions["numpy"] == np.__version__
    assert info.versions["onnxruntime"] == onnxruntime.__version__
    write(tmp_path / "info.json", info)
    assert read(DeviceInfo, tmp_path / "info.json", error=AdadmError) == info
