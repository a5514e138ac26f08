"""The two models that tiles need, and the std of whole images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from adadm.export.passes import ExternalizeStatistics, ReturnMoments
from adadm.runtime.errors import ExportError
from adadm.runtime.images.arrays import Batch
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.sessions.session import FloatArray


@dataclass(frozen=True)
class TileModels:
    """The two models that `--stats external` adds.

    Attributes:
        tile: reads `lr` and `std` (N, B, 1, 1), one for each of the B modulators; returns `sr`.
        moments: reads `lr`, `std` (0 or less if unknown), `rows_inside` (N, 1, H, 1) and
            `columns_inside` (N, 1, 1, W); returns `moments` (N, B, 3). It has no tail.
    """

    tile: onnx.ModelProto
    moments: onnx.ModelProto


def tile_graphs(model: ir.Model) -> tuple[ir.Model, ir.Model]:
    """Make the graphs of `TileModels.tile` and `TileModels.moments` from a folded graph.

    Raises:
        ExportError: the network has no modulator.
    """
    tile, moments = model.clone(), model.clone()
    if not ExternalizeStatistics()(tile).modified:
        raise ExportError(
            "the network has no modulator, so there is no statistic for tiles to share; export it "
            "with --stats internal"
        )
    ReturnMoments()(moments)
    ExternalizeStatistics()(moments)
    for graph in (tile, moments):
        common.RemoveUnusedNodesPass()(graph)
    return tile, moments


def std_from(moments: OnnxRuntimeSession, lr: FloatArray) -> Batch:
    """Std (N, B, 1, 1) of every trunk over whole images, from the moments model."""
    batch = lr.shape[0]
    height, width = lr.shape[1:3] if lr.dtype == np.uint8 else lr.shape[2:]
    (blocks,) = (spec.shape[1] for spec in moments.inputs if spec.name == "std")
    feed = {
        "lr": lr,
        "std": np.zeros((batch, int(blocks or 0), 1, 1), np.float32),
        "rows_inside": np.ones((batch, 1, height, 1), np.float32),
        "columns_inside": np.ones((batch, 1, 1, width), np.float32),
    }
    count, _, squares = moments.run(feed)["moments"].transpose(2, 0, 1)
    std = np.sqrt(squares / np.maximum(count - 1, 1)).astype(np.float32)
    return np.asarray(std[..., None, None])
