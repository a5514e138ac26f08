"""The two models for tiles against PyTorch, whose std they compute or are given."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto

from _support.exports import exported_tiles
from _support.networks import CUSTOM
from _support.parity import TOLERANCES, assert_parity, photograph_like
from _support.profiles import built, tile_profile
from _support.slow import slow_unless
from adadm.export import Options
from adadm.export.assembly import bake_image_io
from adadm.export.limits import Limit, limits_of
from adadm.export.networks import Network
from adadm.export.networks.blocks import Modulator
from adadm.export.proof.parity import session_with_codes
from adadm.export.proof.pytorch import run_with_codes
from adadm.export.tile_models import TileModels, std_from
from adadm.runtime import Upscaler
from adadm.runtime.models.bundled import VARIANTS, variant_path
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.upscaling.shared_std import pooled_std
from adadm.runtime.upscaling.windows import grid

Array = npt.NDArray[Any]

RCAN, RRDB = CUSTOM
NETWORKS = {("edsr", 2): 10, ("edsr", 4): 10, ("rdn", 2): 14, ("nlsn", 2): None}
"""And the receptive field of each, px."""
NETWORKS |= {(RCAN, 2): None, (RRDB, 4): 21}

DEFAULT = Options()
OTHER = Options(modulator="inline", opset=17, fold="off")
OF_EDSR = [
    Options(modulator=modulator, opset=opset, fold=fold)
    for modulator in ("function", "inline")
    for opset in (17, 19)
    for fold in ("exact", "off")
]
CASES = [(*network, options) for network in NETWORKS for options in (DEFAULT, OTHER)]
CASES += [("edsr", 2, options) for options in OF_EDSR if options not in (DEFAULT, OTHER)]


def described(value: Any) -> str:
    if not isinstance(value, Options):
        return str(value).rpartition(":")[2]
    return f"{value.modulator}-{value.opset}-{value.fold}"


EDSR_ALONE = [("edsr", 2, OTHER)]
"""Of the forms but the default, what every run needs: the rest differs by architecture alone."""


def is_usual(architecture: str, upscale: int, options: Options) -> bool:
    return options == DEFAULT or (architecture, upscale, options) in EDSR_ALONE


every_case = pytest.mark.parametrize(
    ("architecture", "upscale", "options"), slow_unless(is_usual, CASES), ids=described
)
bounded = pytest.mark.parametrize(
    ("architecture", "upscale", "limit"),
    [
        *((*network, "off") for network, reach in NETWORKS.items() if reach is not None),
        ("edsr", 2, 0.6),
    ],
    ids=described,
)


@functools.cache
def forms(
    architecture: str, upscale: int, options: Options, limit: Limit = "off"
) -> tuple[Network, onnx.ModelProto, TileModels]:
    return exported_tiles(architecture, upscale, options, limit)


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def opened(model: onnx.ModelProto) -> OnnxRuntimeSession:
    return OnnxRuntimeSession(model.SerializeToString())


@contextmanager
def noting_std(network: Network) -> Iterator[list[Array]]:
    """The std (N, 1, 1, 1) of each trunk in float64, while PyTorch runs."""
    found: list[Array] = []

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        found.append(inputs[0].double().std(dim=(1, 2, 3), keepdim=True).numpy())

    modulators = [module for module in network.modules() if isinstance(module, Modulator)]
    hooks = [module.register_forward_pre_hook(note) for module in modulators]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def in_pytorch(
    network: Network, lr: Array, outputs: Mapping[str, Array], codes_of: Mapping[str, str]
) -> tuple[Array, Array]:
    """`sr` and the std (N, B, 1, 1), with the hash codes that a model returned, if it hashes."""
    codes = {name: outputs[value] for name, value in codes_of.items()}
    with noting_std(network) as std:
        sr, _, rounds = run_with_codes(network, lr, codes)
    assert all(result.largest_gap <= TOLERANCES["float32"] for result in rounds), rounds
    return sr, np.concatenate(std, axis=1)


def moments_feed(lr: Array, std: Array) -> dict[str, Array]:
    """Everything inside."""
    batch, _, height, width = lr.shape
    return {
        "lr": lr,
        "std": std,
        "rows_inside": np.ones((batch, 1, height, 1), np.float32),
        "columns_inside": np.ones((batch, 1, 1, width), np.float32),
    }


def some_lr(network: Network, shape: tuple[int, int, int] = (2, 19, 26)) -> Array:
    """A batch whose images have a contrast each."""
    lr = photograph_like(shape, network.rgb_range)
    lr[1:] = lr[1:] * np.float32(0.3) + np.float32(0.1 * network.rgb_range)
    return lr


@every_case
def test_moments_of_the_whole_image_give_the_std_of_pytorch(
    architecture: str, upscale: int, options: Options
) -> None:
    network, _, tiles = forms(architecture, upscale, options)
    session, codes_of = session_with_codes(network, tiles.moments)
    lr = some_lr(network)
    blocks = sum(isinstance(module, Modulator) for module in network.modules())
    unknown = np.zeros((2, blocks, 1, 1), np.float32)
    outputs = session.run(moments_feed(lr, unknown))
    _, expected = in_pytorch(network, lr, outputs, codes_of)
    moments = outputs["moments"].astype(np.float64)
    assert moments.shape == (2, blocks, 3)
    pixels = lr.shape[2] * lr.shape[3]
    assert (moments[..., 0] % pixels == 0).all() and (moments[..., 0] > pixels).all()
    std = np.sqrt(moments[..., 2] / (moments[..., 0] - 1))[..., None, None]
    np.testing.assert_allclose(std, expected, rtol=TOLERANCES["float32"])
    if not codes_of:
        np.testing.assert_allclose(std_from(session, lr), std, rtol=1e-6)
    assert (np.abs(expected[1] / expected[0] - 1) > 0.01).all()  # each image its own

    # What is given counts: the trunks after the first then have another std.
    given = session.run(moments_feed(lr, (expected * 1.5).astype(np.float32)))["moments"]
    np.testing.assert_allclose(given[:, 0], moments[:, 0], rtol=1e-4)
    if blocks > 1:
        assert (np.abs(given[:, 1:, 2] / moments[:, 1:, 2] - 1) > 1e-3).any()


@every_case
def test_a_tile_that_is_given_the_std_is_the_image_of_pytorch(
    architecture: str, upscale: int, options: Options
) -> None:
    network, _, tiles = forms(architecture, upscale, options)
    session, codes_of = session_with_codes(network, tiles.tile)
    lr = some_lr(network)
    if codes_of:  # those of the moments' model are near enough: codes move the std by little
        moments, codes_of_moments = session_with_codes(network, tiles.moments)
        (spec,) = (spec for spec in moments.inputs if spec.name == "std")
        unknown = np.zeros((2, int(spec.shape[1] or 0), 1, 1), np.float32)
        _, std = in_pytorch(network, lr, moments.run(moments_feed(lr, unknown)), codes_of_moments)
    else:
        _, std = in_pytorch(network, lr, {}, {})
    outputs = session.run({"lr": lr, "std": std.astype(np.float32)})
    expected, _ = in_pytorch(network, lr, outputs, codes_of)
    assert_parity(outputs["sr"], expected, "float32")
    other = session.run({"lr": lr, "std": (std * 1.5).astype(np.float32)})["sr"]
    assert np.abs(other - expected).max() > 5 * TOLERANCES["float32"] * np.abs(expected).max()


@pytest.mark.parametrize(
    ("architecture", "upscale", "options"),
    slow_unless(is_usual, CASES[: 2 * len(NETWORKS)]),
    ids=described,
)
def test_each_file_says_what_it_is(architecture: str, upscale: int, options: Options) -> None:
    _, whole, tiles = forms(architecture, upscale, options)
    notes = [metadata_of(model) for model in (whole, tiles.tile, tiles.moments)]
    assert [note.pop("adadm.stats") for note in notes] == ["internal", "external", "moments"]
    notes[0].pop("adadm.channel_maps", None)  # of whole images, where layers are compared
    assert notes[0] == notes[1] == notes[2]
    reach = NETWORKS[architecture, upscale]
    assert notes[0]["adadm.receptive_field"] == ("image" if reach is None else str(reach))
    names = [[spec.name for spec in opened(m).inputs] for m in (tiles.tile, tiles.moments)]
    assert names == [["lr", "std"], ["lr", "rows_inside", "columns_inside", "std"]]
    for model in (tiles.tile, tiles.moments):
        assert {entry.version for entry in model.opset_import if not entry.domain} == {
            options.opset
        }
        assert bool(model.functions) == (options.modulator == "function")


@pytest.mark.parametrize(
    ("architecture", "upscale", "options"),
    slow_unless(lambda *case: case == ("rdn", 2, DEFAULT), CASES[: 2 * len(NETWORKS)]),
    ids=described,
)
def test_tensorrt_builds(architecture: str, upscale: int, options: Options) -> None:
    """tests/parity/test_tensorrt.py has every form of EDSR."""
    network, _, tiles = forms(architecture, upscale, options)
    for model in (tiles.tile, tiles.moments):
        assert built(model, tile_profile(model, max(16, network.smallest_side))).plan


@bounded
def test_windows_with_their_halo_are_the_whole_image(
    architecture: str, upscale: int, limit: Limit
) -> None:
    """Also where the std reaches the limit of every modulator."""
    network, whole_model, tiles = forms(architecture, upscale, DEFAULT, limit)
    halo = NETWORKS[architecture, upscale]
    assert halo is not None
    height, width = 2 * halo + 27, 2 * halo + 34
    lr = some_lr(network, (1, height, width))
    tile, moments = opened(tiles.tile), opened(tiles.moments)
    whole_std = std_from(moments, lr)
    whole = tile.run({"lr": lr, "std": whole_std})["sr"]
    assert (whole_std.ravel()[: len(limits_of(network))] > [*limits_of(network).values()]).all()
    assert_parity(whole, opened(whole_model).run({"lr": lr})["sr"], "float32")

    def from_windows(overlap: int) -> tuple[Array, Array]:
        """The pooled std, and the image put together."""
        sr, pool = np.zeros_like(whole), []
        size = (2 * overlap + 18, 2 * overlap + 21)
        windows = [window for row in grid(height, width, size, overlap) for window in row]
        assert len(windows) >= 4
        for rows, columns in windows:
            window = np.ascontiguousarray(
                lr[..., rows.start : rows.stop, columns.start : columns.stop]
            )
            feed = moments_feed(window, whole_std)
            for name, span, axis in (("rows", rows, 2), ("columns", columns, 3)):
                inside = np.zeros(window.shape[axis], np.float32)
                inside[span.inside] = 1
                feed[f"{name}_inside"] = inside.reshape([-1 if a == axis else 1 for a in range(4)])
            pool.append(moments.run(feed)["moments"])
            found = tile.run({"lr": window, "std": whole_std})["sr"]
            top, left = upscale * rows.inside.start, upscale * columns.inside.start
            into = sr[
                ...,
                upscale * rows.inner_start : upscale * rows.inner_stop,
                upscale * columns.inner_start : upscale * columns.inner_stop,
            ]
            into[:] = found[..., top : top + into.shape[2], left : left + into.shape[3]]
        assert sum(moment[0, 0, 0] for moment in pool) % (height * width) == 0
        return pooled_std(pool), sr

    std, sr = from_windows(halo)
    np.testing.assert_allclose(std, whole_std.ravel(), rtol=1e-5)
    assert_parity(sr, whole, "float32")
    std, sr = from_windows(1)  # too little: the assertions above can fail
    assert np.abs(std / whole_std.ravel() - 1).max() > 1e-4
    assert np.abs(sr - whole).max() > 1e-3 * np.abs(whole).max()


@pytest.mark.parametrize("modulator", ["function", "inline"])
def test_static_sizes_are_in_both_files(modulator: Any) -> None:
    """Numbers of static ones: tests/cli/test_export.py."""
    _, _, tiles = exported_tiles("edsr", 2, Options(static=(2, 24, 33), modulator=modulator))
    tile, moments = opened(tiles.tile), opened(tiles.moments)
    shapes = {spec.name: spec.shape for session in (tile, moments) for spec in session.inputs}
    assert shapes == {
        "lr": (2, 3, 24, 33),
        "std": (2, 3, 1, 1),
        "rows_inside": (2, 1, 24, 1),
        "columns_inside": (2, 1, 1, 33),
    }
    outputs = {spec.name: spec.shape for session in (tile, moments) for spec in session.outputs}
    assert outputs == {"sr": (2, 3, 48, 66), "moments": (2, 3, 3)}
    for model in (tiles.tile, tiles.moments):
        for value in model.graph.value_info:
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                dimensions = value.type.tensor_type.shape.dim
                assert all(dim.HasField("dim_value") for dim in dimensions), value.name


@pytest.mark.parametrize(
    ("architecture", "options"),
    [("edsr", DEFAULT), ("edsr", OTHER), ("nlsn", DEFAULT)],  # rgb_range 255 and 1
    ids=described,
)
def test_images_in_and_out_are_the_same_grey_levels(
    architecture: str, options: Options, tmp_path: Path
) -> None:
    network, whole, tiles = forms(architecture, 2, options)
    paths = {io: tmp_path / f"{io}.onnx" for io in ("float32", "uint8")}
    for io, path in paths.items():
        for variant, model in zip(VARIANTS, (whole, tiles.tile, tiles.moments), strict=True):
            written = model if io == "float32" else bake_image_io(model, network, options)
            onnx.save(written, variant_path(path, variant))
    image = photograph_like((1, 47, 58))[0].transpose(1, 2, 0).round().astype(np.uint8)
    results = {}
    for io, path in paths.items():
        with Upscaler(path, tile=16, passes=2, overlap=8, backend="cpu", accept=True) as upscaler:
            assert upscaler.plan(47, 58).count == 2 * 3
            results[io] = upscaler.upscale(image)
    assert results["uint8"].shape == (94, 116, 3)
    np.testing.assert_array_equal(results["uint8"], results["float32"])
    assert len(np.unique(results["uint8"])) > 50

    session = opened(bake_image_io(tiles.moments, network, options))
    described = {spec.name: (spec.dtype.name, len(spec.shape)) for spec in session.inputs}
    assert described["lr"] == ("uint8", 4)
    assert {described[name][0] for name in ("std", "rows_inside", "columns_inside")} == {"float32"}
    assert [(spec.name, spec.dtype.name) for spec in session.outputs] == [("moments", "float32")]
