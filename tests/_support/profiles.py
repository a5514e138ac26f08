"""Engines by TensorRT for RTX, and optimization profiles for them."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import pytest
from onnx import TensorProto

from adadm.runtime.engines.tensorrt_api import Engine, Profile, Settings, build_engine

DYNAMIC = {"lr": Profile((1, 3, 16, 16), (1, 3, 64, 64), (2, 3, 256, 256))}
"""For a whole image of any size."""


def built(
    model: onnx.ModelProto,
    profile: Mapping[str, Profile] | None,
    settings: Settings = Settings(("SM89",)),  # noqa: B008 - it is frozen
) -> Engine:
    """It needs no GPU for that; the test is skipped where it is not installed."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    profiles = [] if profile is None else [profile]
    return build_engine(model.SerializeToString(), profiles, "rtx", settings=settings)


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
