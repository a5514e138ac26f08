"""Half precision: types, range and quality of whole networks, built by TensorRT for RTX."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from importlib import resources
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxsim
import pytest
from onnx import TensorProto

from _support.exports import exported, exported_tiles
from _support.networks import make_non_neutral, random_edsr
from _support.parity import photograph_like
from _support.profiles import tile_profile
from _support.slow import slow_unless
from adadm.calibration.passes import LowerToHalf, QuantizeConvolutions, ScaleTrunk
from adadm.calibration.target_forms.float16_emulation import rounded_to_half
from adadm.export import Options, collapse_tail, fold_batch_norm
from adadm.export.assembly import bake_image_io
from adadm.export.graph.opset import set_opset
from adadm.export.passes import InlineFunctions
from adadm.export.proof.sample_photographs import photographs
from adadm.export.tracing import trace
from adadm.runtime.engines.tensorrt_api import Profile, Settings, build_engine
from adadm.runtime.images.arrays import batch_from_image, crop_to_multiple, image_from_batch, reduce
from adadm.runtime.images.metrics import psnr_y
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

Array = npt.NDArray[np.float32]
Form = Callable[[onnx.ModelProto], onnx.ModelProto]

DYNAMIC = {"lr": Profile((1, 3, 16, 16), (1, 3, 64, 64), (2, 3, 256, 256))}
SIZE = (2, 23, 30)
HALF, SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT
MOST_LOST_DB = 0.001
LARGEST_ERROR = 3e-3  # of the peak; a float16 has 11 bits, 5e-4

upscales = pytest.mark.parametrize(
    ("architecture", "upscale"), [("edsr", 2), ("rdn", 3), ("nlsn", 2)]
)


def lowered(model: onnx.ModelProto, wide: Collection[str] = ()) -> onnx.ModelProto:
    graph: ir.Model = ir.from_proto(model)
    assert LowerToHalf(wide)(graph).modified
    return _checked(graph)


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    graph: ir.Model = ir.from_proto(model)
    InlineFunctions()(graph)
    return _checked(graph)


def _checked(graph: ir.Model) -> onnx.ModelProto:
    model: onnx.ModelProto = ir.to_proto(graph)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return model


def run(model: onnx.ModelProto, feed: dict[str, npt.NDArray[Any]]) -> Array:
    (output,) = OnnxRuntimeSession(model.SerializeToString()).run(feed).values()
    return output


def build(model: onnx.ModelProto, profile: dict[str, Profile] | None = None) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    profiles = [profile] if profile else []
    assert build_engine(
        model.SerializeToString(), profiles, "rtx", settings=Settings(("SM89",))
    ).plan


def unchanged(model: onnx.ModelProto) -> onnx.ModelProto:
    return model


BUILT = [
    *(("edsr", 2, Options(opset=opset)) for opset in (17, 19)),
    *(("edsr", 2, Options(static=(1, 40, 56), opset=opset)) for opset in (17, 19)),
    ("rdn", 3, Options()),
    ("nlsn", 2, Options()),
]


@pytest.mark.parametrize(
    ("architecture", "upscale", "options", "form"),
    slow_unless(
        lambda *case: case == (*BUILT[2], inlined),
        [(*case, form) for case in BUILT for form in (unchanged, inlined)],
    ),
)
def test_builds(architecture: str, upscale: int, options: Options, form: Form) -> None:
    _, model, _ = exported(architecture, upscale, options)
    build(form(lowered(model)), None if options.static else DYNAMIC)


@upscales
def test_is_near_float32(architecture: str, upscale: int) -> None:
    network, model, _ = exported(architecture, upscale, Options())
    lr = photograph_like(SIZE, network.rgb_range)
    expected = run(model, {"lr": lr})
    found = run(rounded_to_half(lowered(model)), {"lr": lr})
    errors = np.abs(found - expected)
    # Attention sorts pixels by an argmax, and each that falls on the other side differs visibly.
    error = np.quantile(errors, 0.99) if architecture == "nlsn" else errors.max()
    assert 1e-5 < error / np.abs(expected).max() < LARGEST_ERROR


@pytest.mark.parametrize("fold", ["exact", "off"])
def test_statistics_are_float32_and_the_trunk_is_half(fold: Literal["exact", "off"]) -> None:
    _, model, _ = exported("edsr", 2, Options(fold=fold))
    graph: ir.Model = ir.from_proto(inlined(lowered(model)))
    common.ShapeInferencePass()(graph)
    types: dict[str, set[ir.DataType | None]] = {}
    for node in graph.graph:
        types.setdefault(node.op_type, set()).update(value.dtype for value in node.outputs)
    for statistic in ("ReduceMean", "ReduceSumSquare", "ReduceSum", "Sqrt", "Log", "Exp"):
        assert types[statistic] == {SINGLE}
    assert types.get("BatchNormalization", {SINGLE}) == {SINGLE}
    assert types["Conv"] == types["Relu"] == types["DepthToSpace"] == {HALF}
    assert [i.dtype for i in (*graph.graph.inputs, *graph.graph.outputs)] == [SINGLE, SINGLE]


@pytest.mark.parametrize("lower_first", [True, False])
def test_images_in_and_out(lower_first: bool) -> None:
    network, model, _ = exported("edsr", 2, Options(static=(1, 40, 56)))
    baked = bake_image_io(model, network, Options())
    image = photograph_like((1, 40, 56)).transpose(0, 2, 3, 1).round().astype(np.uint8)
    expected = run(baked, {"lr": image}).astype(int)
    half = bake_image_io(lowered(model), network, Options()) if lower_first else lowered(baked)
    nodes = [node.op_type for node in half.graph.node]
    assert (nodes[0], nodes[-1]) == ("Cast", "Cast")
    found = run(rounded_to_half(half), {"lr": image})
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1
    build(half)


@pytest.mark.parametrize(
    ("architecture", "form"),
    slow_unless(
        lambda *case: case == ("edsr", inlined),
        itertools.product(("edsr", "nlsn"), (unchanged, inlined)),
    ),
)
def test_models_for_tiles(architecture: str, form: Form) -> None:
    network, _, tiles = exported_tiles(architecture, 2, Options())
    batch, height, width = SIZE
    blocks = int(network.hyperparameters["blocks"])
    feed = {
        "lr": photograph_like(SIZE, network.rgb_range),
        "std": np.zeros((batch, blocks, 1, 1), np.float32),
        "rows_inside": np.ones((batch, 1, height, 1), np.float32),
        "columns_inside": np.ones((batch, 1, 1, width), np.float32),
    }
    for model in (tiles.moments, tiles.tile):
        half = form(lowered(model))
        assert {v.type.tensor_type.elem_type for v in half.graph.input} == {TensorProto.FLOAT}
        needed = {v.name: feed[v.name] for v in model.graph.input}
        expected = run(model, needed)
        found = run(rounded_to_half(half), needed)
        scale = np.abs(expected).max(axis=(0, 1) if expected.ndim == 3 else None)
        assert np.quantile(np.abs(found - expected) / scale, 0.99) < LARGEST_ERROR
        build(half, tile_profile(model))
        if model is tiles.moments:
            count, _, squares = expected.transpose(2, 0, 1)
            feed["std"] = np.sqrt(squares / (count - 1))[..., None, None]


@upscales
def test_a_scaled_trunk_computes_the_same(architecture: str, upscale: int) -> None:
    network, model, _ = exported(architecture, upscale, Options())
    graph: ir.Model = ir.from_proto(model)
    assert ScaleTrunk(-5)(graph).modified
    lr = photograph_like(SIZE, network.rgb_range)
    expected = run(model, {"lr": lr})
    found = run(_checked(graph), {"lr": lr})
    assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-6


def ranges(model: ir.Model, lr: Array) -> dict[str, float]:
    """The largest magnitude of every float value on an input."""
    watched: ir.Model = ir.from_proto(ir.to_proto(model))
    outputs = [v for node in watched.graph for v in node.outputs if v.dtype == SINGLE]
    watched.graph.outputs.extend(v for v in outputs if not v.is_graph_output())
    session = OnnxRuntimeSession(ir.to_proto(watched).SerializeToString())
    return {name: float(np.abs(v).max()) for name, v in session.run({"lr": lr}).items()}


def wide_network() -> ir.Model:
    """Of rgb_range 255, its features too large for float16, with large gammas."""
    network = random_edsr(2, rgb_range=255)
    for parameter in network.get_submodule("head").parameters():
        parameter.data *= 512
    for parameter in network.get_submodule("tail").parameters():
        parameter.data /= 512**0.5
    make_non_neutral(network, seed=1, residual_gain=0.2)
    for name, parameter in network.named_parameters():
        if "norm1" in name:
            parameter.data *= 8
    model = trace(network)
    fold_batch_norm(model)
    collapse_tail(model)
    set_opset(model, 19)
    common.ShapeInferencePass()(model)
    return model


def test_large_features_overflow_when_converted_naively_and_not_when_scaled() -> None:
    model = wide_network()
    lr = photograph_like(SIZE)
    expected = run(ir.to_proto(model), {"lr": lr})
    plain = ir.to_proto(model)
    assert not np.isfinite(run(rounded_to_half(lowered(plain)), {"lr": lr})).all()

    before = ranges(model, lr)
    large = [name for name, largest in before.items() if largest > 2**14]
    exponent = -int(np.ceil(np.log2(max(before.values()) / 2**10)))
    assert ScaleTrunk(exponent)(model).modified
    after = ranges(model, lr)
    for name in large:
        np.testing.assert_allclose(after[name], before[name] * 2.0**exponent, rtol=1e-4)

    for half in (lowered(plain, large), lowered(ir.to_proto(model))):
        found = run(rounded_to_half(half), {"lr": lr})
        assert np.abs(found - expected).max() / np.abs(expected).max() < LARGEST_ERROR


def test_quantized_convolutions_stay_quantized() -> None:
    _, model, _ = exported("edsr", 2, Options())
    graph: ir.Model = ir.from_proto(model)
    names = [str(n.name) for n in graph.graph if n.op_type == "Conv" and "body" in str(n.name)]
    QuantizeConvolutions(dict.fromkeys(names, 0.5), dict.fromkeys(names, np.zeros(12)))(graph)
    lr = photograph_like(SIZE)
    expected = run(ir.to_proto(graph), {"lr": lr})
    half = lowered(ir.to_proto(graph))
    assert np.abs(run(rounded_to_half(half), {"lr": lr}) - expected).max() < 0.05 * 255
    simplified, _ = onnxsim.simplify(half, skip_fuse_bn=True)
    for form in (half, simplified):
        kinds = [node.op_type for node in form.graph.node]
        assert kinds.count("DequantizeLinear") == 2 * kinds.count("QuantizeLinear") == 14
    build(half, DYNAMIC)


@pytest.mark.parametrize("upscale", slow_unless(lambda upscale: upscale == 4, [2, 4]))
def test_the_bundled_models_lose_no_quality(upscale: int) -> None:
    name = f"edsr_adadm_x{upscale}.onnx"
    model = onnx.load_from_string((resources.files("adadm.runtime.models") / name).read_bytes())
    sessions = [
        OnnxRuntimeSession(form.SerializeToString())
        for form in (model, rounded_to_half(lowered(model)))
    ]
    lost = []
    for photo in photographs().values():
        hr = crop_to_multiple(photo, upscale)
        lr = batch_from_image(reduce(hr, upscale), 255)
        single, half = (
            psnr_y(image_from_batch(session.run({"lr": lr})["sr"], 255), hr, upscale)
            for session in sessions
        )
        lost.append(single - half)
    assert any(lost) and np.mean(lost) <= MOST_LOST_DB
