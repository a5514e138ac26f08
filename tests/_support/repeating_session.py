"""A model that repeats each pixel, so that results are known exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from adadm.runtime.images.arrays import Pixels
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.models.tensor_spec import TensorSpec
from adadm.runtime.sessions.session import FloatArray, Session


class RepeatingSession(Session):
    """Each pixel twice; of images (N, H, W, 3) if the data type is uint8, else of planes.

    Attributes:
        runs: how many were begun.
        before_run: called with how many were before it.
    """

    def __init__(
        self,
        shape: tuple[int | str | None, ...] = (1, 3, "H", "W"),
        dtype: npt.DTypeLike = np.float32,
        **metadata: str,
    ) -> None:
        self.inputs = [TensorSpec("lr", shape, np.dtype(dtype))]
        self.outputs = [TensorSpec("sr", (None,) * 4, np.dtype(dtype))]
        self.backend = "cpu"
        entries = {"upscale": "2", "rgb_range": "255", **metadata}
        self.metadata = ModelMetadata.from_props(
            {f"adadm.{k}": text for k, text in entries.items()}
        )
        self.runs = 0
        self.before_run: Callable[[int], object] = lambda _: None

    def _run(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        self.runs += 1
        self.before_run(self.runs - 1)
        rows = 1 if self.inputs[0].dtype == np.uint8 else 2
        return {"sr": feed["lr"].repeat(2, axis=rows).repeat(2, axis=rows + 1)}

    def _release(self) -> None:
        self._closed = False  # one for all that a test opens


def doubled(image: Pixels) -> Pixels:
    """What it makes of an image (H, W) or (H, W, C)."""
    return image.repeat(2, axis=0).repeat(2, axis=1)
