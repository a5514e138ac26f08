"""The drawn pictures that a network enlarges worst, beside bicubic interpolation."""

from __future__ import annotations

from pathlib import Path

from adadm.calibration.drawing import drawing_style
from adadm.deployment.inspection.contrast import Contrast
from adadm.runtime.images.arrays import enlarge

_PICTURES = 6
_INCHES = 1.6


def draw_contact_sheet(contrast: Contrast, path: Path) -> None:
    """Draw inputs, bicubic interpolation and results side by side, the worst picture first.

    The worst is that of the lowest margin, with or without limits. Equal results give equal bytes.

    Args:
        path: ends in .svg or .png.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    forms = {"as deployed": contrast.deployed}
    if contrast.unlimited is not None:
        forms["without limits"] = contrast.unlimited
    worst = {name: min(f.margins[name] for f in forms.values()) for name in contrast.pictures}
    names = sorted(worst, key=worst.__getitem__)[:_PICTURES]
    with drawing_style():
        from matplotlib.figure import Figure

        rows = 2 + len(forms)
        size = (len(names) * _INCHES, rows * (_INCHES + 0.1))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, len(names), squeeze=False)
        for column, name in zip(axes.T, names, strict=True):
            lr = contrast.pictures[name]
            upscale = contrast.deployed.results[name].shape[0] // lr.shape[0]
            shown = {f"{name}: input": lr, "bicubic": enlarge(lr, upscale)}
            for form, endurance in forms.items():
                shown[f"{form}: {endurance.margins[name]:+.1f} dB"] = endurance.results[name]
            for axis, (title, image) in zip(column, shown.items(), strict=True):
                axis.imshow(image, interpolation="nearest")
                axis.set_title(title, fontsize=7)
                axis.set_axis_off()
        undated = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=150, metadata=undated, facecolor="white")
