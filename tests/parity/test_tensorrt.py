"""TensorRT for RTX parses and builds what we export; it needs no GPU for that."""

from __future__ import annotations

import itertools
from importlib import resources
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from _support.exports import exported, exported_tiles
from _support.profiles import DYNAMIC, built, tile_profile
from _support.refused import int32_bias
from _support.slow import slow_unless
from _support.tails import random_tail, tail_graph
from adadm.export import Options, collapse_tail
from adadm.export.assembly import bake_image_io
from adadm.export.networks.blocks import linear_tail
from adadm.runtime.engines.tensorrt_api import Profile, Settings, parse
from adadm.runtime.errors import EngineError

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


FORMS = list(
    itertools.product(("function", "inline"), (17, 19), (None, (1, 40, 56)), ("exact", "off"))
)
EACH_VALUE_ONCE = [FORMS[4], FORMS[-5]]
LIMIT = 0.6
"""Of the modulators, as usual exports have one; other tests here build modulators without."""


@pytest.mark.parametrize(
    ("modulator", "opset", "static", "fold"),
    slow_unless(lambda *form: form in EACH_VALUE_ONCE, FORMS),
)
def test_builds(
    modulator: Literal["function", "inline"],
    opset: int,
    static: tuple[int, int, int] | None,
    fold: Literal["exact", "off"],
) -> None:
    options = Options(modulator=modulator, opset=opset, static=static, fold=fold, factors=True)
    _, model, _ = exported("edsr", 2, options, LIMIT)
    engine = built(model, None if static else DYNAMIC)
    weights = sum(numpy_helper.to_array(i).nbytes for i in model.graph.initializer)
    assert len(engine.plan) > weights / 2


@pytest.mark.slow
@pytest.mark.parametrize("upscale", [2, 4])
def test_builds_the_bundled_models(upscale: int) -> None:
    for form in ("", ".tile", ".moments"):
        name = f"edsr_adadm_x{upscale}{form}.onnx"
        model = onnx.load(str(resources.files("adadm.runtime.models") / name))
        assert len(built(model, tile_profile(model) if form else DYNAMIC).plan) > 1e6


@pytest.mark.parametrize("upscale", slow_unless(lambda upscale: upscale == 3, [3, 4]))
def test_builds_every_factor_for_several_gpus(upscale: int) -> None:
    _, model, _ = exported("edsr", upscale, Options())
    assert built(model, DYNAMIC, Settings(("SM86", "SM120"))).plan


@pytest.mark.parametrize(
    ("architecture", "opset"),  # rgb_range 255 and 1
    slow_unless(
        lambda *form: form in [("edsr", 17), ("nlsn", 19)],
        itertools.product(("edsr", "nlsn"), (17, 19)),
    ),
)
def test_builds_images_in_and_out(architecture: str, opset: int) -> None:
    _, model, _ = exported(architecture, 2, Options(io="uint8", opset=opset, static=(1, 40, 56)))
    nodes = [node.op_type for node in model.graph.node]
    assert (nodes[0], nodes[-1]) == ("Cast", "Cast")
    assert built(model, None).plan


@pytest.mark.parametrize(
    ("modulator", "opset", "io"),
    slow_unless(
        lambda *form: form in [("function", 19, "float32"), ("inline", 17, "uint8")],
        itertools.product(("function", "inline"), (17, 19), ("float32", "uint8")),
    ),
)
def test_builds_the_models_for_tiles(
    modulator: Literal["function", "inline"], opset: int, io: Literal["float32", "uint8"]
) -> None:
    options = Options(modulator=modulator, opset=opset, io=io)
    network, _, tiles = exported_tiles("edsr", 2, options, LIMIT)
    read = {"tile": {"lr", "std"}, "moments": {"lr", "std", "rows_inside", "columns_inside"}}
    for form, inputs in read.items():
        model = getattr(tiles, form)
        if io == "uint8":
            model = bake_image_io(model, network, options)
        profile = tile_profile(model)
        assert profile.keys() == inputs
        engine = built(model, profile)
        weights = sum(numpy_helper.to_array(i).nbytes for i in model.graph.initializer)
        assert len(engine.plan) > weights / 2


@pytest.mark.parametrize("fold", slow_unless(lambda fold: fold == "exact", ["exact", "off"]))
def test_builds_the_models_for_tiles_of_one_size(fold: Literal["exact", "off"]) -> None:
    _, _, tiles = exported_tiles("edsr", 2, Options(static=(1, 40, 56), fold=fold))
    for model in (tiles.tile, tiles.moments):
        assert built(model, None).plan


def test_the_collapsed_tail_takes_a_fraction_of_the_memory() -> None:
    """Of the tail alone; docs/results/performance.md has whole networks."""
    shape = (1, 64, 270, 480)
    original = tail_graph(random_tail(0, linear_tail(4, 64)), 64, np.float32)
    collapsed = tail_graph(random_tail(0, linear_tail(4, 64)), 64, np.float32)
    assert collapse_tail(collapsed).result
    before, after = (
        built(
            ir.to_proto(model),
            {"features": Profile(shape, shape, shape)},
            Settings(("SM89",), detailed=True),
        )
        for model in (original, collapsed)
    )
    assert before.activation_bytes and after.activation_bytes and before.layers and after.layers
    assert before.activation_bytes[0] > 6 * after.activation_bytes[0]
    # the image, before and after shuffling
    assert after.activation_bytes[0] >= 2 * 4 * 48 * 270 * 480


def test_what_should_be_refused_is_refused_by_name() -> None:
    model = int32_bias()
    onnx.checker.check_model(model, full_check=True)
    with pytest.raises(EngineError, match=r"refuses the model:\n  node dequant"):
        parse(model.SerializeToString(), "rtx")


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(EngineError, match="is not a complete ONNX model"):
        parse(b"not a model", "rtx")


def test_a_missing_profile_and_an_unknown_gpu_are_refused() -> None:
    _, model, _ = exported("edsr", 2, Options())
    with pytest.raises(EngineError, match=r"(?s)cannot build the model:.*profile"):
        built(model, None)
    with pytest.raises(EngineError, match=r"expected compute capability SM.*, got SM1"):
        built(model, DYNAMIC, Settings(("SM1",)))
