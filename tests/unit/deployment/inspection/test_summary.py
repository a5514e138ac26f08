"""What `adadm inspect` reads from weights alone, and which of it is a finding."""

from __future__ import annotations

import importlib
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
from _support.networks import random_network
from _support.scripts import ROOT
from adadm.deployment.inspection.findings import (
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
from adadm.deployment.inspection.inspected_file import InspectedFile, read_inspected_file
from adadm.deployment.inspection.structure import block_of, read_structure
from adadm.export import Options, save_checkpoint
from adadm.export.checkpoint import load_checkpoint, network_class
from adadm.export.networks import EDSR, Network
from adadm.export.networks.blocks import Modulator, ResidualBlock
from adadm.export.tracing import trace
from adadm.runtime.errors import AdadmError, CalibrationError, CheckpointError, EngineError

Array = npt.NDArray[np.float64]
CHECKPOINTS = ROOT / "export" / "checkpoints"
MODELS = ROOT / "runtime" / "models"
BUNDLED = sorted(path.name for path in CHECKPOINTS.glob("*.safetensors"))
SMALL = [
    "edsr",
    "nlsn",
    "rdn",
    "_support.custom_networks:RCANLike",
    "_support.custom_networks:RRDBLike",
]


def in_float64(tensor: torch.Tensor | None) -> Array:
    assert tensor is not None
    values: Array = tensor.detach().double().numpy()
    return values


def read(path: Path, arch: str = "auto", **given: float) -> InspectedFile:
    return read_inspected_file(path, arch, **given)


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


@pytest.mark.parametrize("kind", ["group normalization", "layer normalization"])
def test_what_follows_the_input_has_gammas_and_no_map(kind: str, tmp_path: Path) -> None:
    if kind == "group normalization":
        size = {"blocks": 2, "layers": 2, "growth": 4, "features": 8, "norm_groups": 2}
        network = random_network("rdn", 2, **size)
        name, parameter = "RDBs.0.norm", "RDBs.0.norm.weight"
    else:
        network = network_class("_support.custom_networks:LayerNormed")(rgb_range=255.0).eval()
        name, parameter = "1.body.0.norm", "1.body.0.norm.weight"
    save_checkpoint(tmp_path / "network.safetensors", network)
    arch = "auto" if kind == "group normalization" else "_support.custom_networks:LayerNormed"
    subject = read(tmp_path / "network.safetensors", arch)
    first, second = subject.structure.normalizations
    assert (first.name, first.kind, second.kind) == (name, kind, kind)
    gamma = in_float64(dict(network.root.named_parameters())[parameter])
    np.testing.assert_allclose(first.gamma, gamma)
    assert (gamma < 0).any() and first.negative_share == np.mean(gamma < 0)
    assert first.scale is None and first.shift is None and first.largest_center is None
    assert first.decision is None and subject.decisions == ()
    assert [block.trunk_std for block in subject.structure.blocks] == [None, None]


def test_parameters_that_are_computed_are_no_map() -> None:
    """As torch.onnx exports batch normalization without affine, or without running statistics."""
    model = trace(random_network("edsr", 2))
    node = next(node for node in model.graph if node.op_type == "BatchNormalization")
    gamma = node.inputs[1]
    assert gamma is not None
    computed = ir.node("Identity", [gamma])
    model.graph.insert_before(node, computed)
    node.replace_input_with(1, computed.outputs[0])
    found = read_structure(model).normalizations[0]
    assert found.kind == "batch normalization"
    assert found.gamma.tolist() == [1.0] and found.scale is None and found.trunk_std is None


@pytest.mark.parametrize("opset", [17, 19])
def test_inlined_modulators_are_found(opset: int) -> None:
    """Also where w is 1 and b is 0, so that a tool may have left them out."""
    network, proto, _ = exported("edsr", 2, Options(modulator="inline", opset=opset))
    modules = {k: m for k, m in network.named_modules() if isinstance(m, Modulator)}
    blocks = read_structure(ir.from_proto(proto)).blocks
    assert [f"{block.name}.phi" for block in blocks] == list(modules)
    for block, module in zip(blocks, modules.values(), strict=True):
        assert block.weight == pytest.approx(in_float64(module.weight).item())
        assert block.bias == pytest.approx(in_float64(module.bias).item())

    model: ir.Model = ir.from_proto(proto)
    first = [node for node in model.graph if node.op_type in ("Log", "Min")][:2]
    assert [node.op_type for node in first] == ["Log", "Min"]
    first[1].replace_input_with(0, first[0].outputs[0])
    weights = [(block.weight, block.bias) for block in read_structure(model).blocks]
    assert weights[0] == (1.0, 0.0) and len(weights) == 3


def test_two_modulators_in_one_module_are_told_apart() -> None:
    model = trace(random_network("edsr", 2))
    nodes = [node for node in model.graph if node.op_type == "AdaDMModulate"]
    nodes[1].name, nodes[2].name = "body.1.before", "body.1.after"
    names = [block.name for block in read_structure(model).blocks]
    assert names == ["body.0", "body.1.before", "body.1.after"]
    nodes[0].name = "phi"
    assert read_structure(model).blocks[0].name == "phi"


def test_an_export_without_folds_says_what_its_checkpoint_says(tmp_path: Path) -> None:
    network, proto, _ = exported("edsr", 2, Options(fold="off", static=(1, 20, 30)))
    save_checkpoint(tmp_path / "network.safetensors", network)
    onnx.save(proto, tmp_path / "network.onnx")
    checkpoint, model = (read(tmp_path / f"network.{kind}") for kind in ("safetensors", "onnx"))
    assert [vars(d) for d in checkpoint.decisions] == [vars(d) for d in model.decisions]
    for expected, found in zip(
        checkpoint.structure.normalizations, model.structure.normalizations, strict=True
    ):
        assert found.name == expected.name and found.trunk_std == expected.trunk_std
        np.testing.assert_array_equal(found.gamma, expected.gamma)
    assert (model.static, checkpoint.static) == ((1, 20, 30), None)
    assert not model.is_deployed and model.metadata.fold == "off"


@pytest.mark.parametrize("io", ["float32", "uint8"])
def test_an_export_has_what_it_says_of_itself(io: str, tmp_path: Path) -> None:
    options = Options(io="uint8" if io == "uint8" else "float32", static=(2, 24, 18))
    _, proto, decisions = exported("nlsn", 2, options)
    onnx.save(proto, tmp_path / "network.onnx")
    subject = read(tmp_path / "network.onnx")
    assert subject.is_deployed and not subject.is_rescaled
    assert subject.static == (2, 24, 18)
    kept = [decision.node for decision in decisions if decision.result is None]
    assert [found.name for found in subject.structure.normalizations] == kept and kept
    assert list(subject.decisions) == decisions
    assert subject.export_notes.items() >= {("io", io), ("precision", "float32")}
    assert subject.hyperparameters["blocks"].value == 9


# Findings


@pytest.fixture(scope="module", params=BUNDLED)
def bundled(request: pytest.FixtureRequest) -> InspectedFile:
    return read(CHECKPOINTS / request.param)


def test_bundled_networks_have_no_findings(bundled: InspectedFile) -> None:
    assert find(bundled) == []


@pytest.mark.parametrize("path", [f"edsr_adadm_x{upscale}.onnx" for upscale in (2, 4)])
def test_bundled_models_have_no_findings(path: str) -> None:
    subject = read(MODELS / path)
    assert find(subject) == [] and len(subject.structure.blocks) == 8


def planted(folder: Path, change: Callable[[Network], None]) -> list[Finding]:
    """What is found in the bundled x2 after a change of its weights."""
    network = load_checkpoint(CHECKPOINTS / "edsr_adadm_x2.safetensors").network
    with torch.no_grad():
        change(network)
    save_checkpoint(folder / "planted.safetensors", network)
    return find(read(folder / "planted.safetensors"))


def block(network: Network, index: int) -> ResidualBlock:
    return [module for module in network.modules() if isinstance(module, ResidualBlock)][index]


def set_phi(network: Network, index: int, weight: float, bias: float) -> None:
    phi = block(network, index).phi
    assert phi.bias is not None
    phi.weight.fill_(weight)
    phi.bias.fill_(bias)


def move(network: Network, index: int, times: float, gamma: float | None = None) -> None:
    """Let channel 5 of a block's norm1 shift the trunk by so many times its std."""
    norm = block(network, index).norm1
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    if gamma is not None:
        norm.weight[5] = gamma
    std = (norm.running_var.mean() + norm.running_mean.var(unbiased=False)).sqrt()
    scale = norm.weight[5] / (norm.running_var[5] + norm.eps).sqrt()
    norm.bias[5] = scale * (times * std + norm.running_mean[5])


def one(found: list[Finding], rule: Rule) -> Finding:
    """The only finding, which is of that rule."""
    assert [finding.rule for finding in found] == [rule], found
    return found[0]


@pytest.mark.parametrize("weight", [-0.3, 0.0])
def test_a_factor_that_falls_or_stays(weight: float, tmp_path: Path) -> None:
    found = one(planted(tmp_path, lambda n: set_phi(n, 3, weight, 0.5)), FALLING)
    assert (found.place, found.rule.severity) == ("body.3", "warning")
    assert found.figure == pytest.approx(weight)
    assert planted(tmp_path, lambda n: set_phi(n, 3, 0.01, 0.5)) == []


def test_a_factor_near_the_end_of_float16(tmp_path: Path) -> None:
    """exp(b) at the std of training, which is 21.1 in this block; 16376 is a quarter of 65504."""
    found = one(planted(tmp_path, lambda n: set_phi(n, 1, 1.0, 6.8)), LARGE_FACTOR)
    assert found.place == "body.1" and "std of 21.1" in found.detail
    assert found.figure == pytest.approx(21.1 * np.exp(6.8), rel=0.01)
    assert planted(tmp_path, lambda n: set_phi(n, 1, 1.0, 6.5)) == []


def test_a_factor_beyond_the_cap_of_its_exponent(tmp_path: Path) -> None:
    found = one(planted(tmp_path, lambda n: set_phi(n, 1, 1.0, 500.0)), LARGE_FACTOR)
    assert found.figure == pytest.approx(np.exp(80))


def test_a_shift_far_above_the_deviation(tmp_path: Path) -> None:
    found = one(planted(tmp_path, lambda n: move(n, 2, -9.0)), SHIFTED_FAR)
    assert found.place == "body.2.norm1" and found.figure == pytest.approx(9.0, rel=1e-4)
    assert planted(tmp_path, lambda n: move(n, 2, -7.5)) == []


def test_a_shift_that_cannot_be_folded(tmp_path: Path) -> None:
    found = one(planted(tmp_path, lambda n: move(n, 2, 17.0)), KEPT)
    assert found.place == "body.2.norm1" and found.figure == pytest.approx(17.0, rel=1e-4)


def test_a_small_gamma_that_blocks_the_fold(tmp_path: Path) -> None:
    kept, near = planted(tmp_path, lambda n: move(n, 2, 40.0, gamma=1e-3))
    assert (kept.rule, near.rule) == (KEPT, NEAR_ZERO_GAMMAS)
    assert near.detail == "1 of 48: channels 5"
    assert near.figure == pytest.approx(1e-3, rel=0.2)  # its median is near 1


def test_a_gamma_of_zero_that_blocks_the_fold(tmp_path: Path) -> None:
    def kill(network: Network) -> None:
        norm = block(network, 2).norm1
        norm.get_parameter("weight")[5] = 0
        norm.get_parameter("bias")[5] = 0.25

    kept, near = planted(tmp_path, kill)
    assert (kept.rule, near.rule) == (KEPT, NEAR_ZERO_GAMMAS)
    assert kept.figure == np.inf and near.figure == 0


def test_dead_channels_inside_a_branch_block_nothing(tmp_path: Path) -> None:
    """norm2 folds into the activation whatever its gammas are."""

    def kill(network: Network) -> None:
        weight = block(network, 6).norm2.get_parameter("weight")
        weight[[1, 40]] = torch.tensor([0.0, -1e-4])

    found = one(planted(tmp_path, kill), NEAR_ZERO_GAMMAS)
    assert (found.place, found.detail) == ("body.6.norm2", "2 of 48: channels 1, 40")
    assert found.rule.severity == "note"


def test_gammas_that_are_small_together_are_not_near_zero(tmp_path: Path) -> None:
    def shrink(network: Network) -> None:
        block(network, 6).norm2.get_parameter("weight").mul_(1e-5)

    assert planted(tmp_path, shrink) == []


def test_guesses_are_findings_until_they_are_given(tmp_path: Path) -> None:
    network = EDSR(upscale=2, blocks=2, features=8)
    torch.save(network.state_dict(), tmp_path / "bare.pth")
    found = find(read(tmp_path / "bare.pth"))
    assert [(f.rule, f.place, f.figure) for f in found] == [
        (GUESSED, "res_scale", 0.1),
        (GUESSED, "rgb_range", 255.0),
    ]
    (left,) = find(read(tmp_path / "bare.pth", res_scale=0.1))
    assert left.place == "rgb_range"
    assert find(read(tmp_path / "bare.pth", res_scale=1, rgb_range=1)) == []


def test_a_bias_is_judged_by_itself_where_nothing_tells_the_deviation(tmp_path: Path) -> None:
    """A folded model, and a network with group normalization."""
    size = {"blocks": 2, "features": 12, "norm_groups": 3}
    network = random_network("edsr", 2, **size)
    with torch.no_grad():
        set_phi(network, 1, 1.0, 10.0)
    save_checkpoint(tmp_path / "grouped.safetensors", network)
    found = one(find(read(tmp_path / "grouped.safetensors")), LARGE_FACTOR)
    assert found.figure == pytest.approx(np.exp(10.0)) and "std of 1" in found.detail


# What cannot be read


def _tile_model(folder: Path) -> Path:
    return MODELS / "edsr_adadm_x2.tile.onnx"


def _engine(folder: Path) -> Path:
    (folder / "x2.engine").write_bytes(b"ftrt")
    return folder / "x2.engine"


def _text(folder: Path) -> Path:
    (folder / "x2.txt").write_text("x2")
    return folder / "x2.txt"


def _empty(folder: Path) -> Path:
    (folder / "x2.onnx").write_bytes(b"")
    return folder / "x2.onnx"


def _without_metadata(folder: Path) -> Path:
    model = onnx.load(MODELS / "edsr_adadm_x2.onnx")
    del model.metadata_props[:]
    onnx.save(model, folder / "x2.onnx")
    return folder / "x2.onnx"


def _inlined_without_folds(folder: Path) -> Path:
    _, proto, _ = exported("edsr", 2, Options(fold="off", modulator="inline"))
    onnx.save(proto, folder / "x2.onnx")
    return folder / "x2.onnx"


def _without_modulators(folder: Path) -> Path:
    (folder / "plain_network.py").write_text(
        "from torch import nn\n\n\ndef build():\n"
        "    return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))\n"
    )
    network = importlib.import_module("plain_network").build()
    torch.save(network.state_dict(), folder / "plain.pth")
    return folder / "plain.pth"


@pytest.mark.parametrize(
    ("make", "arch", "given", "error", "match"),
    [
        (_engine, "auto", {}, CalibrationError, "is an engine, .* give the ONNX model that"),
        (_text, "auto", {}, CalibrationError, r"ends in .txt; expected a checkpoint \(.pt, "),
        (lambda f: f / "no.pth", "auto", {}, CheckpointError, "no such file"),
        (lambda f: f / "no.onnx", "auto", {}, EngineError, "cannot be read: No such file"),
        (lambda f: f, "auto", {}, CheckpointError, "is a directory"),
        (_empty, "auto", {}, EngineError, "no ONNX model, or not the whole of one"),
        (_without_metadata, "auto", {}, CalibrationError, "metadata lacks adadm.version, adadm.f"),
        (_tile_model, "auto", {}, CalibrationError, "is the model `external` of tiles, give the"),
        (
            lambda f: MODELS / "edsr_adadm_x2.onnx",
            "edsr",
            {"res_scale": 0.1},
            CalibrationError,
            "--arch, --res-scale can be given with a checkpoint only",
        ),
        (_inlined_without_folds, "auto", {}, CalibrationError, "--modulator function, or give the"),
        (
            _without_modulators,
            "plain_network:build",
            {"rgb_range": 1.0},
            CalibrationError,
            r"has no modulator of AdaDM, so .*\(adadm.export.AdaDM\)",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(
    make: Callable[[Path], Path],
    arch: str,
    given: dict[str, float],
    error: type[AdadmError],
    match: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    path = make(tmp_path)
    with pytest.raises(error, match=match):
        read_inspected_file(path, arch, **given)
