"""Engines of the bundled models on the GPU that is here, against ONNX Runtime on the CPU."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from functools import cache
from importlib import util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from _support.exports import exported
from _support.parity import assert_parity, photograph_like
from adadm.export import Options
from adadm.runtime import Upscaler
from adadm.runtime.backends import open_session
from adadm.runtime.engines import cuda_runtime
from adadm.runtime.engines.builder import build
from adadm.runtime.engines.engine_session import TensorRTSession
from adadm.runtime.engines.manifest import read_manifest
from adadm.runtime.engines.recipe import Bounds, make_recipe
from adadm.runtime.engines.tensorrt_api import load_tensorrt
from adadm.runtime.engines.tensors import choose_profile
from adadm.runtime.errors import EngineError, SessionError, TilingError
from adadm.runtime.images.arrays import Pixels
from adadm.runtime.models.bundled import VARIANTS, bundled_path, variant_path
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.models.onnx_reader import read_onnx
from adadm.runtime.models.tensor_spec import TensorSpec
from adadm.runtime.targets import TARGETS, Target

pytestmark = pytest.mark.gpu

BOUNDS = [
    Bounds((1, 24, 24), (1, 64, 64), (1, 96, 96)),
    Bounds((1, 64, 64), (2, 128, 128), (2, 160, 192)),
]
# Of both profiles, more than there are contexts; (64, 64) and (96, 96) fit both.
SHAPES = [
    (1, 24, 24),
    (1, 33, 81),
    (1, 96, 96),
    (1, 64, 64),
    (1, 97, 64),
    (2, 64, 70),
    (2, 160, 192),
]
MIB = 1 << 20


def target() -> Target:
    """Of the TensorRT that is installed."""
    if util.find_spec("tensorrt"):
        return TARGETS[f"tensorrt{load_tensorrt('tensorrt').__version__.split('.')[0]}"]
    if not util.find_spec("tensorrt_rtx"):
        pytest.skip("neither TensorRT nor TensorRT for RTX is installed")
    rtx = TARGETS["tensorrt-rtx"]
    if (found := cuda_runtime.compute_capability()) not in rtx.compute_capabilities:
        pytest.skip(f"TensorRT for RTX has no {found}")
    return rtx


Build = Callable[..., Path]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds an engine of a model once, with two profiles or other bounds."""
    folder = tmp_path_factory.mktemp("engines")

    @cache
    def build_once(model: Path, bounds: tuple[Bounds, ...] = tuple(BOUNDS), name: str = "") -> Path:
        engine = folder / f"{name or model.stem}.engine"
        build(make_recipe(read_onnx(model), target(), bounds), engine)
        return engine

    return build_once


@pytest.fixture(scope="module")
def x2(built: Build) -> Path:
    return built(bundled_path("x2"))


def on_cpu(model: Path, feed: dict[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    with open_session(model, backend="cpu") as session:
        (found,) = session.run(feed).values()
        return found


@pytest.mark.parametrize("model", ["x2", "x4"])
@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_parity_at_sizes_of_both_profiles(built: Build, model: str, cuda_graphs: bool) -> None:
    with TensorRTSession(built(bundled_path(model)), cuda_graphs=cuda_graphs) as session:
        (lr,), (sr,) = session.inputs, session.outputs
        assert lr == TensorSpec("lr", (None, 3, None, None), np.dtype(np.float32))
        assert sr == TensorSpec("sr", (None, 3, None, None), np.dtype(np.float32))
        assert session.metadata.upscale == int(model[1])
        chosen = set()
        for shape in SHAPES:
            image = photograph_like(shape)
            chosen.add(choose_profile(session.profiles, {"lr": image.shape}))
            found = session.run({"lr": image})["sr"]
            assert_parity(found, on_cpu(bundled_path(model), {"lr": image}), "float32")
        assert chosen == {0, 1}


def test_profiles_and_sizes_are_those_that_were_asked_for(x2: Path) -> None:
    with TensorRTSession(x2) as session:
        first, second = (profile["lr"] for profile in session.profiles)
        assert (first.minimum, first.maximum) == ((1, 3, 24, 24), (1, 3, 96, 96))
        assert second.optimum == (2, 3, 128, 128)
        assert list(map(str, session.sizes)) == ["24x24 to 96x96 px", "64x64 to 192x160 px"]


def test_runs_of_any_order_give_the_bytes_of_the_first(x2: Path) -> None:
    """The first is plain, the second is captured, others are replayed, until it is forgotten."""
    images = {shape: photograph_like(shape) for shape in SHAPES}
    with TensorRTSession(x2) as session:
        first = {shape: session.run({"lr": image})["sr"] for shape, image in images.items()}
        kept = {shape: sr.copy() for shape, sr in first.items()}
        for _ in range(3):
            for shape, image in images.items():
                for _ in range(3):
                    again = session.run({"lr": image})["sr"]
                    np.testing.assert_array_equal(again, kept[shape])
        for shape, sr in first.items():  # results belong to the caller
            np.testing.assert_array_equal(sr, kept[shape])
    with TensorRTSession(x2, cuda_graphs=False) as session:
        for shape, image in images.items():
            np.testing.assert_array_equal(session.run({"lr": image})["sr"], kept[shape])


def test_a_replay_reads_what_it_is_fed(x2: Path) -> None:
    images = [photograph_like((1, 40, 50)), photograph_like((1, 50, 40)).transpose(0, 1, 3, 2)]
    with TensorRTSession(x2) as session:
        for image in images * 3:
            found = session.run({"lr": image})["sr"]
            assert_parity(found, on_cpu(bundled_path("x2"), {"lr": image}), "float32")


def test_shared_results_are_those_of_the_last_run(x2: Path) -> None:
    dark, bright = np.zeros((1, 3, 30, 30), np.float32), np.full((1, 3, 30, 30), 200, np.float32)
    with TensorRTSession(x2) as session:
        expected = session.run({"lr": dark})["sr"], session.run({"lr": bright})["sr"]
        shared = session.run_shared({"lr": dark})["sr"]
        np.testing.assert_array_equal(shared, expected[0])
        session.run_shared({"lr": bright})
        np.testing.assert_array_equal(shared, expected[1])


def test_a_shape_outside_of_all_profiles_is_refused_and_others_still_run(x2: Path) -> None:
    with TensorRTSession(x2) as session:
        before = session.run({"lr": photograph_like((1, 24, 24))})["sr"]
        for shape in ((1, 23, 24), (1, 97, 63), (3, 64, 64), (1, 161, 64)):
            with pytest.raises(SessionError, match="is outside every profile of the engine"):
                session.run({"lr": photograph_like(shape)})
        np.testing.assert_array_equal(
            session.run({"lr": photograph_like((1, 24, 24))})["sr"], before
        )


def test_all_memory_is_given_back(x2: Path) -> None:
    def use() -> None:
        with TensorRTSession(x2) as session:
            for shape in SHAPES:
                for _ in range(3):
                    session.run({"lr": photograph_like(shape)})
        session.close()  # twice is as good as once
        with pytest.raises(SessionError, match="the session is closed"):
            session.run({"lr": photograph_like(SHAPES[0])})
        gc.collect()

    use()  # what CUDA and TensorRT keep for the process
    free, _ = cuda_runtime.memory()
    for _ in range(5):
        use()
    assert cuda_runtime.memory()[0] >= free - 8 * MIB


def test_what_is_no_engine_is_refused_and_leaves_nothing(x2: Path, tmp_path: Path) -> None:
    flavour = read_manifest(x2).flavour
    broken = tmp_path / "broken.engine"
    broken.write_bytes(x2.read_bytes()[:1000])
    cuda_runtime.Stream().close()
    free, _ = cuda_runtime.memory()
    for _ in range(3):
        with pytest.raises(SessionError, match=r"broken\.engine: .* cannot load it"):
            TensorRTSession(broken, trust=True, flavour=flavour)
    gc.collect()
    assert cuda_runtime.memory()[0] >= free - 8 * MIB
    with pytest.raises(EngineError, match="has no manifest"):
        TensorRTSession(broken)


def test_a_trusted_engine_runs_without_its_manifest(x2: Path, tmp_path: Path) -> None:
    flavour = read_manifest(x2).flavour
    bare = tmp_path / "bare.engine"
    bare.write_bytes(x2.read_bytes())
    image = photograph_like((1, 30, 40))
    with TensorRTSession(bare, trust=True, flavour=flavour) as session:
        assert session.metadata == ModelMetadata()
        found = session.run({"lr": image})["sr"]
    assert_parity(found, on_cpu(bundled_path("x2"), {"lr": image}), "float32")


def test_times_are_of_the_inferences_alone(x2: Path) -> None:
    image = {"lr": photograph_like((2, 160, 192))}
    with TensorRTSession(x2) as session:
        expected = session.run(image)["sr"]
        times = session.measure(image, 0.5)
        assert all(time > 0 and math.isfinite(time) for time in times)
        assert 250 <= sum(times) <= 1000  # they follow each other
        assert len(session.measure(image, 0)) == 1
        np.testing.assert_array_equal(session.run(image)["sr"], expected)


def test_the_runtime_cache_is_written_and_read(
    x2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if target().name != "tensorrt-rtx":
        pytest.skip("TensorRT compiles its kernels when it builds")
    path = tmp_path / "kernels" / "x2.cache"
    image = {"lr": photograph_like((1, 40, 40))}
    with TensorRTSession(x2, runtime_cache=path) as session:
        expected = session.run(image)["sr"]
        assert not path.exists()
    first = path.read_bytes()
    assert first
    with TensorRTSession(x2, runtime_cache=path) as session:
        np.testing.assert_array_equal(session.run(image)["sr"], expected)
    assert list(path.parent.iterdir()) == [path]
    assert caplog.messages == []
    path.write_bytes(b"no cache")
    with TensorRTSession(x2, runtime_cache=path) as session:
        np.testing.assert_array_equal(session.run(image)["sr"], expected)
    assert "was made for another GPU, driver or TensorRT for RTX" in caplog.text
    assert len(path.read_bytes()) > len(b"no cache")


def test_a_model_of_images(built: Build, tmp_path: Path) -> None:
    _, proto, _ = exported("edsr", 2, Options(io="uint8"))
    onnx.save(proto, tmp_path / "images.onnx")
    image = np.random.default_rng(0).integers(0, 256, (1, 40, 52, 3), np.uint8)
    with (
        TensorRTSession(built(tmp_path / "images.onnx", tuple(BOUNDS[:1]))) as session,
        open_session(tmp_path / "images.onnx", backend="cpu") as cpu,
    ):
        assert session.inputs[0].dtype == np.uint8
        assert list(map(str, session.sizes)) == ["24x24 to 96x96 px"]
        found, expected = (s.run({"lr": image})["sr"] for s in (session, cpu))
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def scene(height: int, width: int) -> Pixels:
    """Dark, bright, and busy parts."""
    image = photograph_like((1, height, width), 65535)[0].transpose(1, 2, 0)
    image[: height // 2, : width // 2] /= 20
    pixels: Pixels = image.astype(np.uint16)
    return pixels


@pytest.fixture(scope="module")
def variants(built: Build) -> Path:
    """Of x2, all three: the whole up to 96 px, tiles up to 64 px."""
    for_tiles = Bounds((1, 32, 32), (1, 64, 64), (1, 64, 64))
    for variant in VARIANTS:
        whole = variant == "whole"
        bounds = Bounds((1, 24, 24), (1, 64, 64), (1, 96, 96)) if whole else for_tiles
        name = "variants" if whole else f"variants.{variant}"
        engine = built(variant_path(bundled_path("x2"), variant), (bounds,), name)
    return engine.with_name("variants.engine")


@pytest.mark.parametrize("size", [(90, 96), (110, 140), (64, 200)])
def test_an_image_of_any_size_is_that_of_the_cpu(variants: Path, size: tuple[int, int]) -> None:
    image = scene(*size)
    with Upscaler("x2", backend="cpu", tile="off") as whole:
        expected = whole.upscale(image)
    with Upscaler(variants, passes="settle") as upscaler:
        assert upscaler.backend == "engine"
        plan = upscaler.plan(*size)
        assert plan.is_whole == (max(size) <= 96)
        assert plan.is_whole or plan.shape == (64, 64)
        found = upscaler.upscale(image)
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 0.03 * 257


def test_an_image_below_the_engines_is_refused(variants: Path) -> None:
    with Upscaler(variants) as upscaler, pytest.raises(TilingError, match="the image has 300x20"):
        upscaler.upscale(scene(20, 300))


def test_the_device_is_known() -> None:
    assert cuda_runtime.compute_capability().startswith("SM")
    assert cuda_runtime.device_name()
    free, total = cuda_runtime.memory()
    assert 0 < free <= total
    assert cuda_runtime.driver_version() is not None
