"""docs/quantization_figures.md, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["page"]

Row = Mapping[str, Any]
PARTS = {
    "ranges": (
        "Ranges",
        "The scale of each tensor, from the magnitudes of its values. Equalizers and bias "
        "correction are those that are shipped in every row; so are the drawn inputs of the "
        "shipped row, which the others have not seen. 99.999 % and 99.99 % are percentiles of the "
        "magnitudes; *entropy* is the method of TensorRT's calibrator (2048 bins, 128 levels), "
        "*mean square* the range with the least mean square error.",
    ),
    "reconstruction": (
        "Reconstruction",
        "What makes up for the rounding, with the shipped ranges: nothing, the shipped correction "
        "of the biases, error feedback (GPTQ) with a correction of the biases by the mean of the "
        "rounded inputs, and weights fitted to the rounded inputs before that.",
    ),
    "equalizers": (
        "Equalizers",
        "What each input channel is multiplied by before it is quantized. *None*: the folded "
        "network as it is, at every convolution. *None after norm1* and *affine form of norm1*: "
        "only convolutions that norm1 was folded into differ from what is shipped; they read the "
        "trunk, or what norm1 would make of it, but for its shift and sign. *Share*: how much of "
        "the unevenness of channels the activations give up; shipped is 0.9.",
    ),
    "photographs": (
        "Photographs",
        "How many photographs the ranges come from, whole or as tiles from their middles (px of "
        "the reduced photograph); all are measured on whole images.",
    ),
}

_PROGRAMS = (
    "Each with its defaults, on the network with its normalizations and its tail as they are, "
    "calibrated on the same photographs. ONNX Runtime's `quantize_static`, after its "
    "`quant_pre_process`; NVIDIA Model Optimizer {modelopt} with its default method, entropy, and "
    "with max, in float32 where it is not INT8. *Quantized tensors* are those that are rounded at "
    "run time; *TensorRT for RTX*: whether the parser of version {tensorrt_rtx} takes the file."
)


def page(results: Mapping[str, Any]) -> str:
    """The whole page, in Markdown."""
    photographs, gated = results["photographs_each"], results["gated"]
    lines = [
        "# Ways to quantize, measured",
        "",
        "Written by `scripts/study_quantization.py`; every figure comes from",
        "`docs/quantization_figures.json`. What they mean: [quantization](quantization.md).",
        "",
        f"The bundled networks, calibrated on {photographs} photographs, whole, where nothing else",
        "is said. INT8 are all convolutions but those that read the image and, of factor 2, the",
        "tail; the strips at the border of the tail are float32. *Lost* is mean PSNR-Y in dB over",
        "a set, of the float32 model less of the lowered one; negative is a gain. *To float32* is",
        "the PSNR of the lowered output against the float32 output, over all pixels of a set.",
        f"*Gates* are those that fail, on {gated} of the calibration's photographs and the drawn",
        "inputs, with what was measured and what is allowed.",
        f"ONNX Runtime {results['versions']['onnxruntime']}, on a CPU.",
    ]
    for part, (title, text) in PARTS.items():
        lines += ["", f"## {title}", "", text, "", *_table(results[part], _method_cells)]
    lines += ["", "## Other programs", "", _PROGRAMS.format(**results["versions"]), ""]
    lines += _table(results["quantizers"], _program_cells)
    return "\n".join(lines) + "\n"


def _table(by_network: Mapping[str, Sequence[Row]], cells: Any) -> list[str]:
    """One table a network; the columns of a row are what `cells` makes of it."""
    lines: list[str] = []
    for network, rows in by_network.items():
        shown = [cells(row) for row in rows]
        lines += [f"### {network}", "", f"| {' | '.join(shown[0])} |", "|---" * len(shown[0]) + "|"]
        lines += [f"| {' | '.join(row.values())} |" for row in shown]
        lines.append("")
    return lines[:-1]


def _method_cells(row: Row) -> dict[str, str]:
    return {
        "": row["method"],
        **{f"lost, {folder}": f"{db:+.4f}" for folder, db in row["lost_db"].items()},
        **{f"to float32, {folder}": f"{db:.1f}" for folder, db in row["parity_db"].items()},
        "gates": _gates(row),
    }


def _program_cells(row: Row) -> dict[str, str]:
    return {
        "": row["method"],
        **{f"lost, {folder}": f"{db:+.4f}" for folder, db in row["lost_db"].items()},
        "quantized tensors": str(row["quantized_tensors"]),
        "INT32 biases": str(row["int32_biases"]),
        "TensorRT for RTX": "parsed" if row["parsed"] else "refused",
        "gates": _gates(row),
    }


def _gates(row: Row) -> str:
    failed = [
        f"{gate['gate']} {gate['figure']:.1f} ({gate['threshold']:g}), {gate['where']}"
        for gate in row["failed"]
    ]
    return "; ".join(failed) or "pass"
