"""Measurements at export: the overlap that tiles need, and the memory that a model takes."""

from __future__ import annotations

import importlib.util
import logging
import math
from dataclasses import dataclass

import numpy as np
import onnx

from adadm.export.networks import Network
from adadm.export.proof.cases import Shape, photograph_batches
from adadm.export.tile_models import TileModels, std_from
from adadm.runtime.errors import SessionError
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.upscaling.memory import MemoryModel, measure_memory

_logger = logging.getLogger(__name__)

# Multiply-adds: a few seconds on two cores. A network needs about one per parameter and pixel.
_MEMORY_BUDGET, _HALO_BUDGET = 8e11, 3e11
_MEMORY_SIDES_PX, _HALO_SIDES_PX = (64, 128), (64, 192)

_HALOS_PX = (0, 2, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96)


@dataclass(frozen=True)
class HaloError:
    """Largest error on photographs at `px` or more from a cut, with the std given."""

    px: int
    levels: float


def measure_halo(network: Network, models: TileModels) -> list[HaloError]:
    """Measure the error of cropped photographs that are given the std of the whole.

    Two adjacent sides are cropped, so the cuts meet in a corner, as with tiles.
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


def measure_memories(
    network: Network, model: onnx.ModelProto, static: Shape | None
) -> dict[str, MemoryModel]:
    """Measure the memory of a float32 model on each installed CPU backend.

    A backend that cannot run the model is left out, except ONNX Runtime, which has run it before.

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
