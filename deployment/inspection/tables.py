"""Print an inspection as tables on a terminal, 80 columns wide if names allow it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from adadm.calibration.ranges.int8_ranges import slow_channels_note
from adadm.deployment.inspection.contrast import GROWTHS, Contrast, Endurance
from adadm.deployment.inspection.findings import Finding
from adadm.deployment.inspection.responses import Spread
from adadm.deployment.inspection.structure import NEAR_ZERO, OUTSIDE, Block, Normalization
from adadm.deployment.inspection.summary import Inspection
from adadm.runtime.tables import Console, make_table
from adadm.runtime.terminal import shown

_CHECKPOINT = "checkpoint_sha256"

_NAME_WIDTH = 12
"""Width of the usual names; longer ones are broken on a narrow terminal."""


def print_inspection(inspection: Inspection, console: Console) -> None:
    """Print the kind of file, the tables, and the findings."""
    _print_inspected(inspection, console)
    structure = inspection.inspected.structure
    _print_modulators(structure.blocks, console)
    if structure.normalizations:
        _print_normalizations(structure.normalizations, console)
    _print_decisions(inspection, console)
    if inspection.responses:
        _print_responses(inspection, console)
    if inspection.headroom:
        _print_headroom(inspection, console)
    _print_contrast(inspection.contrast, console)
    _print_findings(inspection.findings, console)


def _print_inspected(inspection: Inspection, console: Console) -> None:
    inspected = inspection.inspected
    network = f"{inspected.metadata.architecture} x{inspected.metadata.upscale} with AdaDM"
    console.print(Text.assemble((shown(network), "bold"), ": ", shown(inspected.path.name)))
    for name, parameter in inspected.hyperparameters.items():
        console.print(f"  {name} = {parameter}")
    if channels := inspected.structure.slow_channels:
        console.print(slow_channels_note(channels))
    if notes := inspected.export_notes:
        listed = ", ".join(f"{key} {value}" for key, value in notes.items() if key != _CHECKPOINT)
        console.print(f"metadata: {listed}")
        console.print(f"  of the checkpoint {notes[_CHECKPOINT]}")
    if inspected.is_deployed:
        console.print(
            "parameters that were folded into convolutions are not shown; the checkpoint shows them"
        )
    if inspected.metadata.factor_scales:
        console.print("the trunk was scaled to fit float16, and b is that of the scaled trunk")


def _print_modulators(blocks: tuple[Block, ...], console: Console) -> None:
    trained = any(block.trunk_std is not None for block in blocks)
    table = _table("block", "w", "b", *(("std(x) in training", "factor there") if trained else ()))
    for block in blocks:
        cells = [f"{block.weight:.4f}", f"{block.bias:+.4f}"]
        if block.trunk_std is not None:
            cells += [f"{block.trunk_std:.3g}", f"{block.usual_factor:.3g}"]
        table.add_row(block.name, *cells)
    console.print("Modulators: x + r * exp(w * ln(std(x)) + b)", table)


def _print_normalizations(normalizations: list[Normalization], console: Console) -> None:
    table = _table("name", "gamma", "< 0", "~ 0", "a", "t", "folded into")
    table.columns[0].min_width = min(_NAME_WIDTH, max(len(n.name) for n in normalizations))
    for normalization in normalizations:
        table.add_row(
            normalization.name,
            _range(normalization.gamma),
            f"{normalization.negative_share:.0%}",
            f"{normalization.near_zero_share:.0%}",
            "-" if normalization.scale is None else _range(normalization.scale),
            "-" if normalization.shift is None else _range(normalization.shift),
            _form(normalization),
        )
    console.print(
        "Normalizations: a = gamma / sqrt(var + eps), t = beta - mean * a; ~ 0: a magnitude of at "
        f"most {NEAR_ZERO:g} of the median of its normalization",
        table,
    )
    for kind in dict.fromkeys(
        normalization.kind for normalization in normalizations if normalization.scale is None
    ):
        text = f"{kind} takes its statistics from the input, so that it cannot be folded"
        console.print(_indented(text))


def _form(found: Normalization) -> str:
    if found.decision is None:
        return "kept"
    return (found.decision.result or "kept").removeprefix("folded into the ")


def _print_decisions(inspection: Inspection, console: Console) -> None:
    decisions = inspection.inspected.decisions
    if inspection.inspected.is_deployed:
        forms = Counter(decision.result or "kept" for decision in decisions)
        listed = ", ".join(f"{count} {form}" for form, count in forms.items()) or "none"
        console.print(f"batch normalizations, as exported: {listed}")
    for decision in decisions:
        if decision.result is None:
            console.print(_indented(f"{decision.node} kept: {decision.reason}"))


def _print_responses(inspection: Inspection, console: Console) -> None:
    whole = inspection.responses[0].trunk is not None
    blocks = inspection.inspected.structure.blocks
    table = _table("block", *(("std(x)", "std(r)") if whole else ()), "factor", "moves")
    for block, response in zip(blocks, inspection.responses, strict=True):
        spreads = (response.trunk, response.residual, response.factor)
        cells = [_spread(spread) for spread in spreads if spread is not None]
        table.add_row(block.name, *cells, f"{response.factor.ratio:.2f}x")
    console.print(
        f"Least/mean/largest over {inspection.images}; moves: largest factor over the least",
        table,
    )


def _print_headroom(inspection: Inspection, console: Console) -> None:
    names = [name or OUTSIDE for name in inspection.headroom]
    table = _table("block", "largest", "room below", "rms above", "INT8 bits", "of")
    for name, room in zip(names, inspection.headroom.values(), strict=True):
        smallest = room.smallest
        table.add_row(
            name,
            f"{room.largest.peak:.4g}",
            f"2^{math.log2(room.largest.below_overflow):.1f}",
            "-" if smallest is None else f"2^{math.log2(smallest.above_underflow):.1f}",
            "-" if room.bits is None else f"{room.bits:.1f}",
            room.convolution,
        )
    console.print(
        "Headroom in float16, below 65504 and above 2^-14, and in INT8: log2 of the std of a "
        "convolution's input in steps of its scale",
        table,
    )


def _print_contrast(contrast: Contrast | None, console: Console) -> None:
    if contrast is None:
        console.print("Contrast: not measured, since the file fixes the size of its input")
        return
    table = _table("", "headroom", "weakest", "drawn lost", "worst, dB", "of")
    forms = {"as deployed": contrast.deployed, "without limits": contrast.unlimited}
    for name, form in forms.items():
        if form is not None:
            worst = min(form.margins, key=form.margins.__getitem__)
            lost = f"{len(form.lost)} of {len(form.margins)}"
            margin = f"{form.margins[worst]:+.1f}"
            table.add_row(name, _headroom(form), form.photograph or "-", lost, margin, worst)
    console.print(
        "Contrast: how far that of photographs can grow before results fall more than 1 dB behind "
        "bicubic's, and drawn pictures that do",
        table,
    )
    for name, form in forms.items():
        if form is not None and form.lost:
            listed = ", ".join(f"{picture} {db:+.1f}" for picture, db in form.lost.items())
            console.print(_indented(f"lost {name}, dB: {listed}"))


def _headroom(form: Endurance) -> str:
    if form.headroom is None:
        return "-"
    return f"{form.headroom:.3g}x" if math.isfinite(form.headroom) else f"{GROWTHS[-1]:g}x or more"


def _print_findings(findings: Sequence[Finding], console: Console) -> None:
    if not findings:
        console.print("Findings: none")
        return
    for rule in dict.fromkeys(finding.rule for finding in findings):
        style = "bold yellow" if rule.severity == "warning" else "bold"
        console.print(f"{rule.severity}: {rule.name}", style=style)
        lines = [f"expected: {rule.expected}"]
        for finding in findings:
            if finding.rule is rule:
                detail = f" ({finding.detail})" if finding.detail else ""
                lines.append(f"{finding.place}: {finding.figure:.3g}{detail}")
        for text in (*lines, f"what to do: {rule.advice}"):
            console.print(_indented(text))


def _indented(text: str) -> Padding:
    return Padding(text, (0, 0, 0, 2))


def _table(*headers: str) -> Table:
    names = ("block", "name", "folded into", "of")
    return make_table(None, headers, fold=names, collapse_padding=True, pad_edge=False)


def _spread(spread: Spread) -> str:
    values = (spread.least, spread.mean, spread.largest)
    return "/".join(f"{value:#.3g}".rstrip(".") for value in values)


def _range(values: npt.NDArray[np.float64]) -> str:
    return f"{values.min():.2g}..{values.max():.2g}"
