"""Write docs/results/quantization.md from the measurements."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from studies.pages import table

Row = Mapping[str, Any]
PARTS = {
    "ranges": (
        "Ranges",
        "Range of a tensor. *Shipped*: the largest magnitude in photographs and drawn inputs. The "
        "other rows use photographs alone, with the shipped equalizers and bias correction. "
        "99.999 % and 99.99 % are percentiles of the magnitudes, *entropy* is the method of "
        "TensorRT's calibrator (2048 bins, 128 levels), *mean square* the range with the least "
        "mean square error. The picture shows the bundled x4 at an edge from black to white, as "
        "in an 8-bit file.",
    ),
    "reconstruction": (
        "Reconstruction",
        "Compensation of the rounding, with the shipped ranges: none, the shipped correction of "
        "the biases, error feedback (GPTQ) with a correction of the biases by the mean of the "
        "rounded inputs, and the same after fitting the weights to the rounded inputs.",
    ),
    "equalizers": (
        "Equalizers",
        "Factor of each input channel before it is quantized. *None*: the folded network, "
        "unchanged, at every convolution. *None after norm1* and *affine form of norm1* differ "
        "from the shipped form only at convolutions that norm1 was folded into: they read the "
        "trunk unchanged, or multiplied by the scale of norm1 (other channels of a Concat by 1). "
        "*Share*: the part of the difference between channels that moves from the activations to "
        "the weights; shipped is 0.95, chosen after these figures, which have 0.9.",
    ),
    "photographs": (
        "Photographs",
        "Number of photographs for the ranges, whole or as tiles from their middles (px of the "
        "reduced photograph); the loss is measured on whole images. The drawn inputs are the same "
        "in each row; the first row has 16 whole photographs.",
    ),
    "programs": (
        "Other programs",
        "Each with its defaults, calibrated on the same photographs, on the network with "
        "unchanged normalizations and tail. ONNX Runtime's `quantize_static`, after its "
        "`quant_pre_process`; NVIDIA Model Optimizer {modelopt} with its default method, entropy, "
        "and with max, in float32 where it is not INT8. *Quantized tensors* are those "
        "rounded at run time; *TensorRT for RTX*: whether the parser of {tensorrt_rtx} accepts it.",
    ),
}

_PICTURE = "![An edge from black to white, by method](../images/quantization_edges.svg)"


def page(results: Mapping[str, Any], networks: Collection[str]) -> str:
    """The whole page in Markdown."""
    setting = results["setting"]
    photographs, gated, versions = (setting[n] for n in ("photographs", "gated", "versions"))
    lines = [
        "# Ways to quantize, measured",
        "",
        "Written by `scripts/studies/quantization/study.py`; every figure comes from",
        "[its JSON](quantization.json). Explanation:",
        "[quantization](../explanation/quantization.md).",
        "",
        f"The bundled networks, calibrated on {photographs} whole photographs unless stated",
        "otherwise. All convolutions are INT8 except those that read the image and, at factor 2,",
        "the tail; the border strips of the tail are float32. *Lost* is the mean PSNR-Y of the",
        "float32 model minus that of the lowered model over a set, dB; negative is a gain. *To",
        "float32* is the PSNR of the lowered output against the float32 output, over all pixels of",
        f"a set. *Gates* lists the gates that fail on {gated} of the calibration photographs and",
        "the drawn inputs: the figure, the limit in brackets, and the place.",
        f"ONNX Runtime {versions['onnxruntime']}, on a CPU.",
    ]
    for part, (title, text) in PARTS.items():
        lines += ["", f"## {title}", "", text.format(**versions), ""]
        lines += [_PICTURE, ""] if part == "ranges" else []
        for network in networks:
            if rows := results.get(network, {}).get(part):
                lines += [f"### {network}", "", _table(rows), ""]
        lines.pop()
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row]) -> str:
    cells = [_cells(row) for row in rows]
    return table(list(cells[0]), [list(row.values()) for row in cells])


def _cells(row: Row) -> dict[str, str]:
    """Cells of a row by column; columns of other programs stand before the gates."""
    cells = {
        "": row["method"],
        **{f"lost, {folder}": f"{db:+.4f}" for folder, db in row["lost_db"].items()},
        **{f"to float32, {folder}": f"{db:.1f}" for folder, db in row["parity_db"].items()},
    }
    if "parsed" in row:
        cells |= {
            "quantized tensors": str(row["quantized_tensors"]),
            "INT32 biases": str(row["int32_biases"]),
            "TensorRT for RTX": "parsed" if row["parsed"] else "refused",
        }
    return cells | {"gates": _gates(row)}


def _gates(row: Row) -> str:
    failed = [
        f"{gate['gate']} {gate['figure']:.1f} ({gate['threshold']:g}), {gate['where']}"
        for gate in row["failed"]
    ]
    return "; ".join(failed) or "pass"
