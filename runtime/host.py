"""The processor of this machine, and the packages that are installed."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True)
class Cpu:
    """The CPU as the kernel lists it."""

    name: str | None = None
    cores: int | None = None


def cpu_info(root: Path = Path("/")) -> Cpu:
    """Describe the processor.

    Args:
        root: root folder of the file system.
    """
    listed = ""
    with suppress(OSError):
        listed = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    name = re.search(r"^model name\s*:\s*(.+)", listed, re.MULTILINE)
    cores = len(re.findall(r"^processor\s*:", listed, re.MULTILINE))
    return Cpu(name[1].strip() if name else None, cores or None)


def installed_version(distribution: str) -> str | None:
    """Version of a distribution; None if it is not installed."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(distribution)
    return None
