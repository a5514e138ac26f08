"""Where a deployed model goes wrong: found for defects made on purpose, and for no healthy model."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest
from onnx import numpy_helper, parser

from _support.lowered import lowered_x2
from _support.scripts import ROOT
from adadm.calibration.certification.layer_errors import LayerErrors
from adadm.calibration.certification.layers import LayerComparison, LayerResult, compare_layers
from adadm.calibration.deployment import deploy
from adadm.calibration.passes import ScaleTrunk
from adadm.calibration.source import Source, load_source
from adadm.export.assembly import DEFAULTS, assemble, bake_image_io
from adadm.export.passes.channels import (
    affine_of_batch_norm,
    reached_convolutions,
    scale_inputs,
    shift_inputs,
)
from adadm.export.passes.folding import is_batch_norm, replace
from adadm.export.photographs import photographs
from adadm.runtime.errors import CalibrationError
from adadm.runtime.images import Batch, batch_from_image
from adadm.runtime.model_files import beside
from adadm.runtime.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.targets import TARGETS

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Edit = Callable[[onnx.ModelProto], None]

TARGET = {"int8": "tensorrt10", "fp16": "tensorrt10", "float32": "cpu"}
IN_A_BLOCK = {f"body.{i}.{layer}" for i in range(8) for layer in ("conv1", "norm2")}


@pytest.fixture(scope="module")
def source() -> Source:
    return load_source(ROOT / "export" / "checkpoints" / "edsr_adadm_x2.safetensors")


@pytest.fixture(scope="module")
def reference(source: Source) -> onnx.ModelProto:
    return assemble(source.model.clone(), source.metadata, DEFAULTS).model


@pytest.fixture(scope="module")
def feeds() -> list[Batch]:
    """Other parts of the photographs than those that the models were calibrated on."""
    photos = photographs(("coffee", "chelsea")).values()
    return [batch_from_image(np.ascontiguousarray(p[40:136:2, 60:172:2]), 255.0) for p in photos]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lowered")


@pytest.fixture(scope="module")
def models(folder: Path, reference: onnx.ModelProto) -> dict[str, onnx.ModelProto]:
    """Healthy, by precision."""
    lowered = {p: onnx.load(lowered_x2(folder, TARGET[p], p)) for p in ("int8", "fp16")}
    return {**lowered, "float32": reference}


@pytest.fixture(scope="module")
def healthy(
    models: dict[str, onnx.ModelProto],
    reference: onnx.ModelProto,
    feeds: list[Batch],
    folder: Path,
) -> dict[str, LayerComparison]:
    return {
        precision: compare_layers(reference, evaluated(model, TARGET[precision], folder), feeds)
        for precision, model in models.items()
    }


def evaluated(model: onnx.ModelProto, target: str, folder: Path) -> onnx.ModelProto:
    onnx.save(model, folder / "deployed.onnx")
    return deploy(folder / "deployed.onnx", TARGETS[target]).evaluated


def constant(name: str, change: Callable[[Array], Array]) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        names = (name, f"{name}.float16")
        (found,) = (tensor for tensor in model.graph.initializer if tensor.name in names)
        old = numpy_helper.to_array(found)
        changed = change(old.astype(np.float64)).astype(old.dtype)
        found.CopyFrom(numpy_helper.from_array(changed, found.name))

    return edit


def halved(name: str) -> Edit:
    return constant(name, lambda values: values / 2)


def a_grey_level_up(convolution: str) -> Edit:
    return constant(f"{convolution}.bias", lambda bias: bias + (np.arange(bias.size) == 7))


def another_b(modulator: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        (node,) = (node for node in model.graph.node if node.name == modulator)
        (bias,) = (attribute for attribute in node.attribute if attribute.name == "bias")
        bias.f += 0.1

    return edit


BY_ITSELF = r"has an SNR of -?\d+\.\d dB by itself, (\d\d\.\d dB is usual|where others have no err)"
HALF = BY_ITSELF + r".*: it returns 0\.[45]\d times what it should; look at the scale of its weig"
CUT_OFF = r"up to [12]\.\d\d times what its INT8 range holds, [01]\.\d\d is usual: .* its input"
OF_CHANNEL_7 = r"the mean of channel 7 is off by .* the std of its output.*; look at its bias"
GREY_LEVEL = r"the mean of channel 7 .* (0\.[89]|1\.[01])\d grey levels; look at its bias"
MODULATOR = BY_ITSELF + r".*; look at its weight, its bias and its center"


@pytest.mark.parametrize(
    ("precision", "where", "edit", "text"),
    [
        ("int8", "body.3.conv2", halved("body.3.conv2.weight.scale"), HALF),
        ("int8", "body.0.conv1", halved("body.0.conv1.weight.scale"), HALF),
        ("int8", "tail.0.0.collapsed", halved("tail.0.0.collapsed.weight.scale"), HALF),
        ("int8", "body.4.conv1", halved("body.4.conv1.input.scale"), CUT_OFF),
        ("int8", "body.3.conv2", a_grey_level_up("body.3.conv2"), OF_CHANNEL_7),
        ("int8", "tail.0.0.collapsed", a_grey_level_up("tail.0.0.collapsed"), GREY_LEVEL),
        ("int8", "body.4.phi", another_b("body.4.phi"), MODULATOR),
        ("fp16", "body.3.conv1", halved("body.3.conv1.weight"), HALF),
        ("fp16", "tail.0.0.collapsed", a_grey_level_up("tail.0.0.collapsed"), GREY_LEVEL),
        ("fp16", "body.0.phi", another_b("body.0.phi"), MODULATOR),
        ("float32", "body.0.conv2", halved("body.0.conv2.weight"), HALF),
        ("float32", "body.8", a_grey_level_up("body.8"), OF_CHANNEL_7),
        ("float32", "body.7.phi", another_b("body.7.phi"), MODULATOR),
    ],
)
"""

"""
