"""Optimization profiles for the models that tiles need."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from adadm.runtime.engines.tensorrt_api import Profile


def tile_profile(model: onnx.ModelProto, smallest_side: int = 16) -> dict[str, Profile]:
    """For every input that a model for tiles has: one tile at least, two larger ones at most."""
    inputs = {value.name: value.type.tensor_type for value in model.graph.input}
    is_image = inputs["lr"].elem_type == TensorProto.UINT8
    blocks = inputs["std"].shape.dim[1].dim_value

    def shapes(batch: int, side: int) -> dict[str, tuple[int, ...]]:
        return {
            "lr": (batch, side, side, 3) if is_image else (batch, 3, side, side),
            "std": (batch, blocks, 1, 1),
            "rows_inside": (batch, 1, side, 1),
            "columns_inside": (batch, 1, 1, side),
        }

    bounds = [shapes(1, smallest_side), shapes(1, 64), shapes(2, 128)]
    return {name: Profile(*(bound[name] for bound in bounds)) for name in inputs}
