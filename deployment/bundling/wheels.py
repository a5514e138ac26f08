"""The wheels that a device without network needs: ours, and what ours needs there."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.metadata import distributions, version
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlparse
from urllib.request import url2pathname

from adadm.runtime.errors import ExportError
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.python_process import python_command
from adadm.runtime.targets import Target

_DISTRIBUTION = "adadm-deploy"
_PACKAGES = ("export", "calibration", "deployment", "runtime")
_SOURCES = (*_PACKAGES, "pyproject.toml", "README.md", "LICENSE")
_OLDEST_GLIBC = 17


def platforms(target: Target) -> list[str]:
    """The platform tags of wheels that a Jetson runs, the newest first."""
    newest = int(str(target.glibc).split(".")[1])
    return [f"manylinux_2_{minor}_aarch64" for minor in range(newest, _OLDEST_GLIBC - 1, -1)]


def collect_wheels(target: Target, folder: Path, *, progress: Progress = SILENT) -> None:
    """Put into a folder all that `pip install --no-index` needs for a target.

    With ONNX Runtime, and CUDA's bindings; TensorRT is there already, on a Jetson by JetPack. What
    is no Jetson gets wheels for the Python and the system of this machine.

    Raises:
        ExportError: pip fails; the message has what it said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    progress.phase("building our own wheel")
    source = _source()
    if source is None:
        requirements = [f"{_DISTRIBUTION}=={version(_DISTRIBUTION)}"]
        _pip(["download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), *requirements])
    else:
        with TemporaryDirectory() as clean:  # a build in place takes up what an earlier one left
            for name in _SOURCES:
                copy = shutil.copytree if (source / name).is_dir() else shutil.copy
                copy(source / name, Path(clean) / name)
            _pip(["wheel", "--no-deps", "--wheel-dir", str(folder), clean])
    progress.phase("fetching the wheels that it needs")
    (own,) = folder.glob(f"{_DISTRIBUTION.replace('-', '_')}-*.whl")
    command = ["download", "--only-binary=:all:", "--dest", str(folder), f"{own}[jetson,cpu]"]
    if target.jetpack is not None:
        command.append(f"cuda-bindings=={str(target.cuda).split('.')[0]}.*")
        command += ["--implementation", "cp", "--python-version", str(target.python)]
        command += [part for tag in platforms(target) for part in ("--platform", tag)]
    _pip(command)


def _source() -> Path | None:
    """The folder that this installation was made from; None where it came from an index.

    A folder of sources on the path has metadata too, which says nothing of where it is from.
    """
    for distribution in distributions(name=_DISTRIBUTION):
        noted = json.loads(distribution.read_text("direct_url.json") or "{}")
        if "dir_info" in noted:
            return Path(url2pathname(urlparse(noted["url"]).path))
    return None


def _pip(arguments: list[str]) -> None:
    command = python_command("pip", "--disable-pip-version-check", *arguments)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if not line.startswith("WARNING")]
        said = "\n  ".join(lines[-8:])
        raise ExportError(
            f"pip {arguments[0]} failed; without network, or for wheels by other means, "
            f"--no-wheels leaves them out:\n  {said}"
        )
