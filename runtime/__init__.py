"""What travels to the device: build, run, compare, measure. Never imports torch or onnx."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adadm.runtime.telemetry import switch_off_telemetry

if TYPE_CHECKING:
    from adadm.runtime.upscaling.upscaler import Upscaler

__all__ = ["Upscaler"]

switch_off_telemetry()  # here, since whatever is imported of adadm comes by here first


def __getattr__(name: str) -> Any:
    """Import on first use: `adadm --help` needs nothing of it."""
    if name == "Upscaler":
        from adadm.runtime.upscaling.upscaler import Upscaler

        return Upscaler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
