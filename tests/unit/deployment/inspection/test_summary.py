"""What `adadm inspect` reads from weights alone, and which of it is a finding."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from _support.exports import exported, traced
from _support.networks import CUSTOM, random_network
from _support.scripts import ROOT
from _support.slow import slow_unless
from _support.toy_networks import blocks_of, plant_shift, write_checkpoint
from adadm.deployment.inspection.findings import Finding, find
from adadm.deployment.inspection.inspected_file import InspectedFile, read_inspected_file
from adadm.deployment.inspection.rules import (
    FALLING,
    GUESSED,
    INITIAL,
    KEPT,
    LARGE_FACTOR,
    NEAR_ZERO_GAMMAS,
    NEVER_UPDATED,
    SHIFTED_FAR,
    Rule,
)
from adadm.deployment.inspection.structure import block_of, read_structure
from adadm.deployment.inspection.summary import inspect_weights
from adadm.export import Options, save_checkpoint
from adadm.export.checkpoint import load_checkpoint, network_class
from adadm.export.networks import Network
from adadm.export.networks.blocks import Modulator
from adadm.runtime.errors import AdadmError, CalibrationError, CheckpointError, EngineError

RRDB = "_support.custom_networks:RRDBLike"
Array = npt.NDArray[np.float64]
CHECKPOINTS = ROOT / "export" / "checkpoints"
MODELS = ROOT / "runtime" / "models"
BUNDLED = sorted(CHECKPOINTS.glob("*.safetensors"))
BUNDLED += [MODELS / f"edsr_adadm_x{upscale}.onnx" for upscale in (2, 3, 4)]
SMALL = slow_unless(lambda name: name in ("edsr", RRDB), ["edsr", "nlsn", "rdn", *CUSTOM])


def in_float64(tensor: torch.Tensor | None) -> Array:
    assert tensor is not None
    values: Array = tensor.detach().double().numpy()
    return values


def read(path: Path, arch: str = "auto", **given: Any) -> InspectedFile:
    return read_inspected_file(path, arch, free_sizes=True, **given)


def read_network(
    network: Network, folder: Path, arch: str = "auto", **given: float
) -> InspectedFile:
    """Of a checkpoint of it."""
    save_checkpoint(folder / "network.safetensors", network)
    return read(folder / "network.safetensors", arch, **given)


# What is read


@dataclass(frozen=True)
class Small:
    """A network, with gammas of both signs and tiny ones, and what is read of its checkpoint."""

    architecture: str
    modules: dict[str, nn.Module]
    subject: InspectedFile


@pytest.fixture(scope="module", params=SMALL)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Small:
    name: str = request.param
    network = random_network(name, CUSTOM.get(name, 2), seed=4)
    modules = dict(network.root.named_modules())
    tiny = next(module for module in modules.values() if isinstance(module, nn.BatchNorm2d))
    with torch.no_grad():
        tiny.weight[2], tiny.weight[5] = 1e-3, 0
        tiny.bias[5] = 0.5
    return Small(name, modules, read_network(network, tmp_path_factory.mktemp("small"), name))


def test_blocks_have_the_parameters_of_their_modules(small: Small) -> None:
    modules, subject = small.modules, small.subject
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


def test_normalizations_are_the_affine_maps_of_their_modules(small: Small) -> None:
    modules, subject = small.modules, small.subject
    near_zero = 0
    for norm in subject.structure.normalizations:
        module = modules[norm.name]
        assert isinstance(module, nn.BatchNorm2d)
        gamma, beta = in_float64(module.weight), in_float64(module.bias)
        mean, variance = in_float64(module.running_mean), in_float64(module.running_var)
        scale = gamma / np.sqrt(variance + module.eps)
        shift = beta - mean * scale
        assert norm.scale is not None and norm.shift is not None
        np.testing.assert_allclose(norm.gamma, gamma, rtol=1e-12)
        np.testing.assert_allclose(norm.scale, scale, rtol=1e-7)  # eps is a float32 there
        np.testing.assert_allclose(norm.shift, shift, rtol=1e-6, atol=1e-9)
        assert norm.negative_share == np.mean(gamma < 0)
        dead = np.abs(gamma) <= 0.01 * np.median(np.abs(gamma))
        assert norm.near_zero.tolist() == dead.tolist()
        near_zero += int(dead.sum())
        if norm.trunk_std is not None:
            assert norm.trunk_std == pytest.approx(np.sqrt(variance.mean() + np.var(mean)))
            assert norm.largest_center is not None
            with np.errstate(divide="ignore"):
                assert norm.largest_center == pytest.approx(np.abs(shift / scale).max(), rel=1e-5)
    assert near_zero == 2


def test_a_graph_of_fixed_sizes_shows_the_same(small: Small) -> None:
    free = small.subject
    fixed = read_inspected_file(free.path, small.architecture, free_sizes=False)
    assert free.source is not None and free.source.static is None
    assert fixed.source is not None and fixed.source.static is not None
    shown, expected = (inspect_weights(inspected).as_json() for inspected in (fixed, free))
    assert shown == expected and shown["batch_normalizations"]


@pytest.mark.parametrize(("architecture", "inside"), [("edsr", "norm1"), ("rdn", "norm")])
def test_only_what_reads_the_trunk_moves_it(architecture: str, inside: str) -> None:
    """norm1 of EDSR, not norm2; each norm of RDN."""
    structure = read_structure(traced(architecture, 2)[1])
    moving = [norm.name for norm in structure.normalizations if norm.trunk_std is not None]
    assert moving == [f"{block.name}.{inside}" for block in structure.blocks]
    assert all(block.trunk_std for block in structure.blocks)


def test_the_innermost_block_has_what_is_inside_it() -> None:
    blocks = ["body.1", "body.1.body.0", "body.10"]
    assert block_of("body.1.norm", blocks) == block_of("body.1", blocks) == "body.1"
    assert block_of("body.1.body.0.norm", blocks) == "body.1.body.0"
    assert block_of("body.10.conv1", blocks) == "body.10"
    assert block_of("body.2.conv1", blocks) is block_of("head.0", blocks) is None


GROUPED = {"blocks": 2, "layers": 2, "growth": 4, "features": 8, "norm_groups": 2}
LAYER_NORMED = "_support.custom_networks:LayerNormed"


@pytest.mark.parametrize(
    ("kind", "arch", "name"),
    [
        ("group normalization", "auto", "RDBs.0.norm"),
        ("layer normalization", LAYER_NORMED, "1.body.0.norm"),
    ],
)
def test_what_follows_the_input_has_gammas_and_no_map(
    kind: str, arch: str, name: str, tmp_path: Path
) -> None:
    if arch == "auto":
        network = random_network("rdn", 2, **GROUPED)
    else:
        network = network_class(arch)(rgb_range=255.0).eval()
    subject = read_network(network, tmp_path, arch)
    first, second = subject.structure.normalizations
    assert (first.name, first.kind, second.kind) == (name, kind, kind)
    gamma = in_float64(network.root.get_parameter(f"{name}.weight"))
    np.testing.assert_allclose(first.gamma, gamma)
    assert (gamma < 0).any() and first.negative_share == np.mean(gamma < 0)
    assert first.scale is None and first.shift is None and first.largest_center is None
    assert first.decision is None and subject.decisions == ()
    assert [block.trunk_std for block in subject.structure.blocks] == [None, None]


def test_parameters_that_are_computed_are_no_map() -> None:
    """As torch.onnx exports batch normalization without affine, or without running statistics."""
    model = traced("edsr", 2)[1]
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
    model = traced("edsr", 2)[1]
    nodes = [node for node in model.graph if node.op_type == "AdaDMModulate"]
    nodes[1].name, nodes[2].name = "body.1.before", "body.1.after"
    names = [block.name for block in read_structure(model).blocks]
    assert names == ["body.0", "body.1.before", "body.1.after"]
    nodes[0].name = "phi"
    assert read_structure(model).blocks[0].name == "phi"


def test_an_export_without_folds_says_what_its_checkpoint_says(tmp_path: Path) -> None:
    network, proto, _ = exported("edsr", 2, Options(fold="off", static=(1, 20, 30)))
    onnx.save(proto, tmp_path / "network.onnx")
    checkpoint, model = read_network(network, tmp_path), read(tmp_path / "network.onnx")
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
    assert subject.is_deployed and not subject.metadata.factor_scales
    assert subject.static == (2, 24, 18)
    kept = [decision.node for decision in decisions if decision.result is None]
    assert [found.name for found in subject.structure.normalizations] == kept and kept
    assert list(subject.decisions) == decisions
    assert subject.export_notes.items() >= {("io", io), ("precision", "float32")}
    assert subject.hyperparameters["blocks"].value == 9


# Findings


@pytest.mark.parametrize(
    "path",
    slow_unless(lambda path: path.suffix == ".onnx" or path.stem == "edsr_adadm_x2", BUNDLED),
    ids=lambda path: path.name,
)
def test_bundled_networks_and_models_have_no_findings(path: Path) -> None:
    subject = read(path)
    assert find(subject) == [] and len(subject.structure.blocks) > 1


def planted(folder: Path, change: Callable[[Network], None]) -> list[Finding]:
    """What is found in the bundled x2 after a change of its weights."""
    network = load_checkpoint(CHECKPOINTS / "edsr_adadm_x2.safetensors").network
    with torch.no_grad():
        change(network)
    return find(read(write_checkpoint(folder / "x2.safetensors", network).with_suffix(".onnx")))


def set_phi(network: Network, index: int, weight: float, bias: float) -> None:
    phi = blocks_of(network)[index].phi
    assert phi.bias is not None
    phi.weight.fill_(weight)
    phi.bias.fill_(bias)


def move(network: Network, times: float, gamma: float | None = None) -> None:
    """Let channel 5 of a block's norm1 shift the trunk by so many times its std."""
    if gamma is not None:
        set_gammas(network, "body.2.norm1", {5: gamma})
    plant_shift(blocks_of(network)[2].norm1, 5, times)


def set_gammas(network: Network, name: str, gammas: dict[int, float]) -> None:
    weight = network.get_parameter(f"{name}.weight")
    for channel, gamma in gammas.items():
        weight[channel] = gamma


def kill(network: Network) -> None:
    """A channel of the trunk that a block's norm1 replaces by a constant."""
    set_gammas(network, "body.2.norm1", {5: 0})
    network.get_parameter("body.2.norm1.bias")[5] = 0.25


near = functools.partial(pytest.approx, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda n: set_phi(n, 3, -0.3, 0.5), [(FALLING, "body.3", near(-0.3), "")]),
        (lambda n: set_phi(n, 3, 0.0, 0.5), [(FALLING, "body.3", 0, "")]),
        (lambda n: set_phi(n, 3, 0.01, 0.5), []),
        # exp(b) at the std of training, which is 22.8 there; 16376 is a quarter of 65504
        (
            lambda n: set_phi(n, 1, 1.0, 6.8),
            [(LARGE_FACTOR, "body.1", pytest.approx(22.8 * np.exp(6.8), rel=0.01), "std of 22.8")],
        ),
        (lambda n: set_phi(n, 1, 1.0, 6.5), []),
        # the cap of its exponent
        (lambda n: set_phi(n, 1, 1.0, 500.0), [(LARGE_FACTOR, "body.1", near(np.exp(80)), "")]),
        (lambda n: move(n, -9.0), [(SHIFTED_FAR, "body.2.norm1", near(9.0), "")]),
        (lambda n: move(n, -7.5), []),
        (lambda n: move(n, 17.0), [(KEPT, "body.2.norm1", near(17.0), "")]),
        # the median of these gammas is near 1
        (
            lambda n: move(n, 40.0, gamma=1e-3),
            [
                (KEPT, "body.2.norm1", near(40.0), ""),
                (
                    *(NEAR_ZERO_GAMMAS, "body.2.norm1", pytest.approx(1e-3, rel=0.2)),
                    "1 of 48: channels 5",
                ),
            ],
        ),
        (
            kill,
            [
                (KEPT, "body.2.norm1", np.inf, ""),
                (NEAR_ZERO_GAMMAS, "body.2.norm1", 0, "1 of 48: channels 5"),
            ],
        ),
        # inside a branch they block nothing: norm2 folds into the activation whatever it is
        (
            lambda n: set_gammas(n, "body.6.norm2", {1: 0.0, 40: -1e-4}),
            [(NEAR_ZERO_GAMMAS, "body.6.norm2", 0, "2 of 48: channels 1, 40")],
        ),
        # what is small together is not near zero
        (lambda n: n.get_parameter("body.6.norm2.weight").mul_(1e-5), []),
    ],
)
def test_a_planted_fault_is_found_where_it_is(
    change: Callable[[Network], None],
    expected: list[tuple[Rule, str, float, str]],
    tmp_path: Path,
) -> None:
    """And what is within the limit is none."""
    found = planted(tmp_path, change)
    assert [(f.rule, f.place, f.figure) for f in found] == [row[:3] for row in expected]
    assert all(row[3] in f.detail for f, row in zip(found, expected, strict=True))
    assert (FALLING.severity, NEAR_ZERO_GAMMAS.severity) == ("warning", "note")


def test_guesses_are_findings_until_they_are_given(tmp_path: Path) -> None:
    network = random_network("edsr", 2)
    torch.save(network.state_dict(), tmp_path / "bare.pth")
    found = find(read(tmp_path / "bare.pth"))
    assert [(f.rule, f.place, f.figure) for f in found] == [
        (GUESSED, "res_scale", 0.1),
        (GUESSED, "rgb_range", 255.0),
    ]
    (left,) = find(read(tmp_path / "bare.pth", res_scale=0.1))
    assert left.place == "rgb_range"
    assert find(read(tmp_path / "bare.pth", res_scale=1, rgb_range=1)) == []


@torch.no_grad()
def test_what_was_never_updated_is_named(tmp_path: Path) -> None:
    """One normalization with the statistics of a new one, and one modulator that is new."""

    def found() -> list[tuple[Rule, str]]:
        path = write_checkpoint(tmp_path / "edsr.safetensors", network)
        return [(f.rule, f.place) for f in find(read(path.with_suffix(".onnx")))]

    network = random_network("edsr", 2)
    norm = network.get_submodule("body.1.norm2")
    assert isinstance(norm, nn.BatchNorm2d)
    norm.reset_running_stats()
    set_phi(network, 2, 1.0, 0.0)
    assert found() == [(NEVER_UPDATED, "body.1.norm2"), (INITIAL, "body.2")]
    set_phi(network, 2, 1.0, 0.01)
    assert norm.running_mean is not None
    norm.running_mean[0] = 0.01
    assert found() == []


def test_a_bias_is_judged_by_itself_where_nothing_tells_the_deviation(tmp_path: Path) -> None:
    """A folded model, and a network with group normalization."""
    network = random_network("edsr", 2, blocks=2, features=12, norm_groups=3)
    with torch.no_grad():
        set_phi(network, 1, 1.0, 10.0)
    (found,) = find(read_network(network, tmp_path))
    assert found.rule == LARGE_FACTOR
    assert found.figure == pytest.approx(np.exp(10.0)) and "std of 1" in found.detail


# What cannot be read


def _file(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


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
        (
            *(_file("x2.engine", b"ftrt"), "auto", {}, CalibrationError),
            "is an engine, .* give the ONNX model from",
        ),
        (
            *(_file("x2.txt", b"x2"), "auto", {}, CheckpointError),
            "not a PyTorch checkpoint, nor a readable safetensors file",
        ),
        (lambda f: f / "no.pth", "auto", {}, CheckpointError, "no such file"),
        (_file("x2.onnx", b""), "auto", {}, EngineError, "is empty; copy or download it again"),
        (_without_metadata, "auto", {}, CalibrationError, "metadata lacks adadm.version, adadm.f"),
        (
            lambda f: MODELS / "edsr_adadm_x2.tile.onnx",
            *("auto", {}, CalibrationError, "is the `external` model for tiles; give the"),
        ),
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
            r"has no modulator of AdaDM to .*\(adadm.export.AdaDM\)",
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
        read(path, arch, **given)
