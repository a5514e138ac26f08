"""`adadm export` as a user runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from _support.lowered import small_checkpoint
from _support.networks import random_edsr
from _support.parity import photograph_like
from _support.slow import slow_unless
from adadm.export import assembly, to_onnx
from adadm.export.networks import EDSR
from adadm.export.operators.modulator import modulators
from adadm.export.passes import BakeImageIO, Decision
from adadm.export.tile_models import tile_graphs
from adadm.runtime import Upscaler
from adadm.runtime.cli import run
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.upscaling.memory import memory_models
from adadm.runtime.upscaling.tile_plan import choose_overlap

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "export" / "checkpoints" / "edsr_adadm_x2.safetensors"


def metadata_of(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def export(*arguments: str | Path) -> int:
    return run("adadm export", to_onnx.main, [str(argument) for argument in arguments])


def small(folder: Path, blocks: int = 1) -> Path:
    """A checkpoint of an EDSR x2, without what its tensors do not show."""
    torch.save(random_edsr(2, blocks, 4).state_dict(), folder / "edsr.pt")
    return folder / "edsr.pt"


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The message of an export that fails, in one line; nothing is written."""
    folder = Path(arguments[0]).parent
    before = files(folder)
    assert export(*arguments) == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err and "wrote" not in captured.out
    assert files(folder) == before
    return " ".join(captured.err.split())


@pytest.mark.parametrize(
    ("checkpoint", "blocks"),
    slow_unless(lambda checkpoint, _: checkpoint is None, [(None, 2), (CHECKPOINT, 8)]),
)
def test_the_script_exports_a_checkpoint(
    checkpoint: Path | None, blocks: int, tmp_path: Path
) -> None:
    """That of README, bundled or small."""
    output, report = tmp_path / "out" / "x2.onnx", tmp_path / "x2.json"
    script = str(ROOT / "export" / "to_onnx.py")
    source = checkpoint or small_checkpoint()
    command = [sys.executable, script, *map(str, (source, "-o", output, "--report", report))]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "res_scale = 0.1 (from the file's metadata)" in result.stdout
    assert f"shifted trunk: {blocks}" in result.stdout
    assert "tail: collapsed" in result.stdout
    assert ("WARNING" in result.stderr) == (checkpoint is None)  # it is not trained
    onnx.checker.check_model(onnx.load(output), full_check=True)

    content = json.loads(report.read_text())
    cases = {case["name"] for case in content["parity"]}
    assert {"astronaut", "odd size", "batch of 2", "smallest", "flat black"} <= cases
    assert all(case["largest_error"] <= 1e-3 for case in content["parity"])
    gains = [photo["network_db"] - photo["bicubic_db"] for photo in content["accuracy"]]
    assert len(gains) == 4 and (min(gains) > 0.3 or checkpoint is None)
    metadata = metadata_of(output)
    assert metadata["adadm.checkpoint_sha256"] == content["checkpoint"]["sha256"]
    assert json.loads(metadata["adadm.hyperparameters"])["res_scale"]["source"] == "file"
    assert not any(key.startswith("onnxsim") for key in metadata)


def test_a_guess_that_fails_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parity holds, since PyTorch shares the guess; the photographs tell."""
    assert export(small(tmp_path), "--static", "2x20x24", "--factors") == 0
    captured = capsys.readouterr()
    message = " ".join(captured.err.split())
    assert "WARNING: the network is worse than bicubic interpolation" in message
    assert "guessed: res_scale 0.1, rgb_range 255; set them by option" in message
    assert "res_scale = 0.1 (GUESSED" in captured.out
    model = onnx.load(tmp_path / "edsr.onnx")
    assert [output.name for output in model.graph.output] == ["sr", "factor_0"]


@pytest.mark.slow
def test_a_checkpoint_of_a_training_program_gives_the_same_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The averaged weights, unless others are named; what was taken is said."""
    plain = small(tmp_path)
    wanted, raw = torch.load(plain), random_edsr(2, 1, 4, seed=1).state_dict()
    state = {f"ema.module.{key}": value for key, value in wanted.items()}
    state |= {f"model.{key}": value for key, value in raw.items()}
    state |= {"criterion.weight": torch.ones(3)}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "run.CKPT")
    options = ("--static", "1x20x24", "--report", str(tmp_path / "report.json"))
    assert export(plain, *options) == 0
    assert "weights: the whole file" in capsys.readouterr().out
    assert export(tmp_path / "run.CKPT", *options) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "weights: state_dict.ema.module; prefix ema.module.; not taken: state_dict.model" in said
    assert "dropped: 1 of criterion" in said
    assert json.loads((tmp_path / "report.json").read_text())["checkpoint"]["weights"] == {
        "key": "state_dict.ema.module",
        "prefix": "ema.module.",
        "weight_norms": 0,
        "others": ["state_dict.model"],
        "dropped": {"criterion": 1},
    }
    models = [onnx.load(tmp_path / name) for name in ("edsr.onnx", "run.onnx")]
    for model in models:
        for entry in model.metadata_props:
            if entry.key in ("adadm.checkpoint_sha256", "adadm.memory"):  # the latter is measured
                entry.value = ""
    assert models[0].SerializeToString() == models[1].SerializeToString()
    assert export(tmp_path / "run.CKPT", "--weights", "model", *options) == 0
    chosen = onnx.load(tmp_path / "run.onnx").graph
    assert chosen.initializer != models[1].graph.initializer


def test_a_key_that_holds_no_network_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, small(tmp_path), "--weights", "params_ema")
    assert "--weights params_ema: " in said and "edsr.pt holds a network under its top (.)" in said


def test_a_checkpoint_that_does_not_fit_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = EDSR(2, 2, 4).state_dict()
    del state["body.1.phi.weight"]
    torch.save(state, tmp_path / "edsr.pt")
    assert "missing (1): body.1.phi.weight" in refused(capsys, tmp_path / "edsr.pt")


def test_a_network_that_diverges_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, small(tmp_path, blocks=3), "--res-scale", "1e15")
    assert "PyTorch's own output of the case astronaut is not finite" in said


def wrong_bias(model: ir.Model) -> list[Decision]:
    """In place of the folds: one bias moved by a grey level."""
    value = model.graph.initializers["tail.1.bias"]
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy() + 1, name=value.name)
    return []


def wrong_factor(model: ir.Model) -> list[Decision]:
    """So small a mistake that the image alone would not show it."""
    for node in modulators(model.graph):
        node.attributes["bias"] = ir.AttrFloat32("bias", node.attributes["bias"].as_float() + 1e-4)
    return []


def wrong_form(form: int) -> Callable[[ir.Model], tuple[ir.Model, ir.Model]]:
    """A modulator of one of the two forms for tiles."""

    def make(model: ir.Model) -> tuple[ir.Model, ir.Model]:
        graphs = tile_graphs(model)
        nodes = [n for n in graphs[form].graph if n.op_type.startswith("AdaDMModulate")]
        for node in nodes:
            weight = node.attributes["weight"].as_float()
            node.attributes["weight"] = ir.AttrFloat32("weight", weight * 1.01)
        assert len(nodes) == 2 - form
        return graphs

    return make


DIFFER = "ONNX Runtime and PyTorch differ by more than 3e-05.*nothing was written"


@pytest.mark.parametrize(
    ("name", "planted", "options", "message"),
    [
        ("fold_batch_norm", wrong_bias, (), f"{DIFFER}.*astronaut"),
        ("fold_batch_norm", wrong_factor, ("--factors",), r"factor_0 of astronaut: expected \["),
        ("tile_graphs", wrong_form(0), ("--stats", "external"), DIFFER),
        ("tile_graphs", wrong_form(1), ("--stats", "external"), DIFFER),
        (
            "BakeImageIO",
            lambda _: BakeImageIO(254),  # for white
            ("--io", "uint8"),
            r"astronaut: with --io uint8, \d+ of \d+ values differ",
        ),
    ],
    ids=["bias", "factor", "tile", "moments", "images"],
)
def test_a_planted_mistake_is_found_and_nothing_is_written(
    name: str,
    planted: Callable[..., object],
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(assembly, name, planted)
    options = (*options, "--report", str(tmp_path / "report.json"))
    assert re.search(message, refused(capsys, small(tmp_path, 2), *options))


def test_the_tail_is_kept_on_request_and_images_go_in_and_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    options = ("--tail", "original", "--io", "uint8", "--report", report)
    assert export(small(tmp_path), *options) == 0
    assert "tail: kept (--tail original)" in capsys.readouterr().out
    content = json.loads(report.read_text())
    assert (content["tail"], content["options"]["io"]) == (None, "uint8")
    model = onnx.load(tmp_path / "edsr.onnx")
    for value in (model.graph.input[0], model.graph.output[0]):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    metadata = metadata_of(tmp_path / "edsr.onnx")
    assert metadata["adadm.tail"] == "original"
    assert metadata["adadm.stats"] == "internal"
    assert (content["tiles_parity"], content["halo"]) == ([], [])
    assert files(tmp_path) == {"edsr.pt", "edsr.onnx", "report.json"}


FORMS = {"edsr.onnx": "internal", "edsr.tile.onnx": "external", "edsr.moments.onnx": "moments"}


def test_tiles_are_two_more_files_that_the_runtime_can_plan_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    assert export(small(tmp_path, 2), "--stats", "external", "--report", report) == 0
    content = json.loads(report.read_text())
    notes = {name: metadata_of(tmp_path / name) for name in FORMS}
    assert {name: note.pop("adadm.stats") for name, note in notes.items()} == FORMS
    metadata = notes["edsr.onnx"]
    assert metadata.pop("adadm.channel_maps")  # of the model for whole images alone
    assert metadata == notes["edsr.tile.onnx"] == notes["edsr.moments.onnx"]

    # head, 2 blocks of 2, the body's last, and a tail of 1.5
    assert metadata["adadm.receptive_field"] == str(1 + 4 + 1 + 2)
    listed = [[error["px"], error["levels"]] for error in content["halo"]]
    assert json.loads(metadata["adadm.halo_errors"]) == listed
    levels = dict(listed)
    assert levels[0] > 1 > 0.01 > levels[8]
    for px in (2, 4, 6):
        accuracy = 4 * levels[px] * 1.001  # the runtime leaves a margin of four
        assert choose_overlap(ModelMetadata.from_props(metadata), accuracy) == (px, "")
    memory = memory_models(ModelMetadata.from_props(metadata))
    assert {"cpu"} <= memory.keys() <= {"cpu", "openvino"}
    assert {backend: vars(model) for backend, model in memory.items()} == content["memory"]
    assert min(model.bytes_per_pixel for model in memory.values()) > 3 * 4 * 4

    whole, tiles = content["parity"], content["tiles_parity"]
    assert [case["name"] for case in tiles] == [case["name"] for case in whole]
    assert {"astronaut", "batch of 2", "flat black"} <= {case["name"] for case in tiles}
    peak = max(case["peak"] for case in tiles)
    assert 0 < max(case["largest_error"] for case in tiles) <= 3e-5 * peak
    assert content["options"]["stats"] == "external"
    said = capsys.readouterr().out
    assert "parity of the models for tiles" in said
    assert said.count("wrote ") == 3
    assert files(tmp_path) == {*FORMS, "edsr.pt", "report.json"}


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        # the last of three that gets its name
        (("--stats", "external", "--static", "1x20x24"), "edsr.onnx"),
        (("--report", "report.json"), "report.json"),
    ],
)
def test_a_file_that_cannot_be_written_leaves_none(
    options: tuple[str, ...],
    taken: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / taken).mkdir()
    assert taken in refused(capsys, small(tmp_path), *options)


def test_tiles_of_one_size_for_images(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ("--static", "1x40x44", "--io", "uint8", "--factors", "--report", report)
    assert export(small(tmp_path, 2), "--stats", "external", *options) == 0
    content = json.loads(report.read_text())
    assert content["halo"] == []
    assert len(content["tiles_parity"]) == len(content["parity"]) > 0
    for name in FORMS:
        metadata = metadata_of(tmp_path / name)
        assert "adadm.halo_errors" not in metadata
        assert metadata["adadm.io"] == "uint8"
        memory = memory_models(ModelMetadata.from_props(metadata))
        assert {model.bytes_per_pixel for model in memory.values()} == {0}
        assert min(model.fixed_bytes for model in memory.values()) > 0
        lr = onnx.load(tmp_path / name).graph.input[0].type.tensor_type
        assert lr.elem_type == onnx.TensorProto.UINT8
        assert [side.dim_value for side in lr.shape.dim] == [1, 40, 44, 3]
    outputs = {
        name: [value.name for value in onnx.load(tmp_path / name).graph.output] for name in FORMS
    }
    assert outputs == {
        "edsr.onnx": ["sr", "factor_0", "factor_1"],
        "edsr.tile.onnx": ["sr"],
        "edsr.moments.onnx": ["moments"],
    }
    image = photograph_like((1, 70, 61))[0].transpose(1, 2, 0).round().astype(np.uint8)
    with Upscaler(tmp_path / "edsr.onnx", backend="cpu", accept=True) as upscaler:
        assert upscaler.plan(70, 61).count == 3 * 2
        assert upscaler.upscale(image).shape == (140, 122, 3)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["edsr.pt", "--opset", "16"],
        ["edsr.pt", "--static", "1x0x20"],
        ["edsr.pt", "--static", "20x20"],
        ["edsr.pt", "--arch", "rcan"],
        ["edsr.pt", "-o", "edsr.pt"],  # an output that is no ONNX file, the checkpoint above all
    ],
)
def test_usage_errors_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        export(*arguments)
    assert stop.value.code == 2


def test_a_missing_extra_is_named_by_the_script_too(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.modules['onnx_ir'] = None; sys.argv = ['to_onnx.py', 'edsr.pt']; "
        f"runpy.run_path({str(ROOT / 'export' / 'to_onnx.py')!r}, run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    install = "pip install 'adadm-deploy[export,cpu]'"
    assert result.stderr == (f"adadm export: onnx-ir is not installed, but required: {install}\n")


MEASURED = """
import resource, sys, time, torch
from adadm.export import load_checkpoint, export_onnx
from adadm.export.networks import ARCHITECTURES
from _support.networks import PUBLISHED, make_non_neutral
torch.manual_seed(0)
architecture, size = PUBLISHED[sys.argv[2]]
network = ARCHITECTURES[architecture](int(sys.argv[3]), **size)
make_non_neutral(network, seed=0, steps=2, size=12, residual_gain=1)
torch.save(network.state_dict(), sys.argv[1])
del network
start = time.process_time()
export = export_onnx(load_checkpoint(sys.argv[1]))
seconds = (time.process_time() - start) / 2  # of two cores
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
from adadm.runtime.engines.tensorrt_api import Profile, Settings, build_engine
profile = {"lr": Profile((1, 3, 16, 16), (1, 3, 64, 64), (1, 3, 256, 256))}
engine = build_engine(export.model.SerializeToString(), [profile], "rtx", Settings(("SM89",)))
print(len(export.parity), seconds, peak, len(engine.plan))
"""


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "upscale", "most_seconds", "most_gib"),
    [("edsr", 4, 90, 6), ("rdn B", 4, 180, 8), ("nlsn", 2, 180, 8)],
)
def test_published_sizes_export_within_time_and_memory(
    name: str, upscale: int, most_seconds: float, most_gib: float, tmp_path: Path
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path / "published.pt", name, str(upscale)],
        capture_output=True,
        text=True,
        cwd=ROOT / "tests",
    )
    assert result.returncode == 0, result.stderr
    cases, seconds, peak_bytes, engine_bytes = (float(word) for word in result.stdout.split())
    print(f"{name}: {seconds:.1f} s, {peak_bytes / 2**30:.2f} GiB, {cases:.0f} cases")
    assert cases == 11
    assert seconds < most_seconds
    assert peak_bytes < most_gib * 2**30
    assert engine_bytes > 40e6
