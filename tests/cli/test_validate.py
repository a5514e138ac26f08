"""`adadm validate`: certificates, what changes them, and what they find."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from _support.exports import write_with_limits
from _support.lowered import lowered_small, small_checkpoint
from _support.planted import fold_without_border
from _support.scripts import ROOT
from _support.slow import slow_unless
from _support.toy_networks import enlarging_edsr
from adadm.deployment import bundle, validate
from adadm.deployment.certification.criteria import CRITERIA
from adadm.export.limits import trunk_deviations
from adadm.export.networks.network import named_modulators
from adadm.export.proof.drawn_pictures import drawn_pictures
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.cli import run
from adadm.runtime.files import sha256_of
from adadm.runtime.images.arrays import batch_from_image, read_image
from adadm.runtime.models.bundled import bundled_path
from adadm.runtime.records import digest_of
from adadm.runtime.verify import main as verify_main

CHECKPOINT = ROOT / "export" / "checkpoints" / "edsr_adadm_x2.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validate")
    (folder / "photos").mkdir()
    for name in ("astronaut", "coffee"):
        photo = photographs()[name][60:188, 120:248]
        Image.fromarray(photo).save(folder / "photos" / f"{name}.png")
    return folder


@functools.cache
def certified(folder: Path) -> Path:
    """A folder with a certificate and all that it is bound to; what alters it takes a copy."""
    whole = folder / "whole"
    shutil.copytree(folder / "photos", whole / "photos")
    shutil.copy(lowered_small("tensorrt10", "fp16"), whole / "x2.onnx")
    shutil.copy(small_checkpoint(), whole / "x2.safetensors")
    assert adadm(whole / "x2.onnx", whole, "--hr") == 0
    return whole


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(certified(folder), tmp_path / "copy")


def adadm(model: Path, whole: Path, *options: str | Path) -> int:
    words = ["--against", whole / "x2.safetensors", "--images", whole / "photos", *options]
    return run("adadm validate", validate.main, [str(model), "--seconds", "0", *map(str, words)])


def again(whole: Path, *options: str | Path) -> int:
    words = ["--certificate", whole / "x2.certificate.json", *options]
    return run("adadm validate", validate.main, [str(word) for word in words])


def content_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def edit(path: Path, change: Callable[[dict[str, Any]], None], mend: bool = False) -> None:
    """Change a certificate, or a result; with a digest that fits, where `mend` is asked for."""
    content = content_of(path)
    change(content)
    if mend:
        content["sha256"] = digest_of(content)
    path.write_text(json.dumps(content))


def test_a_healthy_model_is_certified(folder: Path) -> None:
    whole = certified(folder)
    content = content_of(whole / "x2.certificate.json")
    assert content["passed"] and content["failures"] == [] and content["place"] is None
    assert content["model"]["sha256"] == sha256_of(whole / "x2.onnx")
    assert content["reference"]["sha256"] == sha256_of(whole / "x2.safetensors")
    assert {file["name"]: file["sha256"] for file in content["images"]["files"]} == {
        path.name: sha256_of(path) for path in (whole / "photos").iterdir()
    }
    stages = {stage["name"]: stage for stage in content["ledger"]["stages"]}
    assert list(stages) == ["PyTorch", "float32 export", "FP16"]
    assert stages["float32 export"]["parity_db"] > 120 > stages["FP16"]["parity_db"] > 65
    checks = {check["name"]: check for check in content["checks"]}
    assert len(checks) == len(CRITERIA) + 6
    lost_db = stages["PyTorch"]["psnr_y_db"] - stages["FP16"]["psnr_y_db"]
    assert checks["PSNR-Y lost"]["figure"] == pytest.approx(lost_db, abs=1e-4)
    worst = min(row["parity_db"] for row in content["photographs"])
    assert checks["worst parity"]["figure"] == worst
    assert [block["name"] for block in content["blocks"]] == ["body.0", "body.1"]
    assert all(0 < block["error"] < 0.01 for block in content["blocks"])
    assert content["device"]["cpu"]["name"] and content["versions"]["torch"]
    assert content["sha256"] == digest_of(content)
    page = (whole / "x2.certificate.html").read_text()
    assert content["model"]["sha256"] in page and "data:image" in page


def test_a_certificate_holds_where_all_is_as_it_was(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for photograph in list((copied / "photos").iterdir()):  # equal ones under other names
        shutil.copy(photograph, photograph.with_name(f"zz {photograph.name}"))
    certificate = copied / "x2.certificate.json"  # as an editor on Windows saves it
    edited = "\ufeff" + certificate.read_text().replace("\n", "\r\n")
    certificate.write_bytes(edited.encode())
    assert again(copied) == 0  # the places in it are relative
    assert "holds: certified" in capsys.readouterr().out


def change_weight(whole: Path) -> None:
    model = onnx.load(whole / "x2.onnx")
    weight = next(t for t in model.graph.initializer if "conv1.weight" in t.name)
    values = numpy_helper.to_array(weight).copy()
    values.ravel()[7] *= 2
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, whole / "x2.onnx")


def change_pixel(whole: Path) -> None:
    pixels = read_image(whole / "photos" / "coffee.png").copy()
    pixels[3, 4, 1] ^= 1
    Image.fromarray(pixels).save(whole / "photos" / "coffee.png")


def change_content(
    change: Callable[[dict[str, Any]], None], mend: bool = True, photos: bool = False
) -> Callable[[Path], None]:
    """Of the certificate; without photographs nothing is measured again."""

    def apply(whole: Path) -> None:
        edit(whole / "x2.certificate.json", change, mend)
        if not photos:
            shutil.rmtree(whole / "photos")

    return apply


def better(content: dict[str, Any]) -> None:
    content["checks"][1]["figure"] += 6
    content["photographs"][0]["largest_error"] /= 2


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (change_weight, ["x2.onnx was changed: expected sha256"]),
        (change_pixel, ["coffee.png was changed: expected sha256"]),
        (
            change_content(lambda c: c["checks"][0].update(figure=0.00001), mend=False),
            ["it was changed after it was written: expected the digest"],
        ),
        pytest.param(
            change_content(better, photos=True),
            ["worst parity is", "measured now:", "largest_error of"],
            marks=pytest.mark.slow,
        ),
        (
            change_content(lambda c: c["checks"][0].update(limit=1.0)),
            ["the limit 1 of PSNR-Y lost contradicts"],
        ),
        (
            change_content(lambda c: c["thresholds"]["limits"].update(lost_db=1.0)),
            ["limit lost_db: expected 0.005, got 1.0"],
        ),
        (
            change_content(lambda c: c["checks"][2].update(figure=50.0)),
            ["but is recorded as passed"],
        ),
        (
            change_content(lambda c: c.update(passed=False)),
            ["the verdict contradicts the checks"],
        ),
    ],
)
def test_what_is_changed_or_contradicts_itself_is_named(
    copied: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    reasons: list[str],
) -> None:
    """A changed figure also where the digest fits."""
    change(copied)
    assert again(copied) == 1
    said = capsys.readouterr().err
    assert all(reason in said for reason in reasons), said


def test_without_photographs_digests_are_compared(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "photos").rename(copied / "elsewhere")
    assert again(copied) == 0
    assert "the figures were not measured again" in capsys.readouterr().out
    (copied / "elsewhere" / "coffee.png").unlink()
    assert again(copied, "--images", copied / "elsewhere") == 1
    assert "the photograph coffee.png is missing" in capsys.readouterr().err
    (copied / "x2.safetensors").unlink()
    assert again(copied) == 1
    assert "x2.safetensors is missing" in capsys.readouterr().err


def halve_scale(model: onnx.ModelProto) -> None:
    """Of one layer's weights: its convolution returns half of what it should."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    dequantized = (n for n in model.graph.node if n.op_type == "DequantizeLinear")
    node = next(n for n in dequantized if "body.1.conv2.weight" in n.input[0])
    scale = tensors[node.input[1]]
    values = numpy_helper.to_array(scale)
    scale.CopyFrom(numpy_helper.from_array((values / 2).astype(values.dtype), scale.name))


def move_bias(model: onnx.ModelProto) -> None:
    """Of one channel of the tail, by one grey level: a quarter of the pixels of one colour."""
    (bias,) = (
        tensor
        for tensor in model.graph.initializer
        if list(tensor.dims) == [12] and "collapsed.bias" in tensor.name
    )
    values = numpy_helper.to_array(bias).copy()
    values[4] += 1
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))


def fold_naively(model: onnx.ModelProto) -> None:
    fold_without_border(model, "body.2.norm2")


@pytest.mark.parametrize(
    ("defect", "of", "failing", "place"),
    slow_unless(
        lambda defect, *_: defect is halve_scale,  # what finds the others has tests of its own
        [
            (halve_scale, "int8", "layers at fault", "body.1.conv2"),
            (move_bias, "int8", "layers at fault", "tail.0.0.collapsed"),
            (fold_naively, "float32", "worst parity", "body.2.conv2"),
        ],
    ),
)
def test_a_model_made_worse_fails_and_the_report_points_at_the_place(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    defect: Callable[[onnx.ModelProto], None],
    of: str,
    failing: str,
    place: str,
) -> None:
    path = bundled_path("x2") if of == "float32" else lowered_small("tensorrt10", "int8")
    against = CHECKPOINT if of == "float32" else small_checkpoint()
    model = onnx.load(path)
    defect(model)
    onnx.save(model, tmp_path / "worse.onnx")
    assert adadm(tmp_path / "worse.onnx", certified(folder), "--hr", "--against", against) == 1
    said = capsys.readouterr().err
    assert "not certified:" in said and f"{failing} is" in said
    content = content_of(tmp_path / "worse.certificate.json")
    assert not content["passed"]
    assert place in content["place"]["where"]
    page = (tmp_path / "worse.certificate.html").read_text()
    assert content["place"]["text"].split(":")[0] in page


def test_inputs_without_originals_and_limits_of_ones_own(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, limits, photos = (tmp_path / name for name in ("c.json", "limits.json", "photos"))
    photos.mkdir()
    Image.fromarray(photographs()["coffee"][60:108, 120:180]).save(photos / "coffee.png")
    limits.write_text('{"parity_db": 300, "mean_shift_levels": 0.4}')
    options = ("--images", photos, "--thresholds", limits, "-o", output)
    assert adadm(lowered_small("tensorrt10", "fp16"), certified(folder), *options) == 1
    captured = capsys.readouterr()
    assert "worst parity is" in captured.err and "at least 300" in captured.err
    assert "not measured: it requires originals" in captured.out
    content = content_of(output)
    assert content["thresholds"]["given"] == {"parity_db": 300.0, "mean_shift_levels": 0.4}
    limits.write_text('{"parity": 99}')
    assert adadm(lowered_small("tensorrt10", "fp16"), certified(folder), *options) == 1
    assert "unknown name 'parity'; did you mean 'parity_db'?" in capsys.readouterr().err
    assert "PSNR-Y lost" not in [check["name"] for check in content["checks"]]
    assert content["ledger"]["stages"][0]["psnr_y_db"] is None
    assert content["speed"][0]["lr_px"] == [60, 48]  # not reduced


@functools.cache
def limited(folder: Path) -> Path:
    """A small network whose limits one of two images exceeds."""
    whole = folder / "limited"
    (whole / "photos").mkdir(parents=True)
    coffee, stark = photographs()["coffee"][60:92, 120:160], drawn_pictures(32)["bars_12"]
    for name, photo in (("coffee", coffee), ("stark", stark)):
        Image.fromarray(photo).save(whole / "photos" / f"{name}.png")
    network = enlarging_edsr()
    stds = trunk_deviations(network, torch.from_numpy(batch_from_image(coffee, 255)))
    for name, module in named_modulators(network).items():
        module.limit = float(np.float32(1.01 * stds[name]))
    write_with_limits(whole / "x2.onnx", network)
    return whole


def held_to_itself(whole: Path, *options: str | Path) -> int:
    return adadm(whole / "x2.onnx", whole, "--against", whole / "x2.onnx", *options)


@pytest.mark.slow
def test_a_photograph_beyond_a_limit_fails_until_it_is_accepted_by_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = limited(folder)
    certificate = whole / "x2.certificate.json"
    assert held_to_itself(whole) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"not certified: stark\.png is [\d.]+ x limit \(body\.0 and 1 more\)", said)
    assert (
        "levels differ" in said
        and "coffee.png" not in said
        and "accept the photograph by name (--accept)" in said
    )
    content = content_of(certificate)
    row = content["checks"][-1]
    assert (row["name"], row["passed"], row["accepted"]) == ("stark.png", False, False)
    effects = {photo["name"]: photo["limits"]["beyond"] for photo in content["photographs"]}
    assert effects["coffee.png"] == {} and effects["stark.png"]["body.0"] == row["figure"] > 1

    assert held_to_itself(whole, "--accept", "stark.png", "sky") == 0
    assert "accepted" in capsys.readouterr().out
    content = content_of(certificate)
    assert content["passed"] and content["failures"] == []
    assert content["accepted"] == ["sky", "stark.png"] and content["checks"][-1]["accepted"]
    page = certificate.with_suffix(".html").read_text()
    assert "Accepted by name, although they fail: stark.png" in page and "waived" in page
    assert again(whole) == 0
    edit(certificate, lambda c: c.update(accepted=["sky"]), mend=True)
    assert again(whole) == 1
    assert "stark.png is recorded as accepted" in capsys.readouterr().err


def test_what_is_accepted_must_exist(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert held_to_itself(limited(folder), "--accept", "strak.png") == 1
    said = capsys.readouterr().err
    assert "--accept: unknown name 'strak.png'; did you mean 'stark.png'? Known: PSNR-Y" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "x2 --against x2.pt --images a --seconds -1",
            "seconds from 0 to 86400, got '-1'",
        ),
        ("--certificate c.json --accept sky", "a certificate has its own names"),
    ],
)
def test_usage(options: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        validate.main(options.split())
    assert message in " ".join(capsys.readouterr().err.split())


def test_another_network_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--against", bundled_path("x2"), "-o", tmp_path / "c.json")
    assert adadm(bundled_path("x4"), certified(folder), *options) == 1
    said = capsys.readouterr().err
    assert "is of another network than" in said and "upscale 4, not 2" in said
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_certificate_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x2.certificate.json"
    assert again(tmp_path) == 1
    assert "cannot be read: No such file" in capsys.readouterr().err
    path.write_text('{"format": 1, "kind": "poem"}')
    assert again(tmp_path) == 1
    assert (
        "kind: expected 'model', got 'poem'; adadm validate writes certificates"
        in capsys.readouterr().err
    )


@functools.cache
def on_device(folder: Path) -> Path:
    """A bundle, and what a device wrote of it."""
    output = folder / "device" / "bundle"
    words = [str(bundled_path("x2")), "--target", "jetson-orin-jp62", "-o", str(output)]
    words += ["--no-wheels", "--opt", "1x40x48"]
    assert run("adadm bundle", bundle.main, words) == 0
    result = output.parent / "result.json"
    words = [str(output), "--json", str(result), "--seconds", "0.1"]
    assert run("verify", verify_main, words) == 0
    return output.parent


@pytest.fixture
def device(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(on_device(folder), tmp_path / "device")


def take_in(device: Path, *accepted: str) -> int:
    words = [str(device / "result.json"), "--against", str(device / "bundle")]
    return run(
        "adadm validate", validate.main, [*words, *(["--accept", *accepted] if accepted else [])]
    )


def hold(device: Path) -> int:
    words = ["--certificate", str(device / "result.certificate.json")]
    return run("adadm validate", validate.main, words)


def test_a_devices_result_becomes_its_certificate(device: Path) -> None:
    assert take_in(device, "no-engine") == 0
    certificate = device / "result.certificate.json"
    content = content_of(certificate)
    assert content["accepted"] == ["no-engine"]
    assert content["kind"] == "device" and content["passed"]
    assert content["model"]["source_sha256"] == sha256_of(bundled_path("x2"))
    assert content["model"]["checkpoint_sha256"] == sha256_of(CHECKPOINT)
    assert content["latency"]["end_to_end_ms"]["median"] > 0
    assert certificate.with_suffix(".html").is_file()
    assert hold(device) == 0


def test_a_device_that_ran_no_engine_is_not_certified(
    device: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here the models ran on ONNX Runtime."""
    assert take_in(device) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "no engine was run, only the model on ONNX Runtime (" in said
    assert "accept that (--accept no-engine)" in said
    assert not content_of(device / "result.certificate.json")["passed"]
    assert hold(device) == 1
    assert take_in(device, "no-engines") == 1
    assert "did you mean 'no-engine'?" in capsys.readouterr().err


def lower_figure(found: dict[str, Any]) -> None:
    found["references"][0]["outputs"]["sr"]["psnr_db"] = 31.5


def leave_out(found: dict[str, Any]) -> None:
    del found["references"][0]


def of_another(found: dict[str, Any]) -> None:
    found["sha256"]["MANIFEST.json"] = "f" * 64


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lower_figure, "whole astronaut: sr is 31.5 dB, required"),
        (leave_out, "whole astronaut: the device did not run it"),
        (of_another, "it ran another bundle"),
    ],
)
def test_a_devices_figures_are_held_to_the_bundle(
    device: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], None],
    reason: str,
) -> None:
    edit(device / "result.json", change)
    assert take_in(device, "no-engine") == 1
    assert reason in capsys.readouterr().err
    assert not content_of(device / "result.certificate.json")["passed"]


def test_a_devices_certificate_is_bound_to_its_result(
    device: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert take_in(device, "no-engine") == 0
    edit(
        device / "result.certificate.json",
        lambda content: content["latency"]["end_to_end_ms"].update(median=0.1),
        mend=True,
    )
    assert hold(device) == 1
    assert "latency differs from that of result.json" in capsys.readouterr().err
    edit(device / "result.json", lower_figure)
    assert hold(device) == 1
    assert "result.json was changed" in capsys.readouterr().err
