"""The two models that tiles need, what they cost, and how far tiles are from the whole image."""

from __future__ import annotations

import importlib.util
import logging
import math
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from adadm.export.networks import Network
from adadm.export.passes import ExternalizeStatistics, ReturnMoments
from adadm.export.proof.parity import Shape, photograph_batches
from adadm.runtime.errors import ExportError, SessionError
from adadm.runtime.images.arrays import Batch
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.sessions.session import Array
from adadm.runtime.upscaling.memory import MemoryModel, measure_memory

__all__ = ["HaloError", "TileModels", "measure_halo", "measure_memories", "std_from", "tile_graphs"]

_logger = logging.getLogger(__name__)

_HALOS_PX = (0, 2, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96)
# Multiply-adds, a few seconds of two cores; a network has about as many for a pixel as parameters.
_MEMORY_BUDGET, _HALO_BUDGET = 8e11, 3e11
_MEMORY_SIDES_PX, _HALO_SIDES_PX = (64, 128), (64, 192)


@dataclass(frozen=True)
class TileModels:
    """What `--stats external` adds to a model.

    Attributes:
        tile: reads `lr` and `std` (N, B, 1, 1), one for each of the B modulators; returns `sr`.
        moments: reads `lr`, `std` (not positive where it is unknown), `rows_inside` (N, 1, H, 1)
            and `columns_inside` (N, 1, 1, W); returns `moments` (N, B, 3). It has no tail.
    """

    tile: onnx.ModelProto
    moments: onnx.ModelProto


@dataclass(frozen=True)
class HaloError:
    """The largest error on photographs of what lies `px` or more inside a cut, the std given."""

    px: int
    levels: float


def tile_graphs(model: ir.Model) -> tuple[ir.Model, ir.Model]:
    """The graphs of `TileModels.tile` and `TileModels.moments`, from one that is folded.

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


def measure_halo(network: Network, models: TileModels) -> list[HaloError]:
    """Cut photographs at two sides, give the cut the std of the whole, and see how far it is off.

    The cut meets in a corner, as tiles do.
    """
    tile, moments = (
        OnnxRuntimeSession(m.SerializeToString()) for m in (models.tile, models.moments)
    )
    side = max(_side(network, _HALO_BUDGET, _HALO_SIDES_PX), 2 * network.smallest_side)
    r = network.upscale
    worst, measured = np.zeros(side), side
    for lr in photograph_batches(network, side).values():
        cut = min(lr.shape[2:]) // 2
        std = std_from(moments, lr)
        whole = tile.run({"lr": lr, "std": std})["sr"]
        part = tile.run({"lr": np.ascontiguousarray(lr[..., cut:, cut:]), "std": std})["sr"]
        error = np.abs(part - whole[..., r * cut :, r * cut :])[0].max(axis=0)
        height, width = error.shape[0] // r, error.shape[1] // r
        by_pixel = error.reshape(height, r, width, r).max(axis=(1, 3)) * 255 / network.rgb_range
        inside = np.minimum.outer(np.arange(height), np.arange(width))
        for px in range(cut):
            worst[px] = max(worst[px], by_pixel[inside >= px].max())
        measured = min(measured, cut)
    return [HaloError(px, float(f"{worst[px]:.2g}")) for px in _HALOS_PX if px < measured]


def std_from(moments: OnnxRuntimeSession, lr: Array) -> Batch:
    """The std (N, B, 1, 1) of every trunk for whole images, as the model reads them."""
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


def measure_memories(
    network: Network, model: onnx.ModelProto, static: Shape | None
) -> dict[str, MemoryModel]:
    """The memory of a model for float32 on each CPU backend that is installed here.

    A backend that cannot run the model is left out, but ONNX Runtime, which has run it already.

    Raises:
        SessionError: ONNX Runtime fails.
    """
    side = max(_side(network, _MEMORY_BUDGET, _MEMORY_SIDES_PX), 2 * network.smallest_side)
    sizes = [(side // 2, side // 2), (side, side)] if static is None else [static[1:]]
    installed = {"cpu": "onnxruntime", "openvino": "openvino"}
    models = {}
    for backend, package in installed.items():
        if importlib.util.find_spec(package):
            try:
                models[backend] = measure_memory(model.SerializeToString(), backend, sizes)
            except SessionError as error:
                if backend == "cpu":
                    raise
                _logger.debug("%s", error)
    return models


def _side(network: Network, budget: float, bounds: tuple[int, int]) -> int:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    side = int(np.clip(math.sqrt(budget / parameters), *bounds))
    return side - side % 16
