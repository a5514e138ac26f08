"""The layer that travels to the device: build, run, compare, measure. Never imports torch or onnx.

from adadm.runtime import Upscaler, open_session

with Upscaler("x2") as upscaler:
    large = upscaler.upscale(image)  # uint8 or uint16 (H, W, 3)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adadm.runtime.public_names import import_on_first_use
from adadm.runtime.telemetry import switch_off_telemetry

if TYPE_CHECKING:
    from adadm.runtime.backends import BACKENDS as BACKENDS
    from adadm.runtime.backends import open_session as open_session
    from adadm.runtime.bundles.bundle import Bundle as Bundle
    from adadm.runtime.errors import AdadmError as AdadmError
    from adadm.runtime.models.metadata import ModelMetadata as ModelMetadata
    from adadm.runtime.progress import Progress as Progress
    from adadm.runtime.sessions.session import Session as Session
    from adadm.runtime.targets import TARGETS as TARGETS
    from adadm.runtime.targets import Target as Target
    from adadm.runtime.upscaling.upscaler import Upscaler as Upscaler

__all__, __getattr__ = import_on_first_use(__name__, __file__)

switch_off_telemetry()  # here, because every import of adadm runs this file first
