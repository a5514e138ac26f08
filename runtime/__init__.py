"""What travels to the device: build, run, compare, measure. Never imports torch or onnx.

from adadm.runtime import Upscaler, open_session

with Upscaler("x2") as upscaler:
    large = upscaler.upscale(image)  # uint8 or uint16 (H, W, 3)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from adadm.runtime.telemetry import switch_off_telemetry

if TYPE_CHECKING:
    from adadm.runtime.backends import BACKENDS, open_session
    from adadm.runtime.bundles.bundle import Bundle
    from adadm.runtime.errors import AdadmError
    from adadm.runtime.models.metadata import ModelMetadata
    from adadm.runtime.progress import Progress
    from adadm.runtime.sessions.session import Session
    from adadm.runtime.targets import TARGETS, Target
    from adadm.runtime.upscaling.upscaler import Upscaler

__all__ = [
    "BACKENDS",
    "TARGETS",
    "AdadmError",
    "Bundle",
    "ModelMetadata",
    "Progress",
    "Session",
    "Target",
    "Upscaler",
    "open_session",
]
_HOMES = {
    "BACKENDS": "backends",
    "TARGETS": "targets",
    "AdadmError": "errors",
    "Bundle": "bundles.bundle",
    "ModelMetadata": "models.metadata",
    "Progress": "progress",
    "Session": "sessions.session",
    "Target": "targets",
    "Upscaler": "upscaling.upscaler",
    "open_session": "backends",
}

switch_off_telemetry()  # here, since whatever is imported of adadm comes by here first


def __getattr__(name: str) -> Any:
    """Import on first use: `adadm --help` needs nothing of it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
