"""Report what works on this machine, and how to repair the rest.

Each backend runs a bundled model on a small image. Installed packages, GPU, targets, memory and
disks are checked too. Fails if no backend works.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from adadm.runtime import json_format
from adadm.runtime.arguments import Parser, Paths
from adadm.runtime.checks.check import Observation
from adadm.runtime.checks.device_info import DeviceInfo, device_info
from adadm.runtime.checks.inference import check_backends
from adadm.runtime.checks.machine import check_disks, check_gpu, check_memory
from adadm.runtime.checks.packages import check_extras, check_python
from adadm.runtime.checks.tensorrt_install import (
    TensorRT,
    check_jetson,
    check_targets,
    check_trtexec,
)
from adadm.runtime.errors import SessionError
from adadm.runtime.models.bundled import bundled_path, companion_files
from adadm.runtime.models.onnx_reader import read_onnx
from adadm.runtime.progress import SILENT, Bar, Progress
from adadm.runtime.tables import Console
from adadm.runtime.terminal import shown

_MODEL = "x2"
_STYLES = {"ok": "green", "missing": "yellow", "broken": "bold red"}


@dataclass(frozen=True)
class Examination:
    """All findings.

    Attributes:
        packages: Python, the toolkit and its extras.
        backends: by name.
        machine: GPU, targets, memory and disks.
    """

    info: DeviceInfo
    packages: list[Observation]
    backends: dict[str, Observation]
    machine: list[Observation]

    @property
    def checks(self) -> list[Observation]:
        return [*self.packages, *self.backends.values(), *self.machine]

    @property
    def working(self) -> list[str]:
        """The backends that run a model."""
        return [name for name, check in self.backends.items() if check.verdict == "ok"]

    def as_json(self) -> dict[str, Any]:
        return {"working": self.working, "checks": self.checks, "device": self.info}


def main(argv: list[str]) -> None:
    """Parse the command line, examine the machine, and print the findings.

    Raises:
        SessionError: no backend works.
    """
    arguments = _parse(argv)
    with Bar("examining the machine") as bar:
        examination = examine(progress=bar)
    _print(examination.checks)
    if arguments.json is not None:
        json_format.write(arguments.json, examination.as_json())
    if not examination.working:
        advice = examination.backends["cpu"].advice
        raise SessionError(
            f"no backend works ({', '.join(examination.backends)}); begin with: {advice}"
        )


def examine(*, root: Path = Path("/"), progress: Progress = SILENT) -> Examination:
    """Examine this machine.

    Args:
        root: root folder of the file system.
    """
    info = device_info(root)
    model = read_onnx(bundled_path(_MODEL))
    progress.phase("loading TensorRT")
    tensorrt = TensorRT.here(model)
    return Examination(
        info,
        [check_python(info), *check_extras()],
        check_backends(model, info, tensorrt, progress=progress),
        [
            check_gpu(info),
            check_targets(tensorrt, info),
            *check_jetson(tensorrt, info),
            *check_trtexec(tensorrt, root),
            check_memory(model),
            *check_disks(model),
        ],
    )


def _print(checks: list[Observation]) -> None:
    table = Table("check", "verdict", "finding and remedy", box=SIMPLE_HEAD)
    for check in checks:
        style = _STYLES[check.verdict]
        text = Text(shown(check.found))
        if check.advice is not None:
            text.append(f"\n-> {check.advice}", style="bold")
        table.add_row(Text(check.name), Text(check.verdict, style), text)
    Console().print(table)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="adadm doctor", description=__doc__)
    paths = Paths()
    parser.add_argument("--json", type=paths.written_file, metavar="OUT", help="write all findings")
    arguments = parser.parse_args(argv)
    paths.check(reads=companion_files(_MODEL))
    return arguments
