"""Memory that an inference takes, and memory that is free.

Run as a module with `MODEL BACKEND HxW...`, it prints the peak memory of its process for each size,
given from small to large. It needs its own process, because earlier work would raise the peak.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from adadm.runtime.errors import SessionError
from adadm.runtime.json_format import Source, convert, parse_json
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.python_process import python_command, run_child

HeightWidth = tuple[int, int]
"""H and W, px."""

# Files of a container's cgroup: limit, usage, and the statistics that tell how much is cache.
_V2, _V1 = "/sys/fs/cgroup/memory.", "/sys/fs/cgroup/memory/memory."
_CGROUPS = (
    (f"{_V2}max", f"{_V2}current", f"{_V2}stat"),
    (f"{_V1}limit_in_bytes", f"{_V1}usage_in_bytes", f"{_V1}stat"),
)


@dataclass(frozen=True)
class MemoryModel:
    """Peak memory of a session on one backend, above that of the process without it.

    Attributes:
        fixed_bytes: memory of the loaded model.
        bytes_per_pixel: memory per pixel of `lr` for all tensors of an inference, with the output
            in float32.
    """

    fixed_bytes: int
    bytes_per_pixel: int

    def bytes_for(self, pixels: int) -> int:
        """Peak for an input of `pixels` pixels."""
        return self.fixed_bytes + self.bytes_per_pixel * pixels


def memory_models(metadata: ModelMetadata) -> dict[str, MemoryModel]:
    """Memory models that export wrote, by backend; empty if it wrote none."""
    return {backend: MemoryModel(*numbers) for backend, numbers in (metadata.memory or {}).items()}


def free_bytes(limit_bytes: int | None = None, held_bytes: int = 0) -> int:
    """Memory that this process can still take, within its machine and container.

    Args:
        limit_bytes: limit of the whole process.
        held_bytes: memory that it holds and can reuse.
    """
    free: int = psutil.virtual_memory().available
    if limit_bytes is not None:
        free = min(free, limit_bytes - process_bytes())
    for limit, used, statistics in _CGROUPS:
        with suppress(OSError, ValueError):  # no such file, or no limit ("max")
            left = int(Path(limit).read_text()) - int(Path(used).read_text())
            free = min(free, left + _cache_bytes(statistics))
    return max(free + held_bytes, 0)


def process_bytes() -> int:
    """Resident memory of this process."""
    taken: int = psutil.Process().memory_info().rss
    return taken


def _cache_bytes(statistics: str) -> int:
    """Page cache of read files, which the kernel drops when a process needs memory."""
    with suppress(OSError, ValueError):
        entries = dict(line.split() for line in Path(statistics).read_text().splitlines())
        return int(entries.get("total_inactive_file", entries.get("inactive_file", 0)))
    return 0


def measure_memory(
    model: bytes | str | os.PathLike[str], backend: str, sizes: Sequence[HeightWidth]
) -> MemoryModel:
    """Run a model in its own process, and fit a line to its peaks over the pixels.

    Args:
        sizes: H and W, from small to large; a single one means a model of fixed size.

    Raises:
        SessionError: the process fails.
    """
    source = b"" if not isinstance(model, bytes) else model
    path = "-" if isinstance(model, bytes) else os.fspath(model)
    listed = [f"{height}x{width}" for height, width in sizes]
    command = python_command("adadm.runtime.upscaling.memory", path, backend, *listed)
    result = run_child(command, content=source)
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip().splitlines()
        # stderr is empty if the system killed it, mostly for lack of memory
        reason = said[-1] if said else f"its process exited with {result.returncode}"
        raise SessionError(f"the memory on {backend} cannot be measured: {reason}")
    printed = Source(Path(path), SessionError)
    try:
        before, loading, *running = convert(
            parse_json(result.stdout.decode()), list[float], printed
        )
        if len(running) != len(sizes):
            raise ValueError(f"expected {len(sizes)} peaks, got {len(running)}")
    except (ValueError, SessionError) as error:  # a library may print too
        raise SessionError(f"the memory on {backend} cannot be measured: {error}") from error
    if len(sizes) == 1:
        return MemoryModel(_rounded_up(max(loading, *running) - before), 0)
    pixels = [height * width for height, width in sizes]
    slope, fixed = np.polyfit(pixels, np.array(running) - before, 1)
    return MemoryModel(_rounded_up(max(fixed, loading - before)), _rounded_up(slope))


def _rounded_up(number: float) -> int:
    """Round up to two digits: further digits vary between measurements."""
    whole = max(math.ceil(number), 0)
    unit: int = 10 ** max(0, len(str(whole)) - 2)
    return -(-whole // unit) * unit


def main(arguments: list[str]) -> None:
    """Print as JSON the bytes before loading, the peak of loading, and the peak of each size."""
    from adadm.runtime.backends import open_session

    path, backend, *sizes = arguments
    model: Any = sys.stdin.buffer.read() if path == "-" else path
    results = [process_bytes()]
    with open_session(model, backend=backend) as session:
        (lr,) = session.inputs
        results.append(_peak_rss())
        _forget_loading()
        for size in sizes:
            height, width = map(int, size.split("x"))
            batch = lr.shape[0] if isinstance(lr.shape[0], int) else 1
            session.run({"lr": np.full((batch, 3, height, width), 7, lr.dtype)})
            results.append(_peak_rss())
    print(json.dumps(results))  # noqa: T201 - for the parent process


def _forget_loading() -> None:
    """Release memory that a backend took to compile: it could hide an inference's peak (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def _peak_rss() -> int:
    """Peak memory of this process so far; getrusage would count its parent's too."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS, in bytes
        return peak
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
