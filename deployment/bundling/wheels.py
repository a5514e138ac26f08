"""Collect the wheels for a device without network access: ours and its dependencies."""

from __future__ import annotations

import json
import os
import re
import shutil
from importlib.metadata import distributions, version
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from adadm.runtime.errors import ExportError
from adadm.runtime.leftovers import temporary_folder
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.python_process import python_command, run_child
from adadm.runtime.targets import Target

_DISTRIBUTION = "adadm-deploy"
_PACKAGES = ("export", "calibration", "deployment", "runtime")
_SOURCES = (*_PACKAGES, "pyproject.toml", "README.md", "LICENSE")
_OLDEST_GLIBC = 17
_NOISE = re.compile(r"WARNING|\s*Expected +or ")  # a digest for each other system


def platforms(target: Target) -> list[str]:
    """Platform tags of wheels that a Jetson runs, newest first."""
    newest = int(str(target.glibc).split(".")[1])
    return [f"manylinux_2_{minor}_aarch64" for minor in range(newest, _OLDEST_GLIBC - 1, -1)]


def locked_wheels(target: Target) -> Path:
    """Requirements of pip with the versions and digests of what `adadm-deploy[jetson,cpu]` needs.

    Of a Jetson, those for its Python and its CUDA; else for any machine that Python runs on.
    `scripts/lock` writes these files.
    """
    release = "" if target.jetpack is None else f".jetpack{target.jetpack.split('.')[0]}"
    return Path(__file__).parent / "device_files" / f"wheels{release}.txt"


def collect_wheels(target: Target, folder: Path, *, progress: Progress = SILENT) -> None:
    """Collect all wheels that `pip install --no-index` needs on a target.

    ONNX Runtime and CUDA's bindings are included; TensorRT is not, since JetPack installs it. A
    target other than a Jetson gets wheels for the Python and the system of this machine. All but
    our own are of the versions, and have the digests, of `locked_wheels`.

    Raises:
        ExportError: pip fails; the message has its output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    progress.phase("building our own wheel")
    _own_wheel(folder)
    progress.phase("fetching the wheels of its dependencies")
    _dependencies(target, folder)


def _own_wheel(folder: Path) -> None:
    source = _source()
    if source is None:  # a release cannot contain its own digest
        _download(folder, "--no-deps", f"{_DISTRIBUTION}=={version(_DISTRIBUTION)}")
        return
    with temporary_folder() as clean:  # a build in place would include leftovers
        for name in _SOURCES:
            copy = shutil.copytree if (source / name).is_dir() else shutil.copy
            copy(source / name, clean / name)
        _pip(["wheel", "--no-deps", "--wheel-dir", str(folder), str(clean)])


def _dependencies(target: Target, folder: Path) -> None:
    options = []
    if target.jetpack is not None:
        options += ["--implementation", "cp", "--python-version", str(target.python)]
        options += [part for tag in platforms(target) for part in ("--platform", tag)]
    # The file is complete; pip evaluates markers of dependencies for the Python that runs it.
    wanted = ("--no-deps", "--require-hashes", "--requirement", str(locked_wheels(target)))
    _download(folder, *wanted, *options)


def _download(folder: Path, *arguments: str) -> None:
    _pip(["download", "--only-binary=:all:", "--dest", str(folder), *arguments])


def _source() -> Path | None:
    """Source folder of this installation; None if it came from an index.

    A source folder on the path also has metadata, but without its origin.
    """
    for distribution in distributions(name=_DISTRIBUTION):
        noted = json.loads(distribution.read_text("direct_url.json") or "{}")
        if "dir_info" in noted:
            return Path(url2pathname(urlparse(noted["url"]).path))
    return None


def _pip(arguments: list[str]) -> None:
    command = python_command("pip", "--disable-pip-version-check", *arguments)
    with temporary_folder() as temporary:  # of pip, and of the builds that it starts
        result = run_child(command, environment={**os.environ, "TMPDIR": str(temporary)})
    if result.returncode:
        said = result.stderr.decode(errors="replace")
        lines = [line for line in said.splitlines() if line and not _NOISE.match(line)]
        last = "\n  ".join(lines[-8:])
        raise ExportError(
            f"pip {arguments[0]} failed; use --no-wheels without network access, or to get the "
            f"wheels by other means:\n  {last}"
        )
