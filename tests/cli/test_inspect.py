"""`adadm inspect` as a user runs it, and what it measures on photographs against PyTorch."""

from __future__ import annotations

import functools
import io
import json
import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from _support.exports import exported as unfolded
from _support.lowered import lowered_x2
from _support.networks import CUSTOM, random_edsr, random_network
from _support.scripts import ROOT
from _support.slow import slow_unless
from _support.toy_networks import (
    blocks_of,
    enlarging_edsr,
    plant_large_trunk,
    plant_offset,
    plant_shift,
    write_checkpoint,
    write_crops,
)
from adadm.calibration.lowering import Lowering, LoweringOptions
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.calibration.source_network import load_source_network
from adadm.calibration.stages import run_of_model
from adadm.deployment.inspection import figure
from adadm.deployment.inspection.rules import DIVERGING, LITTLE_HEADROOM, RULES
from adadm.export import Options, save_checkpoint
from adadm.export.checkpoint import load_checkpoint
from adadm.export.networks import EDSR, Network
from adadm.export.networks.blocks import Modulator
from adadm.export.proof.drawn_pictures import drawn_pictures, plain_pictures
from adadm.export.proof.pytorch import enlarge_image
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.cli import main
from adadm.runtime.images.arrays import batch_from_image, image_from_batch, read_image, reduce
from adadm.runtime.images.metrics import resemblance_margin
from adadm.runtime.models.bundled import bundled_path
from adadm.runtime.targets import TARGETS

Array = npt.NDArray[np.float64]
CHECKPOINTS = ROOT / "export" / "checkpoints"
X2 = CHECKPOINTS / "edsr_adadm_x2.safetensors"
Findings = dict[tuple[str, str], dict[str, Any]]
"""By what was found, and where."""


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The usual terminal, and a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pieces of photographs, 44x36 px once they are reduced by 2."""
    folder = tmp_path_factory.mktemp("crops")
    write_crops(folder, count=4)
    return folder


def inspect(source: Path, *options: str | Path) -> int:
    return main(["inspect", *map(str, (source, *options))])


def report_of(source: Path, folder: Path, *options: str | Path) -> dict[str, Any]:
    """The figures of a run that succeeded, which are JSON by its own rules."""
    assert inspect(source, "--json", folder / "report.json", *options) == 0
    report: dict[str, Any] = json.loads(
        (folder / "report.json").read_text(), parse_constant=lambda text: pytest.fail(text)
    )
    return report


class Inspected(NamedTuple):
    report: dict[str, Any]
    lines: list[str]


@functools.cache
def bundled(name: str, crops: Path) -> Inspected:
    """A bundled checkpoint on the photographs, inspected once."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        report = report_of(
            CHECKPOINTS / f"{name}.safetensors", crops.parent / name, "--images", crops
        )
    return Inspected(report, printed.getvalue().splitlines())


every_bundled = pytest.mark.parametrize(
    "name",
    slow_unless(
        lambda name: name == "edsr_adadm_x2",
        ["edsr_adadm_x2", "edsr_adadm_x3", "edsr_adadm_x4", "rdn_adadm_x2", "nlsn_adadm_x2"],
    ),
)

# Against PyTorch


def observed(network: Network, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Of each modulator, photograph by photograph, what hooks on the network see in float64."""
    network = network.double()
    seen: dict[str, list[dict[str, Any]]] = {}

    def watch(name: str, module: Modulator, inputs: tuple[torch.Tensor, ...]) -> None:
        trunk, residual = inputs
        factor = module.factor(trunk).item()
        seen.setdefault(name, []).append(
            {
                "trunk": trunk.std().item(),
                "residual": residual.std().item(),
                "factor": factor,
                "modulated": residual.std().item() * factor,
            }
        )

    for name, module in network.root.named_modules():
        if isinstance(module, Modulator):
            module.register_forward_pre_hook(
                lambda module, inputs, name=name: watch(name, module, inputs)
            )
    with torch.no_grad():
        for path in sorted(folder.iterdir()):
            image = read_image(path)
            side = network.upscale
            height, width = (length // side * side for length in image.shape[:2])
            lr = reduce(image[:height, :width], side)
            network(torch.from_numpy(batch_from_image(lr, network.rgb_range)).double())
    return seen


def assert_as_observed(
    report: dict[str, Any], expected: dict[str, list[dict[str, Any]]], rel: float
) -> None:
    found = {f"{block['name']}.phi": block for block in report["blocks"]}
    assert found.keys() == expected.keys()
    for name, seen in expected.items():
        assert len(seen) == 4
        for kind in ("trunk", "residual", "factor", "modulated"):
            values = [photograph[kind] for photograph in seen]
            least, largest = min(values), max(values)
            measures = {"least": least, "mean": np.mean(values), "largest": largest}
            measures["ratio"] = largest / least
            shown = {key: found[name][kind][key] for key in measures}
            assert shown == pytest.approx(measures, rel=rel)


@every_bundled
def test_deviations_and_factors_are_pytorchs(name: str, crops: Path) -> None:
    network = load_checkpoint(CHECKPOINTS / f"{name}.safetensors").network
    assert_as_observed(bundled(name, crops).report, observed(network, crops), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "upscale"), slow_unless(lambda name, upscale: False, CUSTOM.items())
)
def test_networks_of_a_user(name: str, upscale: int, crops: Path, tmp_path: Path) -> None:
    """Also branches inside branches; a deviation of 1e3 in one and of 0.1 in the other."""
    network = random_network(name, upscale)
    path = tmp_path / "network.safetensors"
    save_checkpoint(path, network)
    report = report_of(path, tmp_path, "--arch", name, "--images", crops)
    assert_as_observed(report, observed(network, crops), rel=1e-3)


def map_of(norm: nn.Module) -> tuple[Array, Array]:
    """Scale and shift of a batch normalization."""
    assert isinstance(norm, nn.BatchNorm2d)
    tensors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    gamma, beta, mean, variance = (t.detach().double().numpy() for t in tensors if t is not None)
    scale: Array = gamma / np.sqrt(variance + norm.eps)
    return scale, beta - mean * scale


@dataclass
class Seen:
    """A tensor by channel: the largest magnitude of each image, the moments of each photograph."""

    largest: list[Array] = field(default_factory=list)
    squares: list[Array] = field(default_factory=list)
    means: list[Array] = field(default_factory=list)

    def bits(self, weight: Array) -> float:
        """Of INT8, once the channels are equalized for weights (M, C, 3, 3)."""
        largest = np.max(self.largest, axis=0)
        equalizer = np.abs(weight).max(axis=(0, 2, 3)) ** 0.05 / largest**0.95
        variance = np.mean(self.squares, axis=0) - np.mean(self.means, axis=0) ** 2
        typical = np.sqrt(np.mean(variance * equalizer**2))
        return float(np.log2(typical / ((largest * equalizer).max() / 127)))


def test_the_room_is_that_of_what_the_tensors_hold(crops: Path, tmp_path: Path) -> None:
    """The tensors of the folded graph, made by numpy of what PyTorch has."""
    save_checkpoint(tmp_path / "edsr.safetensors", enlarging_edsr(blocks=2))
    report = report_of(tmp_path / "edsr.safetensors", tmp_path, "--images", crops)
    network = load_checkpoint(tmp_path / "edsr.safetensors").network  # with its limits
    first, second = blocks_of(network.double())
    scale1, shift1 = map_of(first.norm1)
    scale2, _ = map_of(first.norm2)
    next_scale, next_shift = map_of(second.norm1)
    tensors = {name: Seen() for name in ("trunk", "hidden", "residual", "next")}
    photographs = False

    def see(name: str, x: torch.Tensor, shift: Array | float = 0.0) -> None:
        values = x.detach().numpy() + np.reshape(shift, (1, -1, 1, 1))
        tensors[name].largest.append(np.abs(values).max(axis=(0, 2, 3)))
        if photographs:
            tensors[name].squares.append((values**2).mean(axis=(0, 2, 3)))
            tensors[name].means.append(values.mean(axis=(0, 2, 3)))

    first.register_forward_pre_hook(lambda _, x: see("trunk", x[0], shift1 / scale1))
    first.conv2.register_forward_pre_hook(lambda _, x: see("hidden", x[0]))
    first.phi.register_forward_pre_hook(lambda _, x: see("residual", x[1]))
    second.register_forward_pre_hook(lambda _, x: see("next", x[0], next_shift / next_scale))
    images = list(plain_pictures(48, 64).values())
    reduced = [reduce(read_image(path), 2) for path in crops.iterdir()]
    with torch.no_grad():
        for index, image in enumerate([*images, *reduced]):
            photographs = index >= len(images)
            network(torch.from_numpy(batch_from_image(image, 255)).double())

    room = report["blocks"][0]["headroom"]
    peak = float(np.max(tensors["next"].largest))
    assert room["largest"]["name"] == "body.0.phi"
    assert room["largest"]["peak"] == pytest.approx(peak, rel=1e-4)
    assert room["largest"]["below_overflow"] == pytest.approx(65504 / peak, rel=1e-4)
    rms = math.sqrt(np.mean(tensors["residual"].squares))
    assert room["smallest"]["name"] == "body.0.conv2"
    assert room["smallest"]["above_underflow"] == pytest.approx(rms * 2**14, rel=1e-4)
    weight1 = first.conv1.weight.detach().numpy() * scale1.reshape(1, -1, 1, 1)
    bits = {
        "body.0.conv1": tensors["trunk"].bits(weight1 * scale2.reshape(-1, 1, 1, 1)),
        "body.0.conv2": tensors["hidden"].bits(first.conv2.weight.detach().numpy()),
    }
    assert room["convolution"] == min(bits, key=bits.__getitem__)
    assert room["bits"] == pytest.approx(min(bits.values()), abs=2e-3)  # scales are float16


# Folded and lowered files


def factors_of(report: dict[str, Any]) -> list[list[float]]:
    """Least, mean and largest of each block."""
    kinds = ("least", "mean", "largest")
    return [[block["factor"][kind] for kind in kinds] for block in report["blocks"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "precision"),
    [("tensorrt10", "int8"), ("jetson-orin-jp51", "fp16"), ("cpu", "int8")],
)
def test_a_lowered_model_shows_the_factors_of_its_checkpoint(
    target: str,
    precision: Literal["fp16", "int8"],
    crops: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its modulators are nodes, or inlined for TensorRT 8."""
    path = lowered_x2(target, precision)
    report = report_of(path, tmp_path, "--images", crops, "-o", tmp_path / "lowered.svg")
    printed = " ".join(capsys.readouterr().out.split())
    assert f"precision {precision}" in printed and "the checkpoint shows them" in printed
    assert "8 shifted trunk, 8 folded into the activation" in printed
    expected = bundled("edsr_adadm_x2", crops).report
    assert report["form"]["checkpoint_sha256"] == expected["sha256"]
    for block, other in zip(report["blocks"], expected["blocks"], strict=True):
        assert block["name"] == other["name"]
        assert block["weight"] == pytest.approx(other["weight"], rel=1e-5)
        assert block["bias"] == pytest.approx(other["bias"], rel=1e-4)
        assert block["trunk"] is None and block["headroom"] is None
    np.testing.assert_allclose(factors_of(report), factors_of(expected), rtol=0.05)
    assert {found["finding"] for found in report["findings"]} <= {DIVERGING.name}
    deployed, free = (report["contrast"][form] for form in ("deployed", "without_limits"))
    assert deployed["headroom"] is None and len(deployed["margins"]) == 20
    if precision == "fp16":
        same = expected["contrast"]
        assert deployed["margins"] == pytest.approx(same["deployed"]["margins"], abs=0.3)
        assert free["headroom"] == pytest.approx(same["without_limits"]["headroom"], rel=0.1)
        assert set(free["lost"]) == set(same["without_limits"]["lost"])


@pytest.mark.slow
def test_a_lowered_model_whose_trunk_was_multiplied(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its biases are others, and its factors are shown in the units of the network."""
    network = enlarging_edsr()
    plant_large_trunk(network, 128)
    source = write_checkpoint(tmp_path / "edsr.safetensors", network).with_suffix(".onnx")
    output = tmp_path / "x2.onnx"
    arguments = ["quantize", source, "--images", crops, "-o", output, "--precision", "fp16"]
    arguments += ["--accept", "worse-than-bicubic"]
    assert main(list(map(str, arguments))) == 0
    capsys.readouterr()
    report = report_of(output, tmp_path, "--images", crops)
    assert "and b is that of the scaled trunk" in " ".join(capsys.readouterr().out.split())
    expected = report_of(source, tmp_path, "--images", crops)
    np.testing.assert_allclose(factors_of(report), factors_of(expected), rtol=0.02)
    biases = [[block["bias"] for block in found["blocks"]] for found in (report, expected)]
    assert not np.allclose(biases[0], biases[1], rtol=0.05)


def exported(folder: Path, *options: str) -> Path:
    """A small network as `adadm export` writes it."""
    save_checkpoint(folder / "edsr.safetensors", enlarging_edsr())
    output = folder / "edsr.onnx"
    assert main(["export", str(folder / "edsr.safetensors"), "-o", str(output), *options]) == 0
    return output


def test_a_model_for_images_of_one_size(crops: Path, tmp_path: Path) -> None:
    """The middle of each photograph is taken, as uint8."""
    path = exported(tmp_path, "--io", "uint8", "--static", "1x20x30")
    report = report_of(path, tmp_path, "--images", crops)
    assert "tiles from the middle, reduced to 30x20 px" in report["images"]
    assert len(factors_of(report)) == 2


# Findings that photographs show


@every_bundled
def test_bundled_networks_have_no_findings(name: str, crops: Path) -> None:
    """But for NLSN, which is a little worse than bicubic interpolation on some drawn pictures."""
    report, lines = bundled(name, crops)
    if name.startswith("nlsn"):
        assert {found["finding"] for found in report["findings"]} == {DIVERGING.name}
        assert min(report["contrast"]["deployed"]["margins"].values()) > -4
    else:
        assert report["findings"] == []
        assert "Findings: none" in lines


@every_bundled
def test_the_contrast_is_that_which_pytorch_bears(name: str, crops: Path) -> None:
    """With limits and without, against networks that were loaded so."""
    contrast = bundled(name, crops).report["contrast"]
    path = CHECKPOINTS / f"{name}.safetensors"
    networks = {
        "deployed": load_checkpoint(path).network,
        "without_limits": load_checkpoint(path, limit="off").network,
    }
    pictures = drawn_pictures(24)
    for form, network in networks.items():
        found = contrast[form]
        assert len(found["margins"]) == 20
        for picture in ("bars_12", "checker_8", "text_9", "stripes_2"):
            lr = pictures[picture]
            margin = resemblance_margin(enlarge_image(network, lr), lr)
            assert found["margins"][picture] == pytest.approx(margin, abs=1e-3)
    assert contrast["deployed"]["headroom"] is None  # no bound
    free = contrast["without_limits"]
    lost = {picture for picture, margin in free["margins"].items() if margin < -1}
    assert set(free["lost"]) == lost
    trained_on_drawn_pictures = name.startswith("edsr")
    assert not lost if trained_on_drawn_pictures else len(lost) >= 5
    assert 1.5 < free["headroom"] < 3.5
    # The same photograph with a step more contrast, in float64.
    network, photo = networks["without_limits"].double(), photographs((free["photograph"],))
    side = 24 * network.upscale
    (hr,) = photo.values()
    top, left = ((length - side) // 2 for length in hr.shape[:2])
    lr = reduce(hr[top : top + side, left : left + side], network.upscale)
    x = torch.from_numpy(batch_from_image(lr, network.rgb_range)).double()
    mean = x.mean(dim=(2, 3), keepdim=True)
    margins = []
    for growth in (free["headroom"], free["headroom"] * 2 ** (1 / 8)):
        with torch.inference_mode():
            sr = (network(mean + growth * (x - mean)) - mean) / growth + mean
        image = image_from_batch(sr.nan_to_num().numpy(), network.rgb_range)
        margins.append(resemblance_margin(image, lr))
    assert margins[0] > -1 > margins[1]


def planted(folder: Path, images: Path, change: Callable[[Network], None]) -> Findings:
    """What is found in a small network after a change of its weights.

    Without its contrast: it repeats pixels, which is less than bicubic interpolation.
    """
    network = enlarging_edsr()
    with torch.no_grad():
        change(network)
    source = write_checkpoint(folder / "planted.safetensors", network).with_suffix(".onnx")
    report = report_of(source, folder, "--images", images)
    return {
        (found["finding"], found["place"]): found
        for found in report["findings"]
        if found["finding"] not in (DIVERGING.name, LITTLE_HEADROOM.name)
    }


def test_a_small_network_has_no_findings(crops: Path, tmp_path: Path) -> None:
    assert planted(tmp_path, crops, lambda network: None) == {}


def test_a_trunk_near_overflow(crops: Path, tmp_path: Path) -> None:
    found = planted(tmp_path, crops, lambda network: plant_large_trunk(network, 128))
    assert found.keys() == {
        ("float16 overflow is near", place) for place in ("body.0", "body.1", "outside the blocks")
    }
    first = found["float16 overflow is near", "body.0"]
    assert 0.5 < first["figure"] < 4 and "body.0.phi reaches" in first["detail"]
    assert "multiplies a trunk that is too large" in first["advice"]


def test_few_levels_for_what_has_a_large_mean(crops: Path, tmp_path: Path) -> None:
    found = planted(tmp_path, crops, lambda network: plant_offset(network, 1))
    key = ("few INT8 levels for typical values", "body.1")
    assert found.keys() == {key}
    assert found[key]["detail"] == "body.1.conv2" and found[key]["figure"] < 0
    assert "--precision int8" in found[key]["advice"]


def test_a_residual_below_the_normal_numbers_of_float16(crops: Path, tmp_path: Path) -> None:
    def shrink(network: Network) -> None:
        first = blocks_of(network)[0]
        assert first.conv2.bias is not None and first.phi.bias is not None
        first.conv2.weight.mul_(1e-6)
        first.conv2.bias.mul_(1e-6)
        first.phi.bias.add_(math.log(1e6))

    found = planted(tmp_path, crops, shrink)
    below = found["typical values below the normal numbers of float16", "body.0"]
    assert below["detail"] == "body.0.conv2" and 0 < below["figure"] < 1
    large = found["factor near the end of float16", "body.0"]
    assert large["figure"] > 16376 and large["detail"] == "on a photograph"


def test_a_channel_of_the_trunk_that_nothing_moves(crops: Path, tmp_path: Path) -> None:
    def silence(network: Network) -> None:
        parameters = dict(network.named_parameters())
        for name in ("head.0", "body.0.conv2", "body.1.conv2"):
            parameters[f"{name}.weight"][5] = 0

    found = planted(tmp_path, crops, silence)
    assert found.keys() == {
        ("channels of the trunk that nothing moves", f"body.{block}") for block in range(2)
    }
    assert all(finding["detail"] == "1 of 8: channels 5" for finding in found.values())


def test_a_factor_that_moves_with_content(crops: Path, tmp_path: Path) -> None:
    """One photograph nearly without contrast, and a modulator that makes much of it."""
    images = Path(shutil.copytree(crops, tmp_path / "images"))
    pale = np.rint(120 + 0.05 * read_image(next(images.iterdir()))).astype(np.uint8)
    Image.fromarray(pale).save(images / "pale.png")

    def strengthen(network: Network) -> None:
        phi = blocks_of(network)[1].phi
        assert phi.bias is not None
        phi.weight.fill_(2.5)
        phi.bias.fill_(-7.0)

    moving = planted(tmp_path, images, strengthen)["factor that moves much with content", "body.1"]
    assert moving["figure"] > 4 and " to " in moving["detail"]
    assert "--photographs" in moving["advice"] and "--stats external" in moving["advice"]


def test_the_measured_deviation_overrules_that_of_the_training(crops: Path, tmp_path: Path) -> None:
    """A trunk that varies less on these photographs than it did in training."""

    def claim_a_large_variance(network: Network) -> None:
        """Of one channel, whose scale and shift stay."""
        norm = blocks_of(network)[1].norm1
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
        assert norm.running_mean is not None
        scale, _ = map_of(norm)
        center = 2000.0  # 6 times the std that the running statistics then tell
        norm.running_var[3] = 1e6
        norm.weight[3] = scale[3] * math.sqrt(1e6)
        norm.bias[3] = scale[3] * (center + norm.running_mean[3])

    found = planted(tmp_path, crops, claim_a_large_variance)
    far = found["shift far above the deviation", "body.1.norm1"]
    assert far["figure"] > 16 and far["severity"] == "note"


@pytest.mark.slow
def test_a_shift_of_8_deviations_costs_float16_some_db(crops: Path, tmp_path: Path) -> None:
    """The reason of the threshold: planted where it changes nothing in float32."""
    psnr_db = {}
    for times in (None, 8.0):
        network = load_checkpoint(X2).network
        for block in blocks_of(network):
            block.conv1.weight.data[:, ::4] = 0  # nothing reads these channels
            if times is not None:
                plant_shift(block.norm1, slice(None, None, 4), times)
        save_checkpoint(tmp_path / "x2.safetensors", network)
        source = load_source_network(tmp_path / "x2.safetensors")
        images = CalibrationImages.of([crops], 2)
        lowering = Lowering.of(source, images, LoweringOptions("fp16", TARGETS["tensorrt10"], 1))
        models = (lowering.reference, lowering.lowered("whole", ()).evaluated)
        expected, found = (run_of_model(model) for model in models)
        errors = [
            np.mean((expected(lr).astype(np.float64) - found(lr)) ** 2)
            for lr in (batch_from_image(photograph.lr, 255) for photograph in images)
        ]
        psnr_db[times] = 10 * math.log10(255**2 / np.mean(errors))
    assert 2 < psnr_db[None] - psnr_db[8.0] < 12


# What is printed and written


@every_bundled
def test_tables_fit_the_terminal(name: str, crops: Path) -> None:
    """Whole names and whole figures."""
    lines = bundled(name, crops).lines
    assert max(map(len, lines)) <= 80
    path = CHECKPOINTS / f"{name}.safetensors"
    for key, module in load_checkpoint(path).network.named_modules():
        if isinstance(module, Modulator):
            block = key.removesuffix(".phi")
            (weight, bias), *_ = [line.split()[1:3] for line in lines if f" {block} " in line]
            assert float(weight) == pytest.approx(module.weight.item(), abs=1e-4)
            assert module.bias is not None
            assert float(bias) == pytest.approx(module.bias.item(), abs=1e-4)
        elif isinstance(module, nn.BatchNorm2d):
            assert any(f" {key} " in line for line in lines), key


def test_what_was_guessed_and_what_to_do_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(random_edsr(2).state_dict(), tmp_path / "bare.pth")
    assert inspect(tmp_path / "bare.pth", "--rgb-range", "1") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "res_scale = 0.1 (GUESSED" in printed
    assert "rgb_range = 1 (given on the command line)" in printed
    assert "warning: guessed hyper-parameter" in printed and "res_scale: 0.1" in printed
    assert "what to do: no tensor shows it" in printed


def test_a_normalization_that_stays_is_printed_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(unfolded("nlsn", 2, Options(fold="off"))[1], tmp_path / "nlsn.onnx")
    assert inspect(tmp_path / "nlsn.onnx") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "body.1.norm1 kept: body.1.conv1 pads it with zeros; the trunk comes from" in printed


def test_group_normalization_is_said_to_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = random_network("edsr", 2, blocks=2, features=12, norm_groups=3)
    save_checkpoint(tmp_path / "grouped.safetensors", network)
    assert inspect(tmp_path / "grouped.safetensors", "-o", tmp_path / "grouped.svg") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "group normalization takes its statistics from the input, so that it cannot" in printed


def test_every_finding_is_documented_and_its_options_exist(
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = (ROOT / "scripts" / "train.py").read_text()
    for verb in ("export", "quantize"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        known += capsys.readouterr().out
    documented = (ROOT / "docs" / "guide" / "inspect.md").read_text()
    assert all(f"| {rule.name} |" in documented for rule in RULES)
    flags = {flag for rule in RULES for flag in re.findall(r"--[a-z][a-z-]+", rule.advice)}
    assert len(flags) >= 8
    assert {flag for flag in flags if flag not in known} == set()


@pytest.mark.parametrize("suffix", slow_unless(lambda suffix: suffix == ".svg", [".svg", ".png"]))
def test_the_same_figures_make_the_same_bytes(suffix: str, crops: Path, tmp_path: Path) -> None:
    written = []
    source = write_checkpoint(tmp_path / "edsr.safetensors", enlarging_edsr()).with_suffix(".onnx")
    for turn in ("first", "second"):
        picture, report = tmp_path / turn / f"x2{suffix}", tmp_path / turn / "x2.json"
        sheet = tmp_path / turn / f"sheet{suffix}"
        options = ("--images", crops, "-o", picture, "--sheet", sheet, "--json", report)
        assert inspect(source, *options) == 0
        names = [f"sheet{suffix}", "x2.json", f"x2{suffix}"]
        assert sorted(path.name for path in picture.parent.iterdir()) == names
        written.append([path.read_bytes() for path in (picture, sheet, report)])
    assert written[0] == written[1]
    picture = tmp_path / "first" / f"x2{suffix}"
    if suffix == ".svg":
        text = "".join(ElementTree.fromstring(picture.read_text()).itertext())
        assert all(f"body.{index}" in text for index in range(2))
        for shown in ("norm1", "norm2", "std(x)", "std(r * factor)", "factor", "INT8 bits"):
            assert shown in text
    else:
        assert np.asarray(Image.open(picture)).std() > 10


def test_a_picture_of_weights_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer panels; with a gamma of 0, which no logarithmic scale has."""
    monkeypatch.setattr(figure, "_MOST_NAMES", 2)
    network = EDSR(upscale=2, blocks=3, features=8)
    with torch.no_grad():
        blocks_of(network)[1].norm2.get_parameter("weight").zero_()
    save_checkpoint(tmp_path / "edsr.safetensors", network)
    assert inspect(tmp_path / "edsr.safetensors", "-o", tmp_path / "edsr.svg") == 0
    texts = list(ElementTree.fromstring((tmp_path / "edsr.svg").read_text()).itertext())
    assert texts.count("body.2") == 3 and "body.1" not in texts  # every other one has its name
    assert any("gammas" in text for text in texts)
    assert not any("photographs" in text for text in texts)


def test_what_is_observed_is_kept_for_the_next_run(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for `adadm quantize`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = write_checkpoint(tmp_path / "edsr.safetensors", enlarging_edsr()).with_suffix(".onnx")
    assert inspect(source, "--images", crops) == 0
    (kept,) = (tmp_path / "adadm").iterdir()
    before = kept.stat().st_mtime_ns
    arguments = ["quantize", source, "--images", crops, "-o", tmp_path / "x2.onnx"]
    arguments += ["--precision", "fp16", "--budget-db", "1", "--accept", "worse-than-bicubic"]
    assert main(list(map(str, arguments))) == 0
    assert [path.name for path in (tmp_path / "adadm").iterdir()] == [kept.name]
    assert kept.stat().st_mtime_ns == before


# What is refused


def test_photographs_cannot_be_run_through_two_at_a_time(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without photographs it can be inspected all the same."""
    path = exported(tmp_path, "--static", "2x20x30")
    assert inspect(path) == 0
    assert "Contrast: not measured" in capsys.readouterr().out
    assert inspect(path, "--sheet", tmp_path / "sheet.png") == 1
    assert "so that no drawn pictures are run; give the checkpoint" in capsys.readouterr().err
    assert inspect(path, "--images", crops, "--json", tmp_path / "report.json") == 1
    out, err = capsys.readouterr()
    assert err.startswith("adadm inspect: ") and out == ""
    assert "has a batch size of 2, but photographs are measured" in err
    assert not (tmp_path / "report.json").exists()


def test_unusable_photographs_are_named(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"png")
    images = write_crops(tmp_path / "images", count=11)
    source = write_checkpoint(tmp_path / "edsr.safetensors", enlarging_edsr()).with_suffix(".onnx")
    assert inspect(source, "--images", *images, tmp_path / "broken.png") == 0
    captured = capsys.readouterr()
    assert "broken.png" in "".join(captured.err.split())
    assert "11 of 12 photographs" in captured.out


def test_a_picture_of_another_kind_is_a_mistake_of_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        inspect(X2, "-o", tmp_path / "x2.pdf")
    assert stopped.value.code == 2
    assert "a name that ends in .svg or .png" in " ".join(capsys.readouterr().err.split())


def test_all_files_or_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x2.json").mkdir()
    source = bundled_path("x2")
    assert inspect(source, "-o", tmp_path / "x2.svg", "--json", tmp_path / "x2.json") == 1
    assert f"{tmp_path / 'x2.json'}: Is a directory" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["x2.json"]


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("name", ["edsr_adadm_x2", "nlsn_adadm_x2"])
def test_weights_alone_take_less_than_8_s(name: str) -> None:
    """A process of its own, imports included; the least of three."""
    program = Path(sys.executable).with_name("adadm")
    command = [str(program), "inspect", str(CHECKPOINTS / f"{name}.safetensors")]
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        assert b"blocks" in subprocess.run(command, check=True, capture_output=True).stdout
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 8, seconds
