"""Targets that engines can be built for here, and the target that a Jetson is."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from adadm.runtime.checks.check import Observation, first_line, reraise_as_session_error
from adadm.runtime.checks.device_info import DeviceInfo
from adadm.runtime.checks.packages import install_command, version_numbers
from adadm.runtime.engines.builder import check_builds_here
from adadm.runtime.engines.recipe import Recipe
from adadm.runtime.engines.tensorrt_api import DEFAULTS, Flavour, load_tensorrt
from adadm.runtime.errors import AdadmError, EngineError, MissingDependencyError, SessionError
from adadm.runtime.models.onnx_reader import OnnxFile
from adadm.runtime.targets import TARGETS, Target

_TITLES: dict[Flavour, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}

_JETPACKS = {(35, 2): "5.1", (36, 3): "6.0", (36, 4): "6.2", (38, 2): "7.1", (39, 2): "7.2"}
"""JetPack by its first L4T (major, minor). Of JetPacks with the same TensorRT, only the one that is
a target is listed (https://developer.nvidia.com/embedded/jetpack-archive)."""

_JETPACK_TENSORRT = (
    "sudo apt install python3-libnvinfer && python3 -m venv --system-site-packages .venv"
)
_TRTEXEC = (
    "usr/src/tensorrt/bin/trtexec"  # where NVIDIA's packages install it; build.sh looks there too
)


@dataclass(frozen=True)
class TensorRT:
    """Installed flavours of TensorRT, and the targets that they can build here.

    Attributes:
        versions: version by installed flavour; None if it cannot be loaded.
        refusals: error that prevents building for a target, by its name; None if there is none.
    """

    versions: dict[Flavour, str | None]
    refusals: dict[str, AdadmError | None]

    @classmethod
    def here(cls, model: OnnxFile) -> TensorRT:
        """Examine this machine with the builder's checks.

        Args:
            model: any model; its form is not checked.
        """
        versions: dict[Flavour, str | None] = {}
        for flavour in get_args(Flavour):
            with suppress(MissingDependencyError):
                versions[flavour] = _version(flavour)
        names = (name for name, target in TARGETS.items() if target.tensorrt)
        return cls(versions, {name: _refusal(model, TARGETS[name]) for name in names})

    @property
    def targets(self) -> list[Target]:
        """Targets that engines can be built for here."""
        return [TARGETS[name] for name, refusal in self.refusals.items() if refusal is None]

    @property
    def refusal(self) -> AdadmError:
        """The reason why no target can be built; machine-wide reasons come first."""
        if not self.versions:
            return EngineError("neither TensorRT nor TensorRT for RTX is installed for this Python")
        refusals = [
            refusal
            for name, refusal in self.refusals.items()
            if refusal is not None
            and TARGETS[name].jetpack is None
            and ("rtx" if TARGETS[name].is_rtx else "tensorrt") in self.versions
        ]
        return min(refusals, key=lambda refusal: isinstance(refusal, EngineError))

    def __str__(self) -> str:
        return ", ".join(
            f"{_TITLES[flavour]} {version or '(cannot be loaded)'}"
            for flavour, version in self.versions.items()
        )


def _version(flavour: Flavour) -> str | None:
    with suppress(SessionError), reraise_as_session_error():
        return str(load_tensorrt(flavour).__version__)
    return None


def _refusal(model: OnnxFile, target: Target) -> AdadmError | None:
    try:
        with reraise_as_session_error():
            check_builds_here(Recipe(model, target, (), DEFAULTS))
    except AdadmError as error:
        return error
    return None


def check_targets(tensorrt: TensorRT, info: DeviceInfo) -> Observation:
    """Check the targets that engines can be built for here."""
    refusals = tensorrt.refusals.items()
    details = {
        "tensorrt": dict(tensorrt.versions),
        "refusals": {name: refusal and str(refusal) for name, refusal in refusals},
    }
    if tensorrt.targets:
        names = ", ".join(target.name for target in tensorrt.targets)
        return Observation("targets", f"{tensorrt} builds for {names}", details=details)
    reason = tensorrt.refusal
    return Observation(
        "targets",
        first_line(reason),
        "broken" if tensorrt.versions else "missing",
        tensorrt_advice(tensorrt, info, reason),
        details,
    )


def tensorrt_advice(tensorrt: TensorRT, info: DeviceInfo, reason: AdadmError) -> str:
    """Remedy if no engine can be built or run here.

    Args:
        reason: the error that prevents it.
    """
    if isinstance(
        reason, MissingDependencyError
    ):  # CUDA's bindings are missing, TensorRT is installed
        return install_command("jetson")
    if info.is_jetson:
        return _JETPACK_TENSORRT
    if not tensorrt.versions:
        capability = info.gpu.compute_capability
        rtx = TARGETS["tensorrt-rtx"].compute_capabilities  # builds without a GPU, too
        return install_command("rtx" if capability in (None, *rtx) else "tensorrt")
    if None in tensorrt.versions.values():
        broken = (flavour for flavour, version in tensorrt.versions.items() if version is None)
        return install_command(",".join(broken), again=True)
    if isinstance(reason, SessionError):
        return "nvidia-smi"
    return "pip install --upgrade 'adadm-deploy[tensorrt]'"


def check_jetson(tensorrt: TensorRT, info: DeviceInfo) -> list[Observation]:
    """Check that a Jetson has the TensorRT of its target; empty elsewhere."""
    if not info.is_jetson:
        return []
    board, l4t = info.board or "an unknown board", info.l4t or "unknown"
    text = f"{board}, L4T {l4t}"
    target = _target_of(board, l4t, info.gpu.compute_capability)
    details = {"board": board, "l4t": l4t, "target": target and target.name}
    if target is None:
        jetpacks = ", ".join(name for name, target in TARGETS.items() if target.jetpack)
        text = f"{text}: none of {jetpacks}"
        return [Observation("jetson", text, "missing", "adadm build --help", details)]
    text = f"{text}: {target.name}, TensorRT {target.tensorrt}"
    refusal = tensorrt.refusals[target.name]
    if refusal is None:
        return [Observation("jetson", f"{text}; installed: {tensorrt}", details=details)]
    if "tensorrt" not in tensorrt.versions:
        text = f"{text}; it is not installed for this Python"
        return [Observation("jetson", text, "missing", _JETPACK_TENSORRT, details)]
    advice = tensorrt_advice(tensorrt, info, refusal)
    if tensorrt.targets:
        advice = f"adadm build MODEL.onnx --target {tensorrt.targets[0].name} -o OUT.engine"
    return [Observation("jetson", f"{text}; {first_line(refusal)}", "broken", advice, details)]


def _target_of(board: str, l4t: str, compute_capability: str | None) -> Target | None:
    major, minor = (*version_numbers(l4t), 0, 0)[:2]
    jetpacks = [
        jetpack for since, jetpack in _JETPACKS.items() if (major, 0) <= since <= (major, minor)
    ]
    for name, target in TARGETS.items():
        if target.jetpack is None or target.jetpack not in jetpacks[-1:]:
            continue
        named = name.split("-")[1].title() in board  # "Jetson-AGX" is an Xavier without its name
        if named or compute_capability in target.compute_capabilities:
            return target
    return None


def check_trtexec(tensorrt: TensorRT, root: Path) -> list[Observation]:
    """Check for trtexec, which `build.sh` of a bundle runs; empty without TensorRT.

    Args:
        root: where the file system begins.
    """
    places = (os.environ.get("TRTEXEC"), shutil.which("trtexec"), root / _TRTEXEC)
    located = next((place for place in places if place and os.access(place, os.X_OK)), None)
    if located is not None:
        return [Observation("trtexec", str(located))]
    if "tensorrt" not in tensorrt.versions:
        return []
    text = f"not on the path or at /{_TRTEXEC}; build.sh of a bundle runs it"
    return [Observation("trtexec", text, "missing", "sudo apt install libnvinfer-bin")]
