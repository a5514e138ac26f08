"""Installed distributions, by their metadata: the toolkit and the packages of its extras."""

from __future__ import annotations

import platform
import re
from importlib import metadata, util

from adadm.runtime.checks.check import Observation, Verdict
from adadm.runtime.checks.device_info import DeviceInfo
from adadm.runtime.host import installed_version

_OWN = "adadm-deploy"
_REQUIREMENT = re.compile(
    r"""(?P<name>[\w.-]+) \s* (?:\[(?P<extras>[^\]]*)\])? \s* (?P<versions>[^;]*?) \s*
    ; \s* extra \s* == \s* ["'](?P<extra>[^"']+)["']""",
    re.VERBOSE,
)
"""A requirement of an extra; requirements with further conditions are ignored."""

_ONE_MODULE = ("onnxruntime", "onnxruntime-gpu")
"""The second includes the first. If both are installed, the later installation is imported."""
_UNLISTED = {"opencv-python-headless": "cv2"}
"""Modules that JetPack and other systems install under another distribution name."""


def check_python(info: DeviceInfo) -> Observation:
    """Check Python, the toolkit and the system."""
    version = installed_version(_OWN)
    system = ", ".join(filter(None, (info.board, info.os, info.machine)))
    details = {"python": platform.python_version(), _OWN: version}
    text = f"Python {platform.python_version()} on {system}; {_OWN} {version or 'not installed'}"
    if version is None:  # only its folders are on the path: its requirements are unknown
        return Observation("python", text, "missing", f"pip install {_OWN}", details)
    return Observation("python", text, details=details)


def check_extras() -> list[Observation]:
    """Check the packages of each extra of the toolkit."""
    if installed_version(_OWN) is None:
        return []
    return [_check_extra(extra) for extra in metadata.metadata(_OWN).get_all("Provides-Extra", [])]


def install_command(extra: str, *, again: bool = False) -> str:
    """Shell line that installs an extra, after removing packages in its way.

    Args:
        again: reinstall packages that seem to be installed.
    """
    needed = _needed(_OWN, extra)
    present = [name for name in _ONE_MODULE if installed_version(name)]
    line = f"pip install {'--force-reinstall ' if again else ''}'{_OWN}[{extra}]'"
    if any(name in needed for name in _ONE_MODULE) and not all(name in needed for name in present):
        return f"pip uninstall -y {' '.join(present)} && {line}"
    return line


def version_numbers(version: str) -> list[int]:
    """`2.13.0+cpu` is 2, 13, 0; `36.4.3` is 36, 4, 3."""
    match = re.match(r"\d+(\.\d+)*", version)
    return [int(part) for part in match[0].split(".")] if match else []


def _check_extra(extra: str) -> Observation:
    states = {name: _state(name, wanted) for name, wanted in _needed(_OWN, extra).items()}
    found = ", ".join(text for text, _ in states.values())
    versions = {"versions": {name: installed_version(name) for name in states}}
    for verdict in ("missing", "broken"):
        if any(judged == verdict for _, judged in states.values()):
            return Observation(f"extra {extra}", found, verdict, install_command(extra), versions)
    return Observation(f"extra {extra}", found, details=versions)


def _needed(distribution: str, extra: str) -> dict[str, str]:
    """Packages of an extra with the required versions; nested extras are followed."""
    needed: dict[str, str] = {}
    lines = metadata.requires(distribution) if installed_version(distribution) else None
    for line in lines or ():
        match = _REQUIREMENT.fullmatch(line)
        if match is None or match["extra"] != extra:
            continue
        if match["name"] != distribution:
            needed[match["name"]] = match["versions"]
        for inner in filter(None, (match["extras"] or "").split(",")):
            needed.update(_needed(match["name"], inner.strip()))
    return needed


def _state(name: str, wanted: str) -> tuple[str, Verdict]:
    """Text and verdict for a distribution."""
    version = installed_version(name)
    both = {other: installed_version(other) for other in _ONE_MODULE}
    if name in both and all(both.values()):
        return f"both {' and '.join(_ONE_MODULE)}, which install the same module", "broken"
    if version is None and name == _ONE_MODULE[0] and both[_ONE_MODULE[1]]:
        name, version = _ONE_MODULE[1], both[_ONE_MODULE[1]]
    if version is None:
        if name in _UNLISTED and util.find_spec(_UNLISTED[name]) is not None:
            return f"{_UNLISTED[name]} from elsewhere", "ok"
        return f"no {name}", "missing"
    least = re.search(r">=\s*([\d.]+)", wanted)
    if least is not None and version_numbers(version) < version_numbers(least[1]):
        return f"{name} {version}, required >= {least[1]}", "broken"
    return f"{name} {version}", "ok"
