from __future__ import annotations

import gc
import json
import subprocess
import sys
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from adadm.runtime.errors import SessionError
from adadm.runtime.upscaling import memory
from adadm.runtime.upscaling.memory import MemoryModel, free_bytes, measure_memory

MODEL = Path(str(resources.files("adadm.runtime.models") / "edsr_adadm_x2.onnx"))
UNLIMITED = "9223372036854771712\n"  # how cgroups v1 say it


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with 1000 bytes free, and cgroups in a folder: v1 in `v1`, v2 in `v2`."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    names = {
        "v2": ("memory.max", "memory.current", "memory.stat"),
        "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"),
    }
    for version in names:
        (tmp_path / version).mkdir()
    groups = [tuple(str(tmp_path / v / name) for name in names[v]) for v in names]
    monkeypatch.setattr(memory, "_CGROUPS", groups)
    return tmp_path


def test_the_paths_are_those_of_the_kernel() -> None:
    v2, v1 = memory._CGROUPS
    assert v2[:2] == ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")
    assert v1[0] == "/sys/fs/cgroup/memory/memory.limit_in_bytes"


@pytest.mark.parametrize(
    ("limit", "used", "statistics", "free"),
    [
        (None, None, None, 1000),
        ("max\n", "300\n", "", 1000),
        ("900\n", "300\n", "", 600),
        ("900\n", "300\n", None, 600),
        ("900\n", "950\n", "", 0),
        ("5000\n", "300\n", "", 1000),
        ("900\n", "800\n", "anon 100\ninactive_file 450\n", 550),  # files that were read
        ("900\n", None, "", 1000),
        ("", "300\n", "", 1000),
    ],
)
def test_a_container_bounds_what_is_free(
    machine: Path, limit: str | None, used: str | None, statistics: str | None, free: int
) -> None:
    names = ("memory.max", "memory.current", "memory.stat")
    for name, content in zip(names, (limit, used, statistics), strict=True):
        if content is not None:
            (machine / "v2" / name).write_text(content)
    assert free_bytes() == free


def test_the_older_cgroups_are_read_too(machine: Path) -> None:
    limit, used, statistics = (
        machine / "v1" / name
        for name in ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    )
    limit.write_text(UNLIMITED)
    used.write_text("700\n")
    assert free_bytes() == 1000
    limit.write_text("800\n")
    assert free_bytes() == 100
    statistics.write_text("inactive_file 1\ntotal_inactive_file 200\n")
    assert free_bytes() == 300


@pytest.mark.parametrize(("limit", "free"), [(10**15, 1000), (700, 400), (300, 0), (1, 0)])
def test_a_limit_of_the_process_counts_what_it_has(
    machine: Path, monkeypatch: pytest.MonkeyPatch, limit: int, free: int
) -> None:
    taken = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=300))
    monkeypatch.setattr(psutil, "Process", lambda: taken)
    assert free_bytes(limit) == free


SIZES = "10x20 100x200 200x400"


def peaks(fixed: int, slope: float) -> list[float]:
    before = 50_000_000
    return [before, before, *(before + fixed + slope * px for px in (200, 20_000, 80_000))]


@pytest.mark.parametrize(
    ("sizes", "peaks_bytes", "expected"),
    [
        # Before and after loading, then after each size; a line is rounded up to two digits.
        (SIZES, peaks(12_345_678, 1234), (13_000_000, 1300)),
        (SIZES, peaks(99_400_000, 86.5), (100_000_000, 87)),
        (SIZES, peaks(-5_000_000, 3.5), (0, 4)),  # noise of the measurement
        # OpenVINO compiles in half a gigabyte what then runs in a tenth of it
        ("10x10 10x30", (1_000_000, 91_000_000, 3_000_000, 4_990_000), (90_000_000, 10_000)),
        ("64x64", (1_000_000, 5_000_000, 5_550_000), (4_600_000, 0)),  # of one size all is fixed
    ],
)
def test_a_line_is_fitted_to_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, sizes: str, peaks_bytes: object, expected: tuple[int, int]
) -> None:
    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        assert " ".join(command).endswith(f"cpu {sizes}")
        return subprocess.CompletedProcess(command, 0, json.dumps(peaks_bytes).encode(), b"")

    monkeypatch.setattr(memory, "run_child", run)
    pairs = [(int(h), int(w)) for h, w in (size.split("x") for size in sizes.split())]
    assert measure_memory("model.onnx", "cpu", pairs) == MemoryModel(*expected)


@pytest.mark.parametrize(
    "printed", ["", "a notice\n[1, 2, 3]", "[1, 2]", "{}", '["1", 2, 3]', "[" * 2000]
)
def test_what_is_no_measurement_is_refused(monkeypatch: pytest.MonkeyPatch, printed: str) -> None:
    done = subprocess.CompletedProcess([], 0, printed.encode(), b"")
    monkeypatch.setattr(subprocess, "run", lambda *_, **options: done)
    with pytest.raises(SessionError, match="the memory on cpu cannot be measured: "):
        measure_memory("model.onnx", "cpu", [(8, 8)])


def test_a_measurement_is_near_the_models_own_and_blind_to_a_fat_parent() -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    ballast = np.ones(500 << 20, np.uint8)
    measured = measure_memory(MODEL, "cpu", [(32, 32), (160, 200), (240, 300)])
    assert ballast.nbytes < psutil.Process().memory_info().rss
    del ballast
    gc.collect()
    # export measured 35e6 and 1500; with the parent's memory in it the first would be 5e8
    assert 10e6 < measured.fixed_bytes < 120e6
    assert 700 < measured.bytes_per_pixel < 3000


def test_a_serialized_model_goes_through_stdin() -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    measured = measure_memory(MODEL.read_bytes(), "cpu", [(200, 200)])
    assert 40e6 < measured.fixed_bytes < 300e6
    assert measured.bytes_per_pixel == 0


def test_a_process_that_fails_is_said_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    for model, backend, reason in (
        (tmp_path / "broken.onnx", "cpu", "broken.onnx is not a complete ONNX model"),
        (b"no model", "cpu", "the model is not a complete ONNX model"),
        (MODEL, "gpu", "got 'gpu'"),
    ):
        message = rf"^the memory on {backend} cannot be measured: .*{reason}"
        with pytest.raises(SessionError, match=message) as caught:
            measure_memory(model, backend, [(8, 8), (16, 16)])
        assert "\n" not in str(caught.value)


def test_a_process_that_is_killed_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As by the kernel, when memory runs out."""
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(SessionError, match=r"the memory on cpu cannot be measured: .* with -9"):
        measure_memory(MODEL, "cpu", [(8, 8)])
