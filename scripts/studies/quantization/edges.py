"""The picture of docs/results/quantization.md: an edge from black to white, by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnx_ir as ir

from adadm.calibration.drawing import drawing_style
from adadm.calibration.quality.gates import RINGING
from adadm.export.proof.drawn_pictures import plain_pictures
from adadm.runtime.images.arrays import batch_from_image
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from studies.pages import save_figure
from studies.quantization import methods
from studies.quantization.networks import DRAWN_SIZE, Net

PICTURED = "EDSR 8 x 48, x4"
_REACH_PX = 12
_FLOAT32 = "float32"


def profiles(net: Net, models: Mapping[str, ir.Model]) -> dict[str, list[float]]:
    """Grey levels from left to right across the edge, by method, float32 first."""
    return {name: _profile(net, model) for name, model in {_FLOAT32: net.model, **models}.items()}


def _profile(net: Net, model: ir.Model) -> list[float]:
    """Red channel of the middle row, `_REACH_PX` of the input to both sides of the edge."""
    edge = batch_from_image(plain_pictures(*DRAWN_SIZE)["vertical edge"], net.rgb_range)
    sr = OnnxRuntimeSession(ir.to_proto(model).SerializeToString()).run({"lr": edge})["sr"]
    _, _, height, width = sr.shape
    reach = _REACH_PX * net.upscale
    row = sr[0, 0, height // 2, width // 2 - reach : width // 2 + reach]
    levels: list[float] = np.round(row * (255 / net.rgb_range), 1).tolist()
    return levels


def draw(profiles: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw a line for each method: difference of its 8-bit levels from those of float32."""
    shown = {name: np.clip(levels, 0, 255) for name, levels in profiles.items()}
    float32 = shown.pop(_FLOAT32)
    position = np.linspace(-_REACH_PX, _REACH_PX, len(float32), endpoint=False)
    with drawing_style({"font.size": 10}):
        figure, axis = plt.subplots(figsize=(9, 3.4))
        axis.axhspan(-RINGING.threshold, RINGING.threshold, color="0.93", label="allowed")
        for name, levels in shown.items():
            bold = 2.2 if name == methods.SHIPPED else 1.2
            axis.plot(position, levels - float32, label=name.strip("*"), linewidth=bold)
        axis.set_xlabel("px of the input from the edge")
        axis.set_ylabel("difference, grey levels")
        axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        save_figure(figure, path, bbox_inches="tight")
