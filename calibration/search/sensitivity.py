"""Measure, rank, print and draw the loss of each single convolution in INT8."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from adadm.calibration.drawing import drawing_style
from adadm.calibration.search.evaluations import Evaluations, Loss
from adadm.runtime.files import written_whole
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.tables import Console, make_table

_INT8, _SPARED = "#4e79a7", "#e15759"


@dataclass(frozen=True)
class Convolution:
    """A node that may become INT8.

    Attributes:
        multiply_adds: number at an input size common to all convolutions; positive.
    """

    name: str
    multiply_adds: int


@dataclass(frozen=True)
class Sensitivity:
    """Loss of one convolution in INT8.

    Attributes:
        alone: loss with this convolution alone in INT8.
        spared: loss with all others in INT8; None if not measured.
    """

    convolution: Convolution
    alone: Loss
    spared: Loss | None = None


def measure_sensitivity(
    evaluations: Evaluations,
    convolutions: Sequence[Convolution],
    *,
    spared: bool = False,
    progress: Progress = SILENT,
) -> list[Sensitivity]:
    """Evaluate each convolution alone, and with `spared` also all others without it.

    Returns:
        The most sensitive first, by `alone.noise_db`, which hardly depends on chance.
    """
    everything = frozenset(convolution.name for convolution in convolutions)
    total = len(convolutions) * (1 + spared)
    progress.phase(f"measuring each convolution alone in INT8{', and alone spared' * spared}")
    sensitivities: list[Sensitivity] = []
    for convolution in convolutions:
        name = convolution.name
        alone = evaluations({name})
        done = len(sensitivities) * (1 + spared) + 1
        progress.advance(done, total, f"{name} alone: {alone.judged_db:.4f} dB")
        others = None
        if spared:
            others = evaluations(everything - {name})
            progress.advance(done + 1, total, f"all but {name}: {others.judged_db:.4f} dB")
        sensitivities.append(Sensitivity(convolution, alone, others))
    return sorted(sensitivities, key=lambda sensitivity: -sensitivity.alone.noise_db)


def print_sensitivities(
    sensitivities: Sequence[Sensitivity], console: Console, spared: Collection[str] = ()
) -> None:
    """Print a table that fits 100 columns; long names are broken.

    Args:
        spared: names of those that stay in higher precision, which are marked.
    """
    headers = ["convolution", "work", "alone: noise", "lost"]
    with_others = any(sensitivity.spared for sensitivity in sensitivities)
    if with_others:
        headers += ["all others: noise", "lost"]
    title = "Loss of each convolution in INT8, dB of PSNR-Y"
    table = make_table(title, [*headers, ""], left=("",), fold=("convolution",))
    table.columns[0].min_width = 18
    for sensitivity, share in zip(sensitivities, _shares(sensitivities), strict=True):
        name = sensitivity.convolution.name
        losses = [sensitivity.alone, sensitivity.spared] if with_others else [sensitivity.alone]
        cells = [f"{share:.1%}"]
        for loss in losses:
            cells += [f"{loss.noise_db:.4f}", f"{loss.lost_db:+.4f}"] if loss else ["-", "-"]
        table.add_row(name, *cells, "spared" if name in spared else "")
    console.print(table)


def draw_sensitivities(
    sensitivities: Sequence[Sensitivity], path: Path, spared: Collection[str] = ()
) -> None:
    """Draw the ranking as SVG, the same bytes for the same figures: noise, and share of the work.

    Args:
        spared: names of those that stay in higher precision, in another colour.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    names = [sensitivity.convolution.name for sensitivity in sensitivities]
    noises = [sensitivity.alone.noise_db for sensitivity in sensitivities]
    drawable = [noise for noise in noises if 0 < noise < float("inf")] or [1.0]
    lowest, highest = min(drawable) / 2, max(drawable) * 2
    widths = [min(max(noise, lowest), highest) for noise in noises]
    colors = [_SPARED if name in spared else _INT8 for name in names]

    with drawing_style():
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch

        figure = Figure(figsize=(10, 0.17 * len(names) + 1.2), layout="constrained")
        noise_axis, work_axis = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
        noise_axis.barh(range(len(names)), widths, color=colors)
        for place, (width, noise) in enumerate(zip(widths, noises, strict=True)):
            noise_axis.text(width, place, f" {noise:.2g}", va="center")
        noise_axis.set_xscale("log")
        noise_axis.set_xlim(lowest, highest * 2)
        noise_axis.set_xlabel("noise of this convolution alone in INT8, dB")
        noise_axis.set_yticks(range(len(names)), names)
        noise_axis.set_ylim(len(names) - 0.5, -0.5)
        work_axis.barh(range(len(names)), [100 * s for s in _shares(sensitivities)], color=colors)
        work_axis.set_xlabel("% of the multiply-adds")
        if spared:
            handles = [Patch(color=_INT8, label="INT8"), Patch(color=_SPARED, label="spared")]
            figure.legend(handles=handles, frameon=False, loc="outside upper right", ncols=2)
        with written_whole(path) as partial:
            figure.savefig(partial, format="svg", metadata={"Date": None}, facecolor="white")


def _shares(sensitivities: Sequence[Sensitivity]) -> list[float]:
    total = sum(sensitivity.convolution.multiply_adds for sensitivity in sensitivities)
    return [sensitivity.convolution.multiply_adds / total for sensitivity in sensitivities]
