"""Write docs/results/deviation.md from the measurements."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from studies.deviation.draw import NAMES
from studies.pages import table

_PAPER = {
    "x2, Urban100": (32.93, 33.12),
    "x2, Manga109": (39.10, 39.31),
    "x4, Urban100": (26.64, 26.83),
    "x4, Manga109": (31.02, 31.24),
}
"""EDSR without and with AdaDM, PSNR-Y in dB: Liu, Tang, Wu, 2021."""


def page(results: Mapping[str, Any]) -> str:
    """The whole page in Markdown; every sentence with a figure follows from the measurements."""
    course, twins = results["course"], results["twins"]
    lines = [
        "# The deviation of residual features, measured",
        "",
        "Written by `scripts/studies/deviation/study.py`; every figure comes from",
        "[its JSON](deviation.json).",
        "",
        "The AdaDM paper states that normalization shrinks the deviation of residual features and",
        "so costs a super-resolution network quality. A factor predicted from the deviation",
        "restores it, and batch normalization then improves the network. This study trains three",
        "variants of one network in the same way: without normalization, with batch normalization,",
        "and with batch normalization and AdaDM. They start from the same convolutions and see the",
        "same crops in the same order.",
        "",
        f"EDSR x{course['upscale']}, {course['blocks']} blocks of {course['features']} features,",
        f"`res_scale` 0.1, `rgb_range` 255; {course['steps']} steps of {course['batch']} crops of",
        f"{course['patch']}x{course['patch']} px, L1, Adam, learning rate",
        f"{course['learning_rate']:g}, half a cosine; seeds",
        f"{', '.join(map(str, results['seeds']))}. The network is small and the training short:",
        "the results show which variant is better, not the quality that a network can reach.",
        "",
        "## Quality",
        "",
        "PSNR-Y in dB, mean over seeds, and the standard deviation between them.",
        "",
        _scores(twins),
        "",
        *_differences(twins),
        "",
        "The figures of the paper, for networks and trainings of the published size, not measured",
        "with this code:",
        "",
        table(
            ("EDSR, PSNR-Y in dB", "as published in 2017", "with AdaDM", "difference"),
            [
                (name, f"{plain:.2f}", f"{adadm:.2f}", f"{adadm - plain:+.2f}")
                for name, (plain, adadm) in _PAPER.items()
            ],
        ),
        "",
        "## Deviation",
        "",
        "![Standard deviations by block](../images/study_deviation.svg)",
        "",
        "Mean over four photographs; the band is the range over the seeds. Left: the input of each",
        "residual block. Middle: the input of its first convolution, after the normalization if",
        "there is one. Right: what the block adds to the trunk, in percent of its input.",
        "",
        _deviations(twins),
        "",
        "![What a middle block adds](../images/study_edges.webp)",
        "",
        f"What block {course['blocks'] // 2} adds to the trunk, seed {results['seeds'][0]}: the",
        "mean magnitude over the channels, after subtracting the mean of each. Each map is scaled",
        "to its own maximum; the mean in grey levels is printed above it.",
        "",
        "## What the modulators learned",
        "",
        "![w and b by block](../images/study_modulators.svg)",
        "",
        *_modulators(twins["adadm"]),
    ]
    return "\n".join(lines) + "\n"


def _scores(twins: Mapping[str, Any]) -> str:
    folders = list(twins["plain"][0]["psnr_y_db"])
    rows = []
    for twin, runs in twins.items():
        db = [[run["psnr_y_db"][folder] for run in runs] for folder in folders]
        cells = (f"{statistics.mean(each):.3f} ± {statistics.stdev(each):.3f}" for each in db)
        rows.append((NAMES[twin], *cells))
    return table(("", *folders), rows)


def _differences(twins: Mapping[str, Any]) -> list[str]:
    """Differences seed by seed, since variants of one seed start alike."""
    lines = [
        "Differences between variants of one seed, dB; in brackets the value of each seed:",
        "",
    ]
    pairs = (("normalized", "plain"), ("adadm", "plain"), ("adadm", "normalized"))
    for twin, other in pairs:
        parts = []
        for folder in twins["plain"][0]["psnr_y_db"]:
            gains = [
                run["psnr_y_db"][folder] - baseline["psnr_y_db"][folder]
                for run, baseline in zip(twins[twin], twins[other], strict=True)
            ]
            each = ", ".join(f"{db:+.3f}" for db in gains)
            parts.append(f"{folder} **{statistics.mean(gains):+.3f}** ({each})")
        lines.append(f"- {NAMES[twin]} against {NAMES[other]}: {'; '.join(parts)}.")
    return lines


def _deviations(twins: Mapping[str, Any]) -> str:
    head = ("geometric mean over blocks and seeds", "input, levels", "normalized")
    rows = []
    for twin, runs in twins.items():
        blocks = [block for run in runs for block in run["blocks"]]
        trunk, read, residual, added = (
            statistics.geometric_mean(block[name] for block in blocks)
            for name in ("trunk", "normalized", "residual", "added")
        )
        share = f"{100 * added / trunk:.2f}"
        rows.append(
            (NAMES[twin], f"{trunk:.1f}", f"{read:.2f}", f"{residual:.3f}", f"{added:.3f}", share)
        )
    return table((*head, "residual", "added", "added, % of input"), rows)


def _modulators(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    w, b = ([block[name] for row in rows for block in row["modulators"]] for name in "wb")
    factors = [block["added"] / block["residual"] for row in rows for block in row["blocks"]]
    return [
        f"w is {min(w):.3f} to {max(w):.3f}, {statistics.mean(w):.3f} on average, b {min(b):+.3f}",
        f"to {max(b):+.3f}; before training the factor is the deviation itself (w 1, b 0). It",
        f"multiplies the residual by {min(factors):.1f} to {max(factors):.1f}. `adadm inspect`",
        "reports what this means for the deployment of a checkpoint",
        "([inspect](../guide/inspect.md)).",
    ]
