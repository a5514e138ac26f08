"""Export a trained checkpoint to an exact ONNX model.

from adadm.export import Options, export_onnx, load_checkpoint

export = export_onnx(load_checkpoint("edsr_x2.pt"), Options(opset=19))
onnx.save(export.model, "edsr_x2.onnx")
"""

from adadm.export.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from adadm.export.compiler_cache import keep_compiler_cache
from adadm.export.networks import Network
from adadm.export.networks.blocks import AdaDM
from adadm.export.options import Options
from adadm.export.passes import collapse_tail, fold_batch_norm
from adadm.export.pipeline import Export, export_onnx

__all__ = [
    "AdaDM",
    "Checkpoint",
    "Export",
    "Network",
    "Options",
    "collapse_tail",
    "export_onnx",
    "fold_batch_norm",
    "load_checkpoint",
    "save_checkpoint",
]

keep_compiler_cache()
