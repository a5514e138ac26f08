"""Tiles against the whole image, on the bundled models."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import numpy.typing as npt
import pytest

from _support.pictures import scene
from _support.repeating_session import RepeatingSession, doubled
from _support.slow import slow_unless
from adadm.runtime import Upscaler
from adadm.runtime.backends import open_session
from adadm.runtime.errors import ImageError, SessionError, TilingError
from adadm.runtime.images.arrays import Pixels, batch_from_image
from adadm.runtime.images.pixel_source import ArrayPixels
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.progress import Progress
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.sessions.session import Session, SizeRange
from adadm.runtime.upscaling import upscaler
from adadm.runtime.upscaling import variants as model_forms
from adadm.runtime.upscaling.memory import memory_models, process_bytes
from adadm.runtime.upscaling.shared_std import Passes
from adadm.runtime.upscaling.tile_plan import Tile, memory_model

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

MODELS = Path(str(resources.files("adadm.runtime.models") / "edsr_adadm_x2.onnx")).parent


X2 = partial(Upscaler, "x2", backend="cpu")


def run(image: Pixels, model: str | Path = "x2", **options: Any) -> Pixels:
    with Upscaler(model, **{"backend": "cpu", **options}) as opened:
        return opened.upscale(image)


@cache
def upscaled(model: str, tile: Tile, passes: Passes = 2, backend: str = "cpu") -> Pixels:
    return run(scene(110, 140), model, tile=tile, passes=passes, backend=backend)


def levels_apart(found: Pixels, expected: Pixels) -> float:
    """The largest difference, in grey levels of 255."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    white = np.iinfo(found.dtype).max
    return float(np.abs(found.astype(int) - expected.astype(int)).max() * 255 / white)


@pytest.mark.parametrize(("model", "upscale"), [("x2", 2), ("x4", 4)])
def test_the_whole_image_is_the_models_own_output(model: str, upscale: int) -> None:
    image = scene(110, 140)
    with open_session(MODELS / f"edsr_adadm_{model}.onnx") as session:
        sr = session.run({"lr": batch_from_image(image, 255)})["sr"][0]
    exact = np.clip(sr.astype(np.float64) * 257, 0, 65535).transpose(1, 2, 0)
    found = upscaled(model, "off")
    assert found.shape == (upscale * 110, upscale * 140, 3) and found.dtype == np.uint16
    assert np.abs(found - exact).max() <= 0.5 + 0.01  # of float32's digits
    # the image itself, enlarged, and not flat
    middles = found[upscale // 2 :: upscale, upscale // 2 :: upscale]
    assert np.corrcoef(middles.ravel(), image.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("model", slow_unless(lambda model: model == "x2", ["x2", "x4"]))
def test_tiles_are_as_good_as_the_whole_image(model: str) -> None:
    """At the default overlap; the exactness that the documentation promises."""
    whole = upscaled(model, "off")
    settled = levels_apart(upscaled(model, 64, "settle"), whole)
    two = levels_apart(upscaled(model, 64), whole)
    one = levels_apart(upscaled(model, 64, 1), whole)
    assert settled <= 0.01
    assert settled < two <= 0.5
    assert one > 1
    assert one > 20 * two


def test_twice_gives_the_same_bytes() -> None:
    image = scene(45, 60)
    with X2(tile=16) as opened:
        once = opened.upscale(image)
        for size in ((30, 45), (40, 40)):  # other images, in tiles and whole, have no say
            opened.upscale(scene(*size, seed=1))
        again = opened.upscale(image)
    assert once.tobytes() == again.tobytes() == run(image, tile=16).tobytes()


def test_8_bits_are_the_16_bits_rounded() -> None:
    image = scene(41, 45, np.uint8)
    with X2(tile=20) as opened:
        found = opened.upscale(image)
        fine = opened.upscale(image.astype(np.uint16) * 257)
    assert found.dtype == np.uint8
    assert np.abs(found - fine / 257).max() <= 0.5 + 0.51 / 257


def test_openvino_gives_the_same() -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    assert levels_apart(upscaled("x2", 64, backend="openvino"), upscaled("x2", 64)) <= 0.02
    assert levels_apart(upscaled("x2", "off", backend="openvino"), upscaled("x2", "off")) <= 0.01


SIZES = [(1, 1), (2, 3), (1, 300), (300, 1), (41, 40), (37, 53), (5, 129)]


@pytest.mark.parametrize("size", SIZES)
def test_any_size_can_be_tiled(size: tuple[int, int]) -> None:
    image = scene(*size, seed=2)
    expected = run(image, tile="off")
    assert expected.shape == (2 * size[0], 2 * size[1], 3)
    with X2(tile=16, passes="settle") as tiled:
        assert tiled.plan(*size).is_whole == (max(size) <= 16 + 2 * tiled.overlap)
        assert levels_apart(tiled.upscale(image), expected) <= 0.01


@pytest.mark.parametrize("level", [0, 65535])
def test_flat_images_stay_without_seams(level: int) -> None:
    """A std of 0 is where the logarithm of a modulator would be minus infinity."""
    image = np.full((30, 45, 3), level, np.uint16)
    whole, tiled = run(image, "x4", tile="off"), run(image, "x4", tile=8, passes="settle")
    assert levels_apart(tiled, whole) <= 0.01


def test_an_image_may_lie_in_memory_in_any_order() -> None:
    image = scene(30, 40, np.uint8)
    with X2(tile=10, passes=1) as opened:
        expected = opened.upscale(image)
        mirrored = np.ascontiguousarray(image[:, ::-1])[:, ::-1]
        for view in (np.asfortranarray(image), mirrored):
            np.testing.assert_array_equal(opened.upscale(view), expected)
        read_only = image.copy()
        read_only.flags.writeable = False
        np.testing.assert_array_equal(opened.upscale(read_only), expected)


@pytest.mark.parametrize("passes", [1, 2, "settle"])
def test_windows_are_counted_up_to_all_of_them(passes: Passes) -> None:
    progress = Mock(spec=Progress)
    with X2(tile=16, passes=passes) as opened:
        plan = opened.plan(50, 70)
        opened.upscale(scene(50, 70), progress=progress)
    calls = [step.args for step in progress.advance.call_args_list]
    assert plan.count == 6
    assert [done for done, _ in calls] == list(range(1, len(calls) + 1))
    assert all(done <= total for done, total in calls)
    assert calls[-1][0] == calls[-1][1]
    totals = [total for _, total in calls]
    assert totals == sorted(totals)  # an image unlike its sample takes more passes
    if passes == 1:
        assert len(calls) == plan.count


def test_rows_come_from_top_to_bottom() -> None:
    image = scene(70, 50)
    with X2(tile=16) as opened:
        rows = list(opened.rows(ArrayPixels(image)))
        assert len(rows) == len(opened.plan(70, 50).windows) > 2
        np.testing.assert_array_equal(np.concatenate(rows), opened.upscale(image))


def test_auto_takes_tiles_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscaler, "process_bytes", lambda: 0)
    with X2() as opened:
        assert opened.plan(110, 140).reason.startswith("it fits, ")
        memory = memory_model(opened.metadata, "cpu")
        assert memory is not None
        free = int(memory.bytes_for(110 * 140 // 2) / 0.8)
        monkeypatch.setattr(upscaler, "free_bytes", lambda *_: free)
        plan = opened.plan(110, 140)
        assert plan.reason == f"the largest tile that fits, {free / 2**30:.1f} GiB are free"
        assert plan.count > 1
        whole = [
            max(h for h in range(1, 110) if opened.plan(h, 140, dtype).is_whole)
            for dtype in (np.uint8, np.uint16)
        ]
        assert 55 >= whole[0] > whole[1] > 48  # to compare takes some, 16 bits take more
        tiled = opened.upscale(scene(110, 140))
    assert levels_apart(tiled, upscaled("x2", "off")) <= 0.5


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), r"uint8 or uint16 \(H, W, 3\), got float32 \(4, 5, 3\)"),
        (
            np.zeros((4, 5, 3), np.int64),
            r"expected an image of uint8 or uint16 \(H, W, 3\), got int64",
        ),
        (np.zeros((4, 5), np.uint8), r"expected .*, got uint8 \(4, 5\)"),
        (np.zeros((4, 5, 1), np.uint8), r"expected .*, got uint8 \(4, 5, 1\)"),
        (np.zeros((4, 5, 4), np.uint8), r"expected .*, got uint8 \(4, 5, 4\)"),
        (np.zeros((1, 3, 4, 5), np.uint8), "expected"),
        (np.zeros((0, 5, 3), np.uint8), r"with pixels, got shape \(0, 5, 3\)"),
    ],
)
def test_what_is_no_image_is_refused(image: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        run(image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, "tile: expected auto, off, or a positive integer, px, got 0"),
        ({"tile": -64}, "tile: expected .*, got -64"),
        ({"tile": "big"}, "tile: expected .*, got 'big'"),
        ({"tile": 64.0}, r"tile: expected .*, got 64\.0"),
        ({"passes": 0}, "passes: expected a positive integer or settle, got 0"),
        ({"passes": "all"}, "passes: expected .*, got 'all'"),
        ({"passes": 1.5}, r"passes: expected .*, got 1\.5"),
        ({"overlap": -1}, "overlap: expected 0 or more px, got -1"),
        ({"accuracy": 0}, "accuracy: expected a number of grey levels above 0, got 0"),
        ({"accuracy": -1}, "accuracy: expected .*, got -1"),
        ({"accuracy": float("nan")}, "accuracy: expected .*, got nan"),
        ({"memory_gib": 0}, "memory: expected a number of GiB above 0, got 0"),
        ({"memory_gib": float("nan")}, "memory: expected .*, got nan"),
        ({"memory_gib": float("inf")}, "memory: expected .*, got inf"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TilingError, match=message):
        X2(**options)


def test_the_overlap_follows_the_accuracy_or_is_given() -> None:
    overlaps = []
    for options in ({"accuracy": 10}, {}, {"accuracy": 1e-6}, {"overlap": 5, "accuracy": 1e-6}):
        with X2(**options) as opened:
            overlaps.append(opened.overlap)
    assert 0 < overlaps[0] < overlaps[1] < overlaps[2]
    assert overlaps[2:] == [20, 5]  # 20 px is all that a pixel can see


@pytest.mark.parametrize("form", ["tile", "moments"])
def test_a_model_for_tiles_alone_is_refused(form: str) -> None:
    with pytest.raises(TilingError, match=rf"{form}\.onnx is one of the two models for tiles; "):
        Upscaler(MODELS / f"edsr_adadm_x2.{form}.onnx", backend="cpu")


def test_tiles_without_their_models_are_refused_with_two_remedies(tmp_path: Path) -> None:
    model = shutil.copy(MODELS / "edsr_adadm_x2.onnx", tmp_path / "net.onnx")
    image = scene(50, 70)
    with Upscaler(model, backend="cpu", tile=16) as opened:
        message = (
            r"70x50 px needs tiles, .* need .*net\.tile\.onnx, which is missing; "
            r"export the model with --stats external, .*: --passes 1 \(seams\)"
        )
        for attempt in (lambda: opened.plan(50, 70), lambda: opened.upscale(image)):
            with pytest.raises(TilingError, match=message):
                attempt()
        assert opened.upscale(image[:40, :40]).shape == (80, 80, 3)  # no larger than one tile
    shutil.copy(MODELS / "edsr_adadm_x2.tile.onnx", tmp_path / "net.tile.onnx")
    with pytest.raises(TilingError, match=r"need .*net\.moments\.onnx, which is missing"):
        run(image, model, tile=16)
    alone = run(image, model, tile=16, passes=1)
    np.testing.assert_array_equal(alone, run(image, tile=16, passes=1))
    assert run(image, model).shape == (100, 140, 3)


@pytest.mark.parametrize("other", ["tile", "moments"])
def test_models_of_another_checkpoint_are_refused(tmp_path: Path, other: str) -> None:
    for form in ("", ".tile", ".moments"):
        checkpoint = "x4" if form == f".{other}" else "x2"
        shutil.copy(MODELS / f"edsr_adadm_{checkpoint}{form}.onnx", tmp_path / f"net{form}.onnx")
    message = (
        rf"net\.{other}\.onnx was exported from another checkpoint than .*net\.onnx; make both"
    )
    with Upscaler(tmp_path / "net.onnx", backend="cpu", tile=16) as opened:
        with pytest.raises(TilingError, match=message):
            opened.plan(50, 70)
        assert opened.upscale(scene(40, 40)).shape == (80, 80, 3)


@pytest.mark.parametrize("model", ["x5", "nowhere/net.onnx", Path("net.onnx")])
def test_a_model_that_is_not_there_is_named(
    model: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SessionError, match=rf"^{model}: no such model; expected x2, x3, x4, or the path"
    ):
        Upscaler(model, backend="cpu")


def test_a_closed_upscaler_says_so() -> None:
    opened = X2(tile=16, passes=1)
    with opened:
        opened.upscale(scene(50, 70))
    opened.close()  # twice is as good as once
    for size in ((50, 70), (5, 5)):
        with pytest.raises(SessionError, match="the upscaler is closed"):
            opened.upscale(scene(*size))


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has the models take sizes as engines do: by form, or the same for all."""

    def set_ranges(whole: SizeRange, tile: SizeRange, moments: SizeRange | None = None) -> None:
        by_form = {"internal": whole, "external": tile, "moments": moments or tile}

        def sizes(session: Session) -> list[SizeRange]:
            return [by_form[session.metadata.stats or "internal"]]

        monkeypatch.setattr(OnnxRuntimeSession, "sizes", property(sizes))

    return set_ranges


def test_windows_are_those_that_the_models_for_tiles_take(ranges: Callable[..., None]) -> None:
    whole = upscaled("x2", "off")
    ranges(
        SizeRange((32, 32), (96, 96)), SizeRange((40, 48), (64, 80)), SizeRange((40, 40), (80, 72))
    )
    with X2(passes="settle") as opened:
        assert opened.plan(96, 96).is_whole
        plan = opened.plan(110, 140)
        assert plan.shape == (64, 72)
        assert plan.reason == "tiles of the model take 48x40 to 72x64 px"
        assert levels_apart(opened.upscale(scene(110, 140)), whole) <= 0.01
        with pytest.raises(TilingError, match=r"48x40 to 72x64 px, the image has 300x39; .*--min"):
            opened.plan(39, 300)
    with X2(tile=32) as opened:
        assert opened.plan(110, 140).shape == (56, 56)
    with pytest.raises(TilingError, match=r"tiles of 64 px .* windows of 88x88 px"):
        run(scene(110, 140), tile=64)
    with X2(passes=1) as opened:  # the model itself runs them
        assert opened.plan(110, 140).shape == (96, 96)


def test_the_models_for_tiles_run_an_image_that_the_model_itself_does_not_take(
    ranges: Callable[..., None],
) -> None:
    """As one tile, which needs passes for what the other model does in one."""
    image = scene(40, 60)
    expected = run(image, tile="off")
    ranges(SizeRange((64, 64), (96, 96)), SizeRange((16, 16), (64, 64)))
    with X2(passes="settle") as opened:
        assert opened.plan(40, 60).count == 1
        assert levels_apart(opened.upscale(image), expected) <= 0.01
    with pytest.raises(TilingError, match=r"64x64 to 96x96 px, the image has 60x40"):
        run(image, passes=1)


def test_models_for_tiles_that_take_no_size_in_common_are_refused(
    ranges: Callable[..., None],
) -> None:
    ranges(SizeRange((8, 8), (96, 96)), SizeRange((8, 8), (64, 64)), SizeRange((65, 8), (90, 90)))
    message = (
        r"tile\.onnx takes 8x8 to 64x64 px and .*moments\.onnx takes 8x65 to 90x90 px, so no tile "
        r"fits both; build both for the same sizes"
    )
    with pytest.raises(TilingError, match=message):
        run(scene(110, 140))


def test_engines_for_tiles_that_are_missing_are_to_be_built(
    tmp_path: Path, ranges: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine is a model that is named so; the file is not looked into here."""
    engine = shutil.copy(MODELS / "edsr_adadm_x2.onnx", tmp_path / "net.engine")
    ranges(SizeRange((8, 8), (96, 96)), SizeRange((8, 8), (96, 96)))
    monkeypatch.setattr(
        model_forms, "open_session", lambda path, *_, **__: open_session(path.read_bytes(), "cpu")
    )
    message = r"need .*net\.tile\.engine, .*; build it: adadm build net\.tile\.onnx, or give"
    with pytest.raises(TilingError, match=message):
        run(scene(110, 140), engine, backend="auto")


Model = Callable[..., RepeatingSession]


@pytest.mark.parametrize("tile", ["off", 9])
def test_a_model_that_reads_images_is_fed_them(model: Model, tile: Tile) -> None:
    model((1, "H", "W", 3), np.uint8, io="uint8")
    image = scene(30, 40, np.uint8)
    with Upscaler("net.onnx", tile=tile, passes=1, overlap=2) as opened:
        np.testing.assert_array_equal(opened.upscale(image), doubled(image))
        with pytest.raises(
            ImageError, match=r"expected an image of 8 bits, got 16, .*--io float32"
        ):
            opened.upscale(image.astype(np.uint16))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("rgb_range", ["1.0", "255"])
def test_every_range_keeps_every_level(model: Model, rgb_range: str, dtype: type[Any]) -> None:
    model(rgb_range=rgb_range)
    levels = np.arange(3 * 256, dtype=dtype).reshape(16, 16, 3)
    image = (levels * 85).astype(dtype)
    with Upscaler("net.onnx", tile=7, passes=1, overlap=1) as opened:
        np.testing.assert_array_equal(opened.upscale(image)[::2, ::2], image)


@pytest.mark.parametrize(
    ("shape", "dtype", "io"),
    [((1, 3, 16, 20), np.float32, "float32"), ((1, 16, 20, 3), np.uint8, "uint8")],
)
def test_a_model_of_a_fixed_size(
    model: Model, shape: tuple[int, ...], dtype: type[Any], io: str
) -> None:
    model(shape, dtype, io=io)
    image = scene(33, 47, np.uint8)
    with Upscaler("net.onnx", passes=1, overlap=3) as opened:
        assert opened.plan(33, 47).shape == (16, 20)
        np.testing.assert_array_equal(opened.upscale(image), doubled(image))
        with pytest.raises(TilingError, match="takes 20x16 px and nothing else"):
            opened.upscale(image[:15])


def test_an_output_that_is_no_number_is_refused(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an overflow in the network; as an integer it could be anything."""
    image, output = np.full((8, 8, 3), 7, np.uint8), np.full((1, 3, 16, 16), 7, np.float32)
    image[0, 0, 0] = 8  # not grey
    monkeypatch.setattr(model(), "_run", lambda _: {"sr": output})
    for value, level in ((np.nan, 0), (np.inf, 255), (1e20, 255), (-1e20, 0)):
        output[0, 1, 2, 3] = value
        with (
            Upscaler("net.onnx") as opened,
            pytest.raises(SessionError, match="expected a result of 0 to 255, got values from"),
        ):
            opened.upscale(image)
        progress = Mock(spec=Progress)
        with Upscaler("net.onnx", accept=True) as opened:
            result = opened.upscale(image, progress=progress)
        assert result[2, 3, 1] == level and (result == 7).sum() == result.size - 1
        (warning,) = progress.message.call_args_list
        assert warning.args[0].startswith("WARNING: expected a result of 0 to 255, got values")


@pytest.mark.parametrize(
    ("shape", "dtype", "io"),
    [((1, 3, "H", "W"), np.float32, "float32"), ((1, "H", "W", 3), np.uint8, "uint8")],
)
def test_the_result_of_the_tile_before_is_refused(
    model: Model, shape: tuple[int, ...], dtype: type[Any], io: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a buffer that was not filled; one of many tiles, far from the largest."""
    session = model(shape, dtype, io=io, receptive_field="1")
    run, results = session._run, []

    def stale(feed: Any) -> Any:
        results.append(run(feed))
        return results[-2 if len(results) == 8 else -1]

    monkeypatch.setattr(session, "_run", stale)
    image = np.full((80, 100, 3), 90, np.uint8)
    for step, message in ((20, r"within 12 of 255 .*, got 20 at row 20, column 40\. "), (12, "")):
        image[20:40, 40:60] = 90 + step
        results.clear()
        with Upscaler("net.onnx", tile=20, passes=1, overlap=0) as opened:
            if message:
                with pytest.raises(SessionError, match=message):
                    opened.upscale(image)
            else:  # no more than the limit
                assert (opened.upscale(image) == 90).all()


def test_models_that_cannot_be_used_are_refused(model: Model) -> None:
    model((4, 3, "H", "W"))
    with pytest.raises(
        TilingError, match=r"net\.onnx takes 4 images at once, expected one; export it"
    ):
        Upscaler("net.onnx")
    for batch in (1, None, "N"):
        model((batch, 3, "H", "W"))
        Upscaler("net.onnx").close()
    model().metadata = ModelMetadata()
    with pytest.raises(TilingError, match=r"net\.onnx has no metadata of 'adadm export'"):
        Upscaler("net.onnx")


def test_a_network_that_sees_all_is_warned_of_in_tiles_alone(model: Model) -> None:
    model(receptive_field="image", halo_errors="[[0, 9], [32, 0.25]]")
    with Upscaler("net.onnx", tile=64, passes=1) as opened:
        assert opened.overlap == 32
        assert "off by up to 0.25 grey levels" in opened.plan(300, 300).warning
        assert opened.plan(100, 100).warning == ""


def test_what_a_session_keeps_of_one_image_is_there_for_the_next() -> None:
    """Else the second of two images of one size would be run in tiles."""
    image = scene(300, 300)
    with X2() as opened:
        needed = memory_models(opened.metadata)["cpu"].bytes_for(image[..., 0].size)
    limit = (process_bytes() + 1.4 * needed) / 2**30
    with X2(memory_gib=limit) as opened:
        assert opened.plan(300, 300).is_whole
        assert not opened.plan(900, 900).is_whole
        opened.upscale(image)
        assert opened.plan(300, 300).is_whole
        assert not opened.plan(900, 900).is_whole


def test_what_a_caller_keeps_is_not_free() -> None:
    limit = (process_bytes() + (300 << 20)) / 2**30
    with X2(memory_gib=limit) as opened:
        opened.upscale(scene(60, 80))
        before = opened.plan(4000, 4000)
        ballast = np.ones(150 << 20, np.uint8)
        assert opened.plan(4000, 4000).count > before.count
        del ballast
