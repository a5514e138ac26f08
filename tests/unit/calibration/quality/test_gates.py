"""Each gate fails for a planted defect of its kind, in a bundled model, and passes for INT8."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from _support.planted import fold_without_border
from adadm.calibration.quality.acceptance import accept, check_gates
from adadm.calibration.quality.gates import (
    GATES,
    GateResult,
    Run,
    compare_with_bicubic,
    measure_gates,
)
from adadm.calibration.quality.photographs import Photograph
from adadm.export.proof.drawn_pictures import flats
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.errors import CalibrationError
from adadm.runtime.images.arrays import Batch, batch_from_image, enlarge, reduce
from adadm.runtime.images.metrics import psnr_y
from adadm.runtime.models.bundled import bundled_path
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

UPSCALE, WHITE = 2, 255.0
TAIL_INPUT = "add"  # the trunk's output, which the collapsed tail reads


def load() -> onnx.ModelProto:
    return onnx.load(bundled_path("x2"))


def opened(model: onnx.ModelProto) -> Run:
    session = OnnxRuntimeSession(model.SerializeToString())
    return lambda lr: session.run({"lr": lr})["sr"]


@functools.cache
def chosen() -> list[Photograph]:
    """Odd sizes, from the middle of each photograph."""
    results = []
    for name, image in photographs().items():
        top, left = (image.shape[0] - 146) // 2, (image.shape[1] - 190) // 2
        hr = image[top : top + 146, left : left + 190]
        results.append(Photograph(name, name, hr, reduce(hr, UPSCALE)))
    return results


@functools.cache
def reference() -> Run:
    run = opened(load())
    outputs: dict[bytes, Batch] = {}

    def remembered(lr: Batch) -> Batch:
        key = repr(lr.shape).encode() + lr.tobytes()
        if key not in outputs:
            outputs[key] = run(lr)
        return outputs[key]

    return remembered


def gates_of(lowered: Run) -> dict[str, GateResult]:
    results = measure_gates(reference(), lowered, chosen(), rgb_range=WHITE, upscale=UPSCALE)
    assert [result.gate for result in results] == list(GATES)
    return {result.gate.name: result for result in results}


def with_nodes(
    tensor_nodes: Callable[[str], list[onnx.NodeProto]], *tensors: str
) -> onnx.ModelProto:
    """The model whose convolutions and slices read `NAME.new` in place of a tensor NAME."""
    model = load()
    nodes = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "Slice") and node.input[0] in tensors:
            node.input[0] += ".new"
        nodes.append(node)
        for tensor in set(node.output) & set(tensors):
            nodes += tensor_nodes(tensor)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@functools.cache
def largest_activations() -> dict[str, float]:
    """Of what the trunk's convolutions and the tail read, on photographs and flat colours."""
    model = load()
    names = [node.input[0] for node in model.graph.node if node.name.startswith("body.")]
    names = [*dict.fromkeys(names), TAIL_INPUT]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    session = OnnxRuntimeSession(model.SerializeToString())
    largest = dict.fromkeys(names, 0.0)
    for image in (*(photo.lr for photo in chosen()), *flats(24, 24).values()):
        outputs = session.run({"lr": batch_from_image(image, WHITE)})
        for name in names:
            largest[name] = max(largest[name], float(np.abs(outputs[name]).max()))
    return largest


def constant(name: str, value: float) -> onnx.NodeProto:
    tensor = helper.make_tensor("", TensorProto.FLOAT, (), [value])
    return helper.make_node("Constant", [], [name], value=tensor)


def rounded_to(steps: int, *tensors: str) -> onnx.ModelProto:
    """Tensors rounded to so many steps of either sign, symmetrically, and cut at the last."""

    def nodes(name: str) -> list[onnx.NodeProto]:
        bounds = {"scale": largest_activations()[name] / steps, "low": -steps, "high": steps}
        scale, *cut = (f"{name}.{bound}" for bound in bounds)
        return [
            *(constant(f"{name}.{bound}", value) for bound, value in bounds.items()),
            helper.make_node("Div", [name, scale], [f"{name}.divided"]),
            helper.make_node("Round", [f"{name}.divided"], [f"{name}.round"]),
            helper.make_node("Clip", [f"{name}.round", *cut], [f"{name}.cut"]),
            helper.make_node("Mul", [f"{name}.cut", scale], [f"{name}.new"]),
        ]

    return with_nodes(nodes, *tensors)


def int8_trunk() -> onnx.ModelProto:
    """As a healthy INT8 model computes: the trunk's inputs to 8 bits, its weights by channel."""
    inputs = [name for name in largest_activations() if name.startswith("body.")]
    model = rounded_to(127, *inputs)
    for weight in model.graph.initializer:
        if weight.name.startswith("body.") and weight.name.endswith("weight"):
            values = numpy_helper.to_array(weight)
            scale = np.abs(values).max(axis=(1, 2, 3), keepdims=True) / 127
            rounded = (np.rint(values / scale) * scale).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(rounded, weight.name))
    return model


def shift_folded_without_border() -> onnx.ModelProto:
    model = load()
    fold_without_border(model, "norm2")
    return model


def tail_cut() -> onnx.ModelProto:
    """Ranges too narrow for edges: the tail's input is cut at 0.6 of its largest."""
    largest = largest_activations()[TAIL_INPUT]
    bounds = {"low": -0.6 * largest, "high": 0.6 * largest}

    def nodes(name: str) -> list[onnx.NodeProto]:
        constants = [constant(bound, at) for bound, at in bounds.items()]
        return [*constants, helper.make_node("Clip", [name, *bounds], [f"{name}.new"])]

    return with_nodes(nodes, TAIL_INPUT)


def offset_where_flat(lr: Batch) -> Batch:
    """A modulator without a guard: its factor is off where the deviation vanishes."""
    return reference()(lr) + np.float32(6 if lr.std(axis=(2, 3)).max() < 1 else 0)


def pattern(lr: Batch) -> Batch:
    """A chequered pattern of 2 levels, as of sub-pixels that are quantised apart."""
    sr = reference()(lr)
    y, x = np.indices(sr.shape[2:])
    return sr + np.where((y + x) % 2, np.float32(2), np.float32(-2))


def tint(lr: Batch) -> Batch:
    sr = reference()(lr).copy()
    sr[:, 2] += np.float32(0.9)
    return sr


def test_a_healthy_int8_model_passes() -> None:
    results = gates_of(opened(int8_trunk()))
    check_gates(results.values())
    # as measured, with room
    expected = {"border": 1.0, "mean shift": 0.1, "banding": 1.0}
    expected |= {"flat level": 4.0, "flat structure": 0.6, "ringing": 7.0}
    for name, result in results.items():
        assert 0 < abs(result.figure) < expected[name], result


def test_the_reference_itself_passes() -> None:
    results = gates_of(reference())
    check_gates(results.values())
    assert all(result.figure == 0 for result in results.values())


@pytest.mark.parametrize(
    ("worse", "gate", "least"),
    [
        (shift_folded_without_border, "border", 5),
        (lambda: rounded_to(2**4 - 1, TAIL_INPUT), "banding", 10),
        (lambda: rounded_to(2**5 - 1, TAIL_INPUT), "banding", 10),
        (tail_cut, "ringing", 20),
    ],
    ids=["wrong border", "5 bits", "6 bits", "cut edges"],
)
def test_a_model_made_worse_fails(
    worse: Callable[[], onnx.ModelProto], gate: str, least: float
) -> None:
    result = gates_of(opened(worse()))[gate]
    assert not result.passed and result.figure > least


def test_a_border_below_rounding_passes() -> None:
    """In FP16 the border may be ten times worse than nothing."""

    def lowered(lr: Batch) -> Batch:
        sr = reference()(lr).copy()
        sr[..., 0, :] += np.float32(0.1)
        return sr

    assert 0 < gates_of(lowered)["border"].figure < 0.1


def test_a_tint_fails() -> None:
    result = gates_of(tint)["mean shift"]
    assert not result.passed and result.where.startswith("blue of ")
    assert result.figure == pytest.approx(0.9, abs=0.05)  # less where it is clipped


@pytest.mark.parametrize(("step", "passes"), [(2, True), (8, False)])
def test_banding_is_the_step_of_a_quantised_output(step: int, passes: bool) -> None:
    result = gates_of(lambda lr: np.rint(reference()(lr) / step) * np.float32(step))["banding"]
    assert result.passed == passes
    assert 0.5 * step < result.figure <= step + 0.1


@pytest.mark.parametrize(
    ("lowered", "gate", "figure"),
    [(offset_where_flat, "flat level", 6), (pattern, "flat structure", 2)],
)
def test_a_fault_of_flat_images_fails_one_gate(lowered: Run, gate: str, figure: float) -> None:
    results = gates_of(lowered)
    assert [name for name, result in results.items() if not result.passed] == [gate]
    assert results[gate].figure == pytest.approx(figure, abs=1e-3)


def test_a_failure_names_gate_figure_threshold_and_remedy() -> None:
    with pytest.raises(
        CalibrationError, match=r"mean shift is 0\.\d\d levels \(blue of .*limit 0\.5: a bias"
    ):
        check_gates(gates_of(tint).values())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_fails_at_once(value: float) -> None:
    def lowered(lr: Batch) -> Batch:
        return np.where(lr.std() == 0, np.float32(value), reference()(lr))

    with pytest.raises(CalibrationError, match="grey 0: the output of the lowered model is not"):
        gates_of(lowered)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(CalibrationError, match=r"got \(1, 3, 73, 95\) of the lowered model"):
        gates_of(lambda lr: lr)


def failing(where: Callable[[Batch], bool], value: float = np.nan) -> Run:
    """The reference, but for inputs on which it returns so many times what it should."""
    return lambda lr: reference()(lr) * np.float32(value if where(lr) else 1)


SKY = np.array([110, 160, 220])


@pytest.mark.parametrize(
    ("value", "lost_db"),
    [(np.nan, np.inf), (0.8, 40 - 10 * np.log10(255**2 / np.mean((0.2 * SKY) ** 2)))],
)
def test_an_input_on_which_float32_fails_is_a_failed_result(value: float, lost_db: float) -> None:
    """Whether it is not finite or only wrong; until the input is accepted by its name."""
    bricks = failing(lambda lr: lr.std() > 0 and np.ptp(lr, axis=(2, 3)).max() == 0, value)
    results = measure_gates(bricks, reference(), chosen(), rgb_range=WHITE, upscale=UPSCALE)
    *gates, sky = [r for r in results if r.gate.name not in ("skin", "leaves", "bricks")]
    assert [result.gate for result in gates] == list(GATES)
    assert all(result.passed for result in gates)
    assert gates[3].left_out == gates[4].left_out == ("skin", "sky", "leaves", "bricks")
    assert gates[2].left_out == gates[5].left_out == ()
    assert sky.gate.name == "sky" and not sky.passed
    assert sky.figure == pytest.approx(lost_db, abs=0.3)
    with pytest.raises(
        CalibrationError, match=r"^float32 itself .*\n  skin is .* limit 1: float32"
    ):
        check_gates(results)
    some = accept(results, ("skin", "sky", "leaves"))
    with pytest.raises(CalibrationError, match=r"lowered:\n  bricks is .*--accept\)$"):
        check_gates(some)
    check_gates(accept(some, ("skin", "sky", "leaves", "bricks")))
    assert json.loads(json.dumps(gates[3].as_json()))["left_out"][1] == "sky"


def test_a_gate_without_inputs_fails_by_itself() -> None:
    """Even where all its inputs are accepted."""
    nowhere = failing(lambda lr: True)
    results = measure_gates(nowhere, reference(), chosen(), rgb_range=WHITE, upscale=UPSCALE)
    assert len(results) == len(GATES) + 17 + len(chosen())
    for result in results[: len(GATES)]:
        assert not result.passed and "no input" in result.where
    lost = [result.gate.name for result in results[len(GATES) :]]
    with pytest.raises(CalibrationError, match=r"border is inf dB \(no input on which"):
        check_gates(accept(results, lost))
    check_gates(accept(results, (*lost, *(gate.name for gate in GATES))))
    bare = measure_gates(reference(), reference(), [], rgb_range=WHITE, upscale=UPSCALE)
    assert [r.gate.name for r in bare if not r.passed] == ["border", "mean shift"]


def test_a_network_is_compared_with_bicubic_interpolation() -> None:
    scores = [psnr_y(enlarge(photo.lr, UPSCALE), photo.hr, UPSCALE) for photo in chosen()]
    mean_db = float(np.mean(scores))
    for better_db, passes in ((0.1, True), (-0.1, False)):
        result = compare_with_bicubic(mean_db + better_db, chosen())
        assert result.figure == pytest.approx(-better_db) and result.passed == passes


def test_figures_do_not_depend_on_the_range() -> None:
    def in_unit_range(run: Run) -> Run:
        return lambda lr: run(lr * np.float32(255)) / np.float32(255)

    expected = gates_of(tint)
    unit = measure_gates(
        in_unit_range(reference()),
        in_unit_range(tint),
        chosen(),
        rgb_range=1.0,
        upscale=UPSCALE,
        size=(31, 47),
    )
    assert unit[1].figure == pytest.approx(expected["mean shift"].figure, abs=1e-3)
    assert unit[3].figure == pytest.approx(0.9, abs=1e-3)
