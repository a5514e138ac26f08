"""Where a model goes wrong: found for defects made on purpose, and in no healthy model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest
from onnx import numpy_helper

from _support.lowered import images_x2, lowered_x2, source_x2
from _support.slow import slow_unless
from adadm.calibration.lowering import Lowering, LoweringOptions, Precision
from adadm.calibration.passes import ScaleTrunk
from adadm.calibration.source_network import SourceNetwork
from adadm.calibration.target_forms.target_model import deploy
from adadm.deployment.certification.layers.compare import LayerComparison, compare_layers
from adadm.deployment.certification.layers.divergence import first_divergence
from adadm.export.assembly import assemble, bake_image_io
from adadm.export.graph.channels import (
    affine_of_batch_norm,
    reached_convolutions,
    scale_inputs,
    shift_inputs,
)
from adadm.export.graph.rewriting import is_batch_norm, replace
from adadm.export.options import DEFAULTS
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.errors import CalibrationError
from adadm.runtime.images.arrays import Batch, batch_from_image
from adadm.runtime.models.bundled import variant_path
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.targets import TARGETS

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Edit = Callable[[onnx.ModelProto], None]

TARGET = {"int8": "tensorrt10", "fp16": "tensorrt10", "float32": "cpu"}


NORMALIZATIONS = {f"body.{block}.norm2" for block in range(8)}


@dataclass(frozen=True)
class Bench:
    """Healthy models of one network, and what they are compared with.

    Attributes:
        feeds: other parts of the photographs than those that the models were calibrated on.
        models: by precision.
    """

    folder: Path
    source: SourceNetwork
    reference: onnx.ModelProto
    feeds: list[Batch]
    models: dict[str, onnx.ModelProto]

    def evaluated(self, model: onnx.ModelProto, target: str) -> onnx.ModelProto:
        onnx.save(model, self.folder / "deployed.onnx")
        return deploy(self.folder / "deployed.onnx", TARGETS[target]).evaluated

    def compare(self, model: onnx.ModelProto, target: str) -> LayerComparison:
        return compare_layers(self.reference, self.evaluated(model, target), self.feeds)

    def assembled(self, **changed: Any) -> onnx.ModelProto:
        options = dataclasses.replace(DEFAULTS, **changed)
        return assemble(self.source.model.clone(), self.source.metadata, options).model

    def lowering(self, model: ir.Model, precision: Precision, target: str) -> Lowering:
        request = LoweringOptions(precision, TARGETS[target], 0.02)
        return Lowering.of(dataclasses.replace(self.source, model=model), images_x2(), request)

    def damaged(self, precision: str, *edits: Edit) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self.models[precision])
        for edit in edits:
            edit(model)
        return model


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("lowered")
    source = source_x2()
    models = {p: onnx.load(lowered_x2(TARGET[p], p)) for p in ("int8", "fp16")}
    photos = photographs(("coffee", "chelsea")).values()
    feeds = [batch_from_image(np.ascontiguousarray(p[40:136:2, 60:172:2]), 255.0) for p in photos]
    made = Bench(folder, source, onnx.ModelProto(), feeds, models)
    models["float32"] = made.assembled()
    return dataclasses.replace(made, reference=made.assembled(factors=True))


@pytest.fixture(scope="module")
def healthy(bench: Bench) -> dict[str, LayerComparison]:
    return {p: bench.compare(model, TARGET[p]) for p, model in bench.models.items()}


def constant(name: str, change: Callable[[Array], Array]) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        names = (name, f"{name}.float16")
        (found,) = (tensor for tensor in model.graph.initializer if tensor.name in names)
        old = numpy_helper.to_array(found)
        changed = change(old.astype(np.float64)).astype(old.dtype)
        found.CopyFrom(numpy_helper.from_array(changed, found.name))

    return edit


BY_ITSELF = r"has an SNR of -?\d+\.\d dB by itself, (\d\d\.\d dB is usual|where others have no err)"
TEXTS = {
    "half": BY_ITSELF + r".*: it returns 0\.[45]\d times what it should; look at the scale of its",
    "cut off": r"up to [12]\.\d\d times its INT8 range, [01]\.\d\d is usual: .* its in",
    "coarse": r"has an SNR of -?\d+\.\d dB when its input is rounded to INT8, \d\d\.\d dB when not",
    "mean": r"the mean of channel 7 is off by .* the std of its output.*; look at its bias",
    "level": r"the mean of channel 7 .* [01]\.\d\d grey levels; look at its bias",
    "modulator": BY_ITSELF + r".*; look at its weight, its bias and its center",
}


@dataclass(frozen=True)
class Defect:
    where: str
    text: str
    edit: Edit


def half_scale(layer: str) -> Defect:
    return Defect(layer, "half", constant(f"{layer}.weight.scale", lambda scale: scale / 2))


def half_weights(layer: str) -> Defect:
    return Defect(layer, "half", constant(f"{layer}.weight", lambda weight: weight / 2))


def input_scale(layer: str, text: str, factor: float) -> Defect:
    return Defect(layer, text, constant(f"{layer}.input.scale", lambda scale: scale * factor))


def a_grey_level_up(layer: str, text: str = "mean", levels: float = 1) -> Defect:
    edit = constant(f"{layer}.bias", lambda bias: bias + levels * (np.arange(bias.size) == 7))
    return Defect(layer, text, edit)


def another_b(layer: str) -> Defect:
    def edit(model: onnx.ModelProto) -> None:
        (node,) = (node for node in model.graph.node if node.name == layer)
        (bias,) = (attribute for attribute in node.attribute if attribute.name == "bias")
        bias.f += 0.1

    return Defect(layer, "modulator", edit)


TAIL = "tail.0.0.collapsed"


@pytest.mark.parametrize(
    ("precision", "defects"),
    slow_unless(lambda precision, _: precision == "float32", [
        ("int8", [half_scale("body.0.conv1"), half_scale("body.3.conv2"), another_b("body.4.phi"),
                  half_scale(TAIL)]),
        ("int8", [input_scale("body.4.conv1", "cut off", 0.5),
                  input_scale("body.6.conv1", "coarse", 64), a_grey_level_up(TAIL, "level")]),
        ("int8", [a_grey_level_up("body.3.conv2"), a_grey_level_up("body.8", levels=4)]),
        ("fp16", [another_b("body.0.phi"), half_weights("body.3.conv1"),
                  a_grey_level_up("body.5.conv2"), a_grey_level_up(TAIL, "level")]),
        ("float32", [half_weights("body.0.conv2"), a_grey_level_up("body.4.conv1"),
                     another_b("body.7.phi"), half_weights("body.8"),
                     a_grey_level_up(TAIL, "level")]),
    ]),
    ids=lambda value: value if isinstance(value, str) else value[0].text,
)  # fmt: skip
def test_what_is_wrong_is_named(
    precision: str, defects: list[Defect], bench: Bench, healthy: dict[str, LayerComparison]
) -> None:
    model = bench.damaged(precision, *(defect.edit for defect in defects))
    found = bench.compare(model, TARGET[precision])
    before = {layer.name: layer for layer in healthy[precision].layers}
    # The first is named; without it the second would be, and so on.
    assert found.first_divergence == first_divergence(found.layers)
    rest = found.layers
    for defect in defects:
        place = first_divergence(rest)
        assert place is not None and place.where == defect.where
        assert place.block == before[defect.where].block
        start = rf"{re.escape(defect.where)} \(\w+, {before[defect.where].precision}\) "
        assert re.match(start + ".*" + TEXTS[defect.text], place.text)
        rest = tuple(layer for layer in rest if layer.name != defect.where)
    assert first_divergence(rest) is None
    # What is right has no error of its own, though the errors of the others arrive there.
    for layer in rest:
        least = min(before[layer.name].isolated_db, 60)
        assert min(layer.isolated_db, 60) == pytest.approx(least, abs=0.5), layer.name
    assert found.layers[-1].snr_db < before["sr"].snr_db - 1


@pytest.mark.parametrize("precision", ["int8", "fp16", "float32"])
def test_healthy_models_are_not_accused(
    precision: str, healthy: dict[str, LayerComparison]
) -> None:
    found = healthy[precision]
    assert found.first_divergence is None
    assert found.left_out == ()
    names = [layer.name for layer in found.layers]
    assert names[:6] == [
        "head.0", "body.0.conv1", "body.0.norm2", "body.0.conv2", "body.0.phi", "body.1.conv1",
    ]  # fmt: skip
    assert names[-4:] == ["body.8", "add", "tail.0.0.collapsed", "sr"]
    assert len(names) == 1 + 8 * 4 + 4
    for layer in found.layers:
        in_block = layer.name.startswith("body.") and layer.name != "body.8"
        assert layer.block == (int(layer.name.split(".")[1]) if in_block else None)
        is_int8 = precision == "int8" and layer.kind == "Conv"
        assert layer.precision == ("int8" if is_int8 else precision.replace("int8", "fp16"))
        assert (layer.range_use is not None) == is_int8
        assert layer.isolated_db > {"int8": 16, "fp16": 55, "float32": 120}[layer.precision]


def test_figures_are_those_of_the_whole_models(
    bench: Bench, healthy: dict[str, LayerComparison]
) -> None:
    candidate = bench.evaluated(bench.models["int8"], "tensorrt10")
    tensors = ("body.5.phi", "body.5.norm2")
    sessions = [
        OnnxRuntimeSession(returning(model, *tensors).SerializeToString())
        for model in (bench.reference, candidate)
    ]
    runs = [[session.run({"lr": lr}) for lr in bench.feeds] for session in sessions]
    layers = {layer.name: layer for layer in healthy["int8"].layers}
    for name in ("sr", "body.5.phi"):
        expected, found = (
            np.concatenate([run[name].astype(np.float64) for run in side]) for side in runs
        )
        noise = ((found - expected) ** 2).mean()
        snr_db = 10 * np.log10(expected.var(axis=(0, 2, 3)).mean() / noise)
        assert layers[name].snr_db == pytest.approx(snr_db, abs=0.05)
    # What arrives alone is the reference's, with each channel times what its constant is times.
    scale, after, before = (
        next(numpy_helper.to_array(i) for i in model.graph.initializer if i.name == name)
        for model, name in (
            (candidate, "body.5.conv2.input.scale.float16"),
            (candidate, "body.5.norm2.shift.float16"),
            (bench.reference, "body.5.norm2.shift"),
        )
    )
    largest = max(np.abs(run["body.5.norm2"] * after / before).max() for run in runs[0])
    assert layers["body.5.conv2"].range_use == pytest.approx(largest / (127 * scale), rel=2e-3)


def returning(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """A copy that returns tensors from within too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name in names:
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        copy.graph.output.append(value)
    return copy


def test_of_a_model_with_other_names_the_image_is_compared(
    bench: Bench, healthy: dict[str, LayerComparison]
) -> None:
    candidate = bench.evaluated(bench.models["int8"], "tensorrt10")
    kept = {"", "lr", *(value.name for value in candidate.graph.output)}
    for node in candidate.graph.node:
        for names in (node.input, node.output):
            names[:] = [name if name in kept else f"other/{name}" for name in names]
    for known in (*candidate.graph.initializer, *candidate.graph.value_info):
        known.name = f"other/{known.name}"
    found = compare_layers(bench.reference, candidate, bench.feeds)
    (image,) = found.layers
    assert (image.name, image.precision, image.range_use) == ("sr", "int8", None)
    assert (
        image.isolated_db
        == image.snr_db
        == pytest.approx(healthy["int8"].layers[-1].snr_db, abs=0.1)
    )
    assert len(found.left_out) == len(healthy["int8"].layers) - 1
    assert found.first_divergence is None


AT_BORDER = r"the error is at the border \(-?\d+\.\d dB there, \d\d+\.\d dB inside\); look at its"


@pytest.mark.parametrize(
    ("precision", "folded", "where"),
    slow_unless(
        lambda precision, *_: precision == "float32",
        [
            *((precision, "", "body.0.conv1") for precision in ("int8", "fp16", "float32")),
            ("float32", "body.5.norm2", "body.5.conv2"),
        ],
    ),
)
def test_a_naive_fold_is_found_at_the_border(
    precision: Precision | Literal["float32"], folded: str, where: str, bench: Bench
) -> None:
    naive = naively_folded(bench.source.model, folded)
    if precision == "float32":
        candidate = assemble(naive, bench.source.metadata, DEFAULTS).model
    else:
        lowering = bench.lowering(naive, precision, "tensorrt10")
        int8 = [found.name for found in lowering.convolutions] if precision == "int8" else []
        candidate = lowering.lowered("whole", int8).evaluated
    place = compare_layers(bench.reference, candidate, bench.feeds).first_divergence
    assert place is not None
    assert (place.where, place.block) == (where, int(where.split(".")[1]))
    assert re.search(AT_BORDER, place.text)


def naively_folded(model: ir.Model, prefix: str) -> ir.Model:
    """What looks right and is not: the shift goes into the bias of a padded convolution."""
    naive = model.clone()
    common.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=0)(naive)
    for node in list(naive.graph):
        if is_batch_norm(node) and str(node.name).startswith(prefix):
            affine, read = affine_of_batch_norm(node), node.inputs[0]
            assert read is not None
            for leaf in reached_convolutions(node.outputs[0]):
                shift_inputs(leaf, affine.shift)
                scale_inputs(leaf, affine.scale)
            replace(node.outputs[0], read)
    return naive


@pytest.mark.parametrize(
    ("changed", "left_out"),
    slow_unless(
        lambda changed, _: {"fold", "tail"} <= changed.keys() or "io" in changed,
        [
            ({"fold": "off", "tail": "original"}, {"tail.0.0.collapsed", *NORMALIZATIONS}),
            ({"fold": "off", "modulator": "inline", "opset": 17}, NORMALIZATIONS),
            ({"tail": "original", "static": (1, 48, 56)}, {"tail.0.0.collapsed"}),
            ({"modulator": "inline", "opset": 18, "io": "uint8"}, set()),
        ],
    ),
    ids=lambda value: ", ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_other_forms_of_the_export_are_equal(
    changed: dict[str, Any], left_out: set[str], bench: Bench
) -> None:
    exported = bench.assembled(**changed)
    if changed.get("io") == "uint8":
        assert bench.source.network is not None
        options = dataclasses.replace(DEFAULTS, **changed)
        exported = bake_image_io(exported, bench.source.network, options)
    found = bench.compare(exported, "cpu")
    assert set(found.left_out) == left_out
    assert found.first_divergence is None
    assert {"body.3.conv2", "body.3.phi", "body.8", "sr"} <= {layer.name for layer in found.layers}
    # The std of an inlined modulator is added up in another order.
    assert min(layer.isolated_db for layer in found.layers) > 120


@pytest.mark.slow
def test_weak_typing_and_a_scaled_trunk(bench: Bench) -> None:
    scaled = bench.source.model.clone()
    ScaleTrunk(-5)(scaled)
    target = "jetson-orin-jp51"
    lowering = bench.lowering(scaled, "int8", target)
    int8 = [convolution.name for convolution in lowering.convolutions]
    model = lowering.lowered("whole", int8).model
    found = bench.compare(model, target)
    assert found.first_divergence is None
    assert found.left_out == () and found.is_mapped
    assert {layer.precision for layer in found.layers} == {"int8", "fp16"}
    (maps,) = (entry for entry in model.metadata_props if entry.key == "adadm.channel_maps")
    model.metadata_props.remove(maps)
    without = bench.compare(model, target)
    assert not without.is_mapped and without.first_divergence is not None
    assert without.first_divergence.where == "head.0"
    assert "it returns 0.03 times what it should" in without.first_divergence.text


def test_infinite_values_are_named(bench: Bench) -> None:
    edit = constant("body.2.conv2.bias", lambda bias: np.full_like(bias, np.inf))
    place = bench.compare(bench.damaged("fp16", edit), "tensorrt10").first_divergence
    assert place is not None and place.where == "body.2.conv2"
    assert "values are infinite or NaN" in place.text


def test_models_that_read_more_than_an_image_are_refused(bench: Bench) -> None:
    path = variant_path(lowered_x2("tensorrt10", "fp16"), "tile")
    tile = deploy(path, TARGETS["tensorrt10"]).evaluated
    with pytest.raises(CalibrationError, match=r"reads std besides the image lr.*whole images"):
        compare_layers(bench.reference, tile, bench.feeds)
