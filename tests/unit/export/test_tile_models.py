"""What tiles cost, and how far they are from the whole image, against measurements of our own."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from _support.exports import exported_tiles
from _support.graphs import graph
from _support.parity import photograph_like
from adadm.export import Options
from adadm.export.graph.receptive_field import receptive_field
from adadm.export.measurements import HaloError, measure_halo, measure_memories
from adadm.export.networks import Network
from adadm.export.networks.blocks import Modulator
from adadm.export.proof.cases import photograph_batches
from adadm.export.tile_models import TileModels, std_from, tile_graphs
from adadm.runtime.errors import ExportError
from adadm.runtime.models.bundled import BUNDLED
from adadm.runtime.models.onnx_reader import read_onnx
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.upscaling.memory import memory_models

MODELS = Path(__file__).resolve().parents[3] / "runtime" / "models"
BACKENDS = {"cpu": "onnxruntime", "openvino": "openvino"}


@functools.cache
def tiles_of_edsr() -> tuple[Network, onnx.ModelProto, TileModels]:
    return exported_tiles("edsr", 2, Options())


@functools.cache
def halo_of_edsr() -> list[HaloError]:
    network, _, tiles = tiles_of_edsr()
    return measure_halo(network, tiles)


@contextmanager
def factors_of(network: Network, lr: torch.Tensor) -> Iterator[None]:
    """Every modulator keeps the factor that it has for `lr`."""
    own = Modulator.factor
    factors: dict[torch.nn.Module, torch.Tensor] = {}

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, Modulator)
        factors[module] = own(module, inputs[0])

    modulators = [module for module in network.modules() if isinstance(module, Modulator)]
    hooks = [module.register_forward_pre_hook(note) for module in modulators]
    network(lr)
    for hook in hooks:
        hook.remove()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Modulator, "factor", lambda module, x: factors[module])
        yield


@torch.inference_mode()
def test_the_error_of_a_cut_is_that_of_pytorch() -> None:
    network, _, _ = tiles_of_edsr()
    expected = np.zeros(97)
    for photo in photograph_batches(network, 192).values():
        lr = torch.from_numpy(photo)
        cut = min(lr.shape[2:]) // 2
        with factors_of(network, lr):
            whole, part = network(lr), network(lr[..., cut:, cut:])
        error = (part - whole[..., 2 * cut :, 2 * cut :]).abs()[0].amax(dim=0).numpy()
        for px in range(cut):
            expected[px] = max(expected[px], error[2 * px :, 2 * px :].max())
    halo = halo_of_edsr()
    assert network.rgb_range == 255
    assert [error.px for error in halo[:4]] == [0, 2, 4, 6]
    assert halo[-1].px >= 64
    for error in halo:
        assert error.levels == pytest.approx(expected[error.px], rel=0.06, abs=0.01)


def test_the_error_of_a_cut_falls_and_ends_with_the_receptive_field() -> None:
    reach = 10
    levels = {error.px: error.levels for error in halo_of_edsr()}
    assert list(levels) == sorted(levels)
    assert list(levels.values()) == sorted(levels.values(), reverse=True)
    assert levels[0] > 20
    assert levels[4] < levels[0] / 2
    assert 0 < levels[8] < levels[4] / 2
    assert max(error for px, error in levels.items() if px >= reach) < 0.01


def test_a_cut_with_the_wrong_std_would_show() -> None:
    """The std is shared: with its own the cut is off everywhere."""
    _, _, tiles = tiles_of_edsr()
    tile, moments = (OnnxRuntimeSession(m.SerializeToString()) for m in (tiles.tile, tiles.moments))
    lr = photograph_like((1, 60, 64))
    part = np.ascontiguousarray(lr[..., 30:, 32:])
    whole = tile.run({"lr": lr, "std": std_from(moments, lr)})["sr"][..., 60:, 64:]
    own = tile.run({"lr": part, "std": std_from(moments, part)})["sr"]
    shared = tile.run({"lr": part, "std": std_from(moments, lr)})["sr"]
    own_error, shared_error = (np.abs(a - whole)[..., 20:, 20:].max() for a in (own, shared))
    assert shared_error < 0.01 < 1 < own_error


def test_a_network_without_a_modulator_is_refused() -> None:
    model = graph("c = Conv <pads = [1, 1, 1, 1]> (x, W3, B) y = Add (c, r)")
    with pytest.raises(ExportError, match=r"no modulator, .* export it with --stats internal"):
        tile_graphs(model)


def test_the_graph_that_they_are_made_of_stays() -> None:
    model = graph("c = Conv (x, W1) y = adadm.AdaDMModulate <weight = 0.9, bias = 0.1> (x, c)")
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    tile, moments = tile_graphs(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert [node.op_type for node in moments.graph if node.domain] == ["AdaDMMoments"]
    assert [node.op_type for node in tile.graph if node.domain] == ["AdaDMModulateExternal"]
    assert receptive_field(model) == 0


installed = pytest.mark.parametrize(
    "backend", [name for name, package in BACKENDS.items() if importlib.util.find_spec(package)]
)


def peak_of(model: bytes | Path, backend: str, height: int, width: int) -> int:
    """What a process of its own takes for one size, above what it takes without a model."""
    command = [sys.executable, "-m", "adadm.runtime.upscaling.memory", str(model), backend]
    result = subprocess.run(
        [*command, f"{height}x{width}"], capture_output=True, text=True, check=True
    )
    before, *peaks = json.loads(result.stdout)
    return int(max(peaks) - before)


@installed
def test_memory_foretells_a_size_that_was_not_measured(backend: str) -> None:
    """What the bundled model says; larger than what export measured, and not square."""
    path = MODELS / BUNDLED["x2"]
    memory = memory_models(read_onnx(path).metadata)[backend]
    foretold = memory.bytes_for(320 * 448)
    assert 0.75 < foretold / peak_of(path, backend, 320, 448) < 1.6


def test_memory_is_measured_on_every_backend_with_two_digits() -> None:
    network, model, _ = tiles_of_edsr()
    measured = measure_memories(network, model, None)
    assert measured.keys() == {
        b for b, package in BACKENDS.items() if importlib.util.find_spec(package)
    }
    for memory in measured.values():
        for number in dataclasses.astuple(memory):
            assert float(f"{number:.1e}") == number > 0
        output = 3 * 4 * network.upscale**2
        assert output < memory.bytes_per_pixel < 1e4


def test_memory_of_a_fixed_size_has_no_slope() -> None:
    network, model, _ = exported_tiles("edsr", 2, Options(static=(1, 320, 448)))
    for memory in measure_memories(network, model, (1, 320, 448)).values():
        assert memory.bytes_per_pixel == 0
        assert 3 * 4 * 4 * 320 * 448 < memory.fixed_bytes < 1e9
