"""An inspection as a picture: the blocks from left to right, one panel a kind of figure."""

from __future__ import annotations

from pathlib import Path
from adadm.calibration.inspection.inspection import Inspection

__all__ = ["PICTURES", "draw_inspection"]
PICTURES = (".svg", ".png")


def draw_inspection(inspection: Inspection, path: Path) -> None: ...
