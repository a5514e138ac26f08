"""A network in lower precision, with what that costs measured, and under a budget.

from adadm.calibration import CalibrationImages, Request, load_source, lower

source = load_source("edsr_x2.safetensors")
images = CalibrationImages([Path("photographs")], source.upscale)
quantized = lower(source, images, Request("int8", TARGETS["jetson-orin-jp62"], budget_db=0.02))
quantized.check()
onnx.save(quantized.models["whole"], "edsr_x2.int8.onnx")
"""

from adadm.calibration.lowering import Request
from adadm.calibration.pipeline import Quantized, lower
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.calibration.source_network import Source, load_source
from adadm.runtime.targets import TARGETS

__all__ = [
    "TARGETS",
    "CalibrationImages",
    "Quantized",
    "Request",
    "Source",
    "load_source",
    "lower",
]
