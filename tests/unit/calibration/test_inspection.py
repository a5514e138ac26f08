"""What `adadm inspect` reads from weights alone, and which of it is a finding."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from _support.exports import exported
from _support.lowered import lowered_x2
from _support.networks import random_network
from _support.scripts import ROOT
from adadm.calibration.deployment import deploy
from adadm.calibration.inspection.findings import (
    FALLING,
    GUESSED,
    KEPT,
    LARGE_FACTOR,
    NEAR_ZERO_GAMMAS,
    SHIFTED_FAR,
    Finding,
    Rule,
    find,
)
from adadm.calibration.inspection.structure import Structure, block_of, read_structure
from adadm.calibration.inspection.subject import Subject, read_subject
from adadm.export import Options, save_checkpoint
from adadm.export.checkpoint import load_checkpoint
from adadm.export.models import EDSR, Network
from adadm.export.models.blocks import Modulator, ResidualBlock
from adadm.export.tracing import trace
from adadm.runtime.errors import AdadmError, CalibrationError, CheckpointError, EngineError
from adadm.runtime.targets import TARGETS

Array = npt.NDArray[np.float64]
CHECKPOINTS = ROOT / "export" / "checkpoints"
MODELS = ROOT / "runtime" / "models"
BUNDLED = sorted(path.name for path in CHECKPOINTS.glob("*.safetensors"))
SMALL = ["edsr", "nlsn", "rdn", "_support.foreign:RCANLike", "_support.foreign:RRDBLike"]


def in_float64(tensor: torch.Tensor | None) -> Array:
    assert tensor is not None
    values: Array = tensor.detach().double().numpy()
    return values


def read(path: Path, arch: str = "auto", **given: float) -> Subject:
    return read_subject(path, arch, given)


def upscale_of(architecture: str) -> int:
    return 4 if architecture.endswith("RRDBLike") else 2


# What is read


@pytest.mark.parametrize("architecture", SMALL)
def test_blocks_have_the_parameters_of_their_modules(architecture: str, tmp_path: Path) -> None:
    network = random_network(architecture, upscale_of(architecture), seed=3)
    save_checkpoint(tmp_path / "network.safetensors", network)
    subject = read(tmp_path / "network.safetensors", architecture)
    modules = dict(network.root.named_modules())
    expected = {
        name.rpartition(".")[0]: (in_float64(module.weight).item(), in_float64(module.bias).item())
        for name, module in modules.items()
        if isinstance(module, Modulator)
    }
    found = {block.name: (block.weight, block.bias) for block in subject.structure.blocks}
    assert found == expected and len(found) >= 3
    norms = {name for name, module in modules.items() if isinstance(module, nn.BatchNorm2d)}
    assert {found.name for found in subject.structure.normalizations} == norms
    assert subject.structure.elsewhere == ()


@pytest.mark.parametrize("architecture", SMALL)
def test_normalizations_are_the_affine_maps_of_their_modules(
    architecture: str, tmp_path: Path
) -> None:
    """Gammas of both signs and tiny ones, statistics of random data."""
    network = random_network(architecture, upscale_of(architecture), seed=4)
    modules = dict(network.root.named_modules())
    tiny = next(module for module in modules.values() if isinstance(module, nn.BatchNorm2d))
    with torch.no_grad():
        tiny.weight[2], tiny.weight[5] = 1e-3, 0
        tiny.bias[5] = 0.5
    save_checkpoint(tmp_path / "network.safetensors", network)
    subject = read(tmp_path / "network.safetensors", architecture)
    near_zero = 0
    for found in subject.structure.normalizations:
        module = modules[found.name]
        assert isinstance(module, nn.BatchNorm2d)
        gamma, beta = in_float64(module.weight), in_float64(module.bias)
        mean, variance = in_float64(module.running_mean), in_float64(module.running_var)
        scale = gamma / np.sqrt(variance + module.eps)
        shift = beta - mean * scale
        assert found.scale is not None and found.shift is not None
        np.testing.assert_allclose(found.gamma, gamma, rtol=1e-12)
        np.testing.assert_allclose(found.scale, scale, rtol=1e-7)  # eps is a float32 there
        np.testing.assert_allclose(found.shift, shift, rtol=1e-6, atol=1e-9)
        assert found.negative_share == np.mean(gamma < 0)
        dead = np.abs(gamma) <= 0.01 * np.median(np.abs(gamma))
        assert found.near_zero.tolist() == dead.tolist()
        near_zero += int(dead.sum())
        if found.trunk_std is not None:
            assert found.trunk_std == pytest.approx(np.sqrt(variance.mean() + np.var(mean)))
            assert found.largest_center is not None
            with np.errstate(divide="ignore"):
                assert found.largest_center == pytest.approx(np.abs(shift / scale).max(), rel=1e-5)
    assert near_zero == 2


def test_only_what_reads_the_trunk_moves_it(tmp_path: Path) -> None:
    """norm1 of EDSR, not norm2; each norm of RDN; of nested branches the innermost ones."""
    for architecture, inside in (("edsr", "norm1"), ("rdn", "norm")):
        network = random_network(architecture, 2)
        save_checkpoint(tmp_path / "network.safetensors", network)
        subject = read(tmp_path / "network.safetensors")
        moving = [n.name for n in subject.structure.normalizations if n.trunk_std is not None]
        assert moving == [f"{block.name}.{inside}" for block in subject.structure.blocks]
        assert all(block.trunk_std for block in subject.structure.blocks)


def test_the_innermost_block_has_what_is_inside_it() -> None:
    blocks = ["body.1", "body.1.body.0", "body.10"]
    assert block_of("body.1.norm", blocks) == "body.1"
    assert block_of("body.1.body.0.norm", blocks) == "body.1.body.0"
    assert block_of("body.10.conv1", blocks) == "body.10"
    assert block_of("body.1", blocks) == "body.1"
    assert block_of("body.2.conv1", blocks) is None
    assert block_of("head.0", blocks) is None


def test_group_and_layer_normalization_have_gammas_and_no_map(tmp_path: Path) -> None:
    network = random_network("rdn", 2, blocks=2, layers=2, growth=4, features=8, norm_groups=2)
    save_checkpoint(tmp_path / "network.safetensors", network)
    (first, second) = read(tmp_path / "network.safetensors").structure.normalizations
    gamma = dict(network.named_parameters())["RDBs.0.norm.weight"]
    assert (first.name, first.kind) == ("RDBs.0.norm", "group normalization")
    np.testing.assert_allclose(first.gamma, in_float64(gamma))
    assert first.scale is None and first.largest_center is None and first.decision is None
    network = random_network("_support.foreign:LayerNormed", 2)
