"""Write docs/results/quantization.md from the measurements."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from studies.pages import table

Row = Mapping[str, Any]
PARTS = {
    "ranges": (
        "Ranges",
        "What the scale of a tensor holds. *Shipped*: the largest magnitude in photographs and "
        "drawn inputs. The other rows know the photographs alone; their equalizers and bias "
        "correction are the shipped ones. 99.999 % and 99.99 % are percentiles of the magnitudes, "
        "*entropy* is the method of TensorRT's calibrator (2048 bins, 128 levels), *mean square* "
        "the range with the least mean square error. The picture has the bundled x4 at the edge "
        "from black to white, as an 8 bit file would show it.",
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
        "trunk as it is, or times what norm1 multiplies it by (other channels of a Concat by 1). "
        "*Share*: how much of the unevenness of channels the activations give up; shipped is 0.9.",
    ),
    "photographs": (
        "Photographs",
        "How many photographs the ranges come from, whole or as tiles from their middles (px of "
        "the reduced photograph); all are measured on whole images. The drawn inputs are the same "
        "in each row; the first row is 16 photographs, whole.",
    ),
    "programs": (
        "Other programs",
        "Each with its defaults, calibrated on the same photographs, on the network with its "
        "normalizations and its tail as they are. ONNX Runtime's `quantize_static`, after its "
        "`quant_pre_process`; NVIDIA Model Optimizer {modelopt} with its default method, entropy, "
        "and with max, in float32 where it is not INT8. *Quantized tensors* are those that are "
        "rounded at run time; *TensorRT for RTX*: whether the parser of {tensorrt_rtx} takes it.",
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
        "[its JSON](quantization.json). What they mean:",
        "[quantization](../explanation/quantization.md).",
        "",
        f"The bundled networks, calibrated on {photographs} photographs, whole, where nothing else",
        "is said. INT8 are all convolutions but those that read the image and, of factor 2, the",
        "tail; the strips at the border of the tail are float32. *Lost* is mean PSNR-Y in dB over",
        "a set, of the float32 model less of the lowered one; negative is a gain. *To float32* is",
        "the PSNR of the lowered output against the float32 output, over all pixels of a set.",
        f"*Gates* are those that fail, on {gated} of the calibration's photographs and the drawn",
        "inputs, with what was measured and what is allowed.",
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
