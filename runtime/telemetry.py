"""Keep libraries from reporting to their makers, which they do by default, even in CI."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import cast


def switch_off_telemetry() -> None:
    """Switch off the telemetry of libraries that are imported afterwards.

    ONNX Runtime 1.32 makes an ID of the machine and uploads events unless the variable is set when
    it is imported (`Privacy.md` in its wheel): `disable_telemetry_events()` comes too late. The
    Python package of OpenVINO reports that it was imported, if it finds `openvino_telemetry`.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    sys.modules.setdefault("openvino_telemetry", cast("ModuleType", None))  # cannot be imported
