"""Lower a network to FP16 or INT8, measure the loss, and keep it within a budget.

from adadm.calibration import (
    CalibrationImages, LoweringOptions, load_source_network, lower_network
)

source = load_source_network("edsr_x2.safetensors")
images = CalibrationImages.of([Path("photographs")], source.metadata.upscale)
options = LoweringOptions("int8", TARGETS["jetson-orin-jp62"], budget_db=0.02)
quantized = lower_network(source, images, options)
quantized.check()
onnx.save(quantized.models["whole"], "edsr_x2.int8.onnx")
"""

from adadm.calibration.lowering import LoweringOptions
from adadm.calibration.pipeline import Quantized, lower_network
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.calibration.source_network import SourceNetwork, load_source_network
from adadm.runtime.targets import TARGETS

__all__ = [
    "TARGETS",
    "CalibrationImages",
    "LoweringOptions",
    "Quantized",
    "SourceNetwork",
    "load_source_network",
    "lower_network",
]
