"""`adadm quantize` as a user runs it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from _support.parity import photograph_like
from _support.slow import slow_unless
from _support.toy_networks import (
    enlarging_edsr,
    plant_large_branch,
    plant_large_trunk,
    plant_offset,
    write_checkpoint,
    write_crops,
)
from adadm.export.networks import Network
from adadm.export.proof.pytorch import run_network
from adadm.runtime.cli import main
from adadm.runtime.images.arrays import batch_from_image, image_from_batch, read_image
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.targets import TARGETS, Target

Array = npt.NDArray[Any]
UNTRAINED = "worse-than-bicubic"
SCREEN = 200  # columns, so that a message stays on one line


@dataclass(frozen=True)
class Project:
    """A checkpoint, the same as `adadm export --fold off` has it, photographs, and a warm cache."""

    checkpoint: Path
    unfolded: Path
    images: Path
    cache: Path


@pytest.fixture(scope="module", autouse=True)
def wide_screen() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(SCREEN))
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("project")
    checkpoint = write_checkpoint(folder / "edsr.safetensors", enlarging_edsr())
    write_crops(folder / "images")
    return Project(checkpoint, checkpoint.with_suffix(".onnx"), folder / "images", folder / "cache")


@dataclass(frozen=True)
class Finished:
    """What a run that succeeded wrote and printed."""

    output: Path
    printed: str

    @property
    def report(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(
            self.output.with_suffix(".json").read_text(), parse_constant=_no_json
        )
        return content

    @property
    def model(self) -> onnx.ModelProto:
        return onnx.load(self.output)

    @property
    def metadata(self) -> dict[str, str]:
        return {entry.key: entry.value for entry in self.model.metadata_props}


def _no_json(constant: str) -> float:
    raise AssertionError(f"{constant} is no JSON")


def quantize(
    source: Path,
    images: Path | list[Path],
    output: Path,
    *options: str | Path,
    precision: str = "int8",
    cache: Path | None = None,
) -> int:
    """With a cache that is beside the output's folder, if none is given.

    The networks here are not trained, which is accepted.
    """
    given = images if isinstance(images, list) else [images]
    cache = cache or output.parent.parent / "cache"
    arguments: list[str | Path] = ["quantize", source, "--images", *given, "-o", output]
    arguments += ["--precision", precision, "--cache", cache, "--accept", UNTRAINED, *options]
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The checkpoint in INT8 for the default target; nothing was known before."""
    output = tmp_path_factory.mktemp("finished") / "out" / "x2.onnx"
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        assert quantize(project.checkpoint, project.images, output, cache=project.cache) == 0
    return Finished(output, "\n".join(lines))


@dataclass(frozen=True)
class Bench:
    """Runs `adadm quantize`, by default on the unfolded export, the photographs and the cache."""

    project: Project
    output: Path
    capsys: pytest.CaptureFixture[str]

    def start(
        self,
        *options: str | Path,
        source: Path | None = None,
        images: Path | list[Path] | None = None,
        precision: str = "int8",
    ) -> int:
        source, images = source or self.project.unfolded, images or self.project.images
        cache = self.project.cache
        return quantize(source, images, self.output, *options, precision=precision, cache=cache)

    def finish(self, *options: str | Path, **given: Any) -> Finished:
        """A run that succeeds."""
        assert self.start(*options, **given) == 0
        return Finished(self.output, self.capsys.readouterr().out)

    def fail(self, *options: str | Path, **given: Any) -> str:
        """A run that ends with one message, which it returns in one line, and writes nothing."""
        before = files(self.output.parent)
        assert self.start(*options, **given) == 1
        error = self.capsys.readouterr().err
        assert "Traceback" not in error
        assert files(self.output.parent) == before
        return " ".join(error.split())


@pytest.fixture
def bench(project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(project, tmp_path / "out" / "x2.onnx", capsys)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def counts(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def initializers(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def run(model: onnx.ModelProto, lr: Array) -> Array:
    output: Array = OnnxRuntimeSession(model.SerializeToString()).run({"lr": lr})["sr"]
    return output


def parity_db(found: Array, expected: Array, peak: float = 255.0) -> float:
    error = np.mean((found.astype(np.float64) - expected.astype(np.float64)) ** 2)
    return float(10 * np.log10(peak**2 / error))


# What is written


def test_a_model_a_report_and_a_plot_are_written_and_nothing_else(finished: Finished) -> None:
    assert files(finished.output.parent) == {"x2.onnx", "x2.json", "x2.sensitivity.svg"}
    wrote = [line for line in finished.printed.splitlines() if line.startswith("wrote ")]
    assert [Path(line[6:]).name for line in wrote] == ["x2.onnx", "x2.json", "x2.sensitivity.svg"]
    assert "calibration: 3 of 3 photographs, whole, reduced to 44x36 px" in finished.printed
    onnx.checker.check_model(finished.model, full_check=True)


def test_the_report_says_what_the_model_is(finished: Finished) -> None:
    report, metadata = finished.report, finished.metadata
    noted = json.loads(metadata["adadm.quantization"])
    for said in (report, noted):
        asked = (said["precision"], said["target"], said["budget_db"])
        assert asked == ("int8", "tensorrt10", 0.02)
    assert report["source"]["sha256"] == metadata["adadm.checkpoint_sha256"]
    assert noted["int8"] == report["int8"]["convolutions"]
    assert noted["images_sha256"] == report["calibration"]["images_sha256"]
    form = [metadata[f"adadm.{key}"] for key in ("fold", "tail", "io")]
    assert form == ["exact", "collapsed", "float32"]
    stages = ["PyTorch", "folded", "collapsed", "ONNX Runtime", "FP16", "INT8"]
    assert [stage["name"] for stage in report["stages"]] == stages
    *gates, against_bicubic = report["gates"]
    assert all(gate["passed"] and not gate["left_out"] for gate in gates)
    assert report["accepted"] == ["worse-than-bicubic"] and against_bicubic["accepted"]
    assert against_bicubic["figure"] > 0 and not against_bicubic["passed"]


def int8_of(model: onnx.ModelProto) -> tuple[list[str], float]:
    """Convolutions with weights in INT8, and their share of all weights; border strips aside.

    All convolutions have as many positions, so that this is their share of the multiply-adds.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    constants = initializers(model)
    found, work, all_work = [], 0, 0
    for node in model.graph.node:
        if node.op_type != "Conv" or ".collapsed." in node.name:
            continue
        weight = producers.get(node.input[1])
        levels = constants[node.input[1] if weight is None else weight.input[0]]
        assert (levels.dtype == np.int8) == (weight is not None)
        if weight is not None:
            assert weight.op_type == producers[node.input[0]].op_type == "DequantizeLinear"
            assert np.abs(levels).max() <= 127
            found.append(node.name)
            work += levels.size
        all_work += levels.size
    return found, work / all_work


def test_as_many_convolutions_are_int8_as_the_report_names(finished: Finished) -> None:
    int8 = finished.report["int8"]
    names, share = int8_of(finished.model)
    assert names == int8["convolutions"] and names
    assert int8["share_of_multiply_adds"] == pytest.approx(share)
    assert len(int8["spared"]) == len(finished.report["sensitivities"]) - len(names) > 0


def test_the_budget_is_kept_and_something_is_spared_only_where_it_must(finished: Finished) -> None:
    report = finished.report
    assert report["lost_db"] <= 0.02
    losses = {s["convolution"]["name"]: s["alone"]["noise_db"] for s in report["sensitivities"]}
    assert max(losses, key=losses.__getitem__) in report["int8"]["spared"]
    svg = finished.output.with_suffix(".sensitivity.svg").read_text()
    assert all(name in svg for name in losses)


def test_the_same_again_from_other_paths_is_the_same_file(
    bench: Bench, project: Project, tmp_path: Path
) -> None:
    """Its own cache, the photographs one by one, copied, in another order and twice."""
    first = bench.finish(precision="fp16").output
    copied = [Path(shutil.copy(path, tmp_path / path.name)) for path in project.images.iterdir()]
    images = sorted(copied, reverse=True) + copied[:1]
    output = tmp_path / "again" / "x2.onnx"
    assert quantize(project.unfolded, images, output, precision="fp16", cache=tmp_path) == 0
    for path in first.parent.iterdir():
        assert (output.parent / path.name).read_bytes() == path.read_bytes(), path.name


def test_all_is_measured_on_request(bench: Bench) -> None:
    """Also where the budget does not ask for it."""
    report = bench.finish("--sensitivity", "--budget-db", "1", "--target", "cpu").report
    assert report["int8"]["spared"] == [] and report["int8"]["share_of_multiply_adds"] == 1
    assert len(report["sensitivities"]) == len(report["int8"]["convolutions"]) == 7
    assert all(s["spared"]["noise_db"] > 0 for s in report["sensitivities"])
    assert files(bench.output.parent) == {"x2.onnx", "x2.json", "x2.sensitivity.svg"}


def test_without_measurements_there_is_no_plot(bench: Bench) -> None:
    report = bench.finish("--budget-db", "1", "--target", "cpu").report
    assert files(bench.output.parent) == {"x2.onnx", "x2.json"}
    assert report["sensitivities"] == [] and report["int8"]["evaluations"] == 1
    assert report["float16"] == [] and "FP16" not in [s["name"] for s in report["stages"]]


def test_spaces_brackets_and_letters_of_all_kinds(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "größere Bilder 図"
    shutil.copytree(project.images, images)
    (images / "astronaut.png").rename(images / "im [edited] é.png")
    (images / "coffee.png").rename(images / "b [bold].png")
    source = Path(shutil.copy(project.unfolded, tmp_path / "mon réseau.onnx"))
    output = tmp_path / "das ist" / "größer x2é.onnx"
    assert quantize(source, images, output, "--budget-db", "1") == 0
    printed = capsys.readouterr().out
    assert f"wrote {output}" in printed
    worst = [gate["where"] for gate in Finished(output, "").report["gates"]][1]
    assert worst in printed
    assert files(output.parent) == {"größer x2é.onnx", "größer x2é.json"}


def test_the_cache_is_where_the_user_has_it(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home cache"))
    arguments = ["--precision", "fp16", "-o", tmp_path / "x2.onnx", "--accept", UNTRAINED]
    command = ["quantize", project.unfolded, "--images", project.images, *arguments]
    assert main([str(word) for word in command]) == 0
    (kept,) = files(tmp_path / "home cache" / "adadm")
    assert kept.startswith("statistics-")


# What a target reads


@pytest.fixture(scope="module")
def expected(project: Project) -> tuple[Array, Array]:
    """An input, and what PyTorch makes of it."""
    lr = batch_from_image(read_image(project.images / "chelsea.png"), 255)
    return lr, run_network(enlarging_edsr(), lr)


FORMS = {of.form: of for of in TARGETS.values()}


@pytest.mark.parametrize(
    "of",
    slow_unless(lambda of: of.name in ("tensorrt10", "jetson-orin-jp51"), FORMS.values()),
    ids=lambda of: of.name,
)
def test_every_form_of_a_target_in_int8(
    bench: Bench, expected: tuple[Array, Array], of: Target
) -> None:
    found = bench.finish("--target", of.name)
    model, report = found.model, found.report
    assert report["target"] == json.loads(found.metadata["adadm.quantization"])["target"] == of.name
    assert model.opset_import[0].version == of.opset
    assert bool(model.functions) == of.functions
    assert of.functions or {node.domain for node in model.graph.node} == {""}
    count = len(report["int8"]["convolutions"])
    kinds = counts(model)
    assert kinds["DequantizeLinear"] == 2 * count
    assert kinds["QuantizeLinear"] == (count if of.int8_constants else 2 * count)
    types = {name: values.dtype for name, values in initializers(model).items()}
    levels = [n for n, v in initializers(model).items() if v.dtype == np.int8 and v.ndim == 4]
    assert len(levels) == (count if of.int8_constants else 0)
    assert (np.dtype(np.float16) in types.values()) == (of.typing == "strong")
    pinned = found.metadata.get("adadm.float32_layers")
    if of.typing == "weak":
        names = {node.name: node.op_type for node in model.graph.node}
        layers = json.loads(str(pinned))
        assert {"ReduceMean", "Sqrt"} <= {names[layer] for layer in layers}
        assert not {"Conv", "Relu"} & {names[layer] for layer in layers}
    else:
        assert pinned is None
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    lr, sr = expected
    assert 40 < parity_db(run(model, lr), sr) < 80


@pytest.mark.parametrize("name", ["tensorrt10", "jetson-orin-jp51"])
def test_float16(bench: Bench, expected: tuple[Array, Array], name: str) -> None:
    found = bench.finish("--target", name, precision="fp16")
    assert files(bench.output.parent) == {"x2.onnx", "x2.json"}
    assert found.report["int8"] is None and found.report["lost_db"] <= 0.005
    assert not {"QuantizeLinear", "DequantizeLinear"} & counts(found.model).keys()
    is_half = np.dtype(np.float16) in {v.dtype for v in initializers(found.model).values()}
    assert is_half == (name == "tensorrt10")
    assert ("adadm.float32_layers" in found.metadata) != is_half
    assert found.report["stages"][-1]["name"] == "FP16"
    nearest = found.report["float16"][0]
    assert nearest["below_overflow"] == pytest.approx(65504 / nearest["peak"], rel=1e-3)
    lr, sr = expected
    assert parity_db(run(found.model, lr), sr) > 60


def test_images_in_and_out(bench: Bench) -> None:
    options = ("--target", "cpu", "--budget-db", "1")
    plain = bench.finish(*options)
    report, image = plain.report, read_image(bench.project.images / "coffee.png")
    sr = run(plain.model, batch_from_image(image, 255))
    baked = bench.finish(*options, "--io", "uint8")
    assert baked.metadata["adadm.io"] == "uint8"
    assert baked.report == report
    found = run(baked.model, image[None])
    assert found.dtype == np.uint8 and found.shape == (1, 144, 176, 3)
    assert np.abs(found[0].astype(int) - image_from_batch(sr, 255)).max() <= 1


def test_a_fixed_size(bench: Bench) -> None:
    found = bench.finish("--static", "1x24x32", precision="fp16")
    (value,) = found.model.graph.input
    assert [dim.dim_value for dim in value.type.tensor_type.shape.dim] == [1, 3, 24, 32]
    assert "tiles from the middle, reduced to 32x24 px" in found.report["calibration"]["images"]
    lr = photograph_like((1, 24, 32))
    assert parity_db(run(found.model, lr), run_network(enlarging_edsr(), lr)) > 40


def test_tiles_without_shared_statistics(bench: Bench) -> None:
    found = bench.finish("--tile", "24", precision="fp16")
    assert "3 photographs, tiles from the middle, reduced to 24x24 px" in found.printed
    (value,) = found.model.graph.input
    assert not any(dim.dim_value for dim in value.type.tensor_type.shape.dim[2:])


def test_tiles_that_share_their_statistics(bench: Bench, tmp_path: Path) -> None:
    """The tool that has the float32 models runs the lowered ones: no seam shows."""
    output = bench.output
    report = bench.finish("--target", "cpu", "--stats", "external", "--budget-db", "1").report
    assert files(output.parent) == {"x2.onnx", "x2.tile.onnx", "x2.moments.onnx", "x2.json"}
    for form, stats in (("x2", "internal"), ("x2.tile", "external"), ("x2.moments", "moments")):
        metadata = Finished(output.with_name(f"{form}.onnx"), "").metadata
        assert metadata["adadm.stats"] == stats
        assert len(json.loads(metadata["adadm.quantization"])["int8"]) == 7
    whole, tiles = report["stages"][-2:]
    assert (whole["name"], tiles["name"]) == ("INT8", "tile models")
    assert tiles["parity_db"] == pytest.approx(whole["parity_db"], abs=1)

    source = bench.project.images / "coffee.png"
    results = []
    for tile in ("off", "32"):
        result = tmp_path / f"{tile}.png"
        words = ["upscale", source, "-o", result, "--model", output, "--backend", "cpu"]
        words += ["--tile", tile, "--passes", "settle"]
        assert main([str(word) for word in words]) == 0
        results.append(read_image(result).astype(int))
    errors = np.abs(results[1] - results[0])
    assert errors.mean() < 0.05 and errors.max() <= 2


def test_tile_forms_of_an_old_target_with_images(bench: Bench) -> None:
    options = ("--stats", "external", "--io", "uint8", "--target", "jetson-orin-jp51")
    bench.finish(*options, precision="fp16")
    for form in ("x2", "x2.tile", "x2.moments"):
        model = Finished(bench.output.with_name(f"{form}.onnx"), "").model
        assert not model.functions and model.opset_import[0].version == 17
        assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8


# Refused, and nothing is written


def _broken(folder: Path, good: int, bad: int) -> Path:
    write_crops(folder, 40, 44, good)
    for index in range(bad):
        (folder / f"broken{index}.png").write_bytes(b"no image %d" % index)
    return folder


Places = Callable[[Project, Path], dict[str, Any]]


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ("", lambda p, t: {"images": t / "nothing"}, "nothing: no such file or folder"),
        ("--arch rdn", lambda p, t: {"source": p.checkpoint}, "expected tensors of rdn"),
        (
            "--accept sky1",
            None,
            "unknown name 'sky1'; did you mean 'sky'? Known: border,",
        ),
        ("--rgb-range 1", None, "--rgb-range can be given with a checkpoint only"),
        ("--static 1x8x40", None, "the tile is 40x8 px; required: sides of at least 16 px"),
        ("--tile 64", None, "the reduced image is 44x36 px, smaller than a tile of 64x64 px"),
        (
            "--budget-db 0",
            None,
            "no convolution can be INT8 within 0 dB; raise --budget-db, or choose --precision fp16",
        ),
    ],
)
def test_refused(
    bench: Bench, tmp_path: Path, options: str, given: Places | None, message: str
) -> None:
    places = given(bench.project, tmp_path) if given else {}
    assert message in bench.fail(*options.split(), **places)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--precision int8 -o x2.pt", "expected a name that ends in .onnx"),
        ("--precision int8 -o x2", "expected a name that ends in .onnx"),
        ("--precision int4 -o x2.onnx", "invalid choice: 'int4'"),
        ("-o x2.onnx", "the following arguments are required: --precision"),
        ("--precision int8", "the following arguments are required: -o"),
        ("--precision int8 -o x2.onnx --target toaster", "invalid choice"),
        ("--precision int8 -o x2.onnx --budget-db -1", "a number of dB from 0 to 1000, got '-1'"),
        ("--precision int8 -o x2.onnx --budget-db nan", "a number of dB from 0 to 1000, got 'nan'"),
        (
            "--precision int8 -o x2.onnx --photographs 0",
            "an integer from 1 to 1000000, got '0'",
        ),
        ("--precision int8 -o x2.onnx --tile 32 --static 1x32x32", "not allowed with"),
        ("--precision fp16 -o x2.onnx --sensitivity", "measures convolutions in INT8"),
    ],
)
def test_usage(
    options: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["quantize", "net.onnx", "--images", "photos", *options.split()])
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert files(tmp_path) == set()


def test_help_has_all_targets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["quantize", "--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, of in TARGETS.items():
        assert f"{name}: {of.description}" in text


def test_unreadable_photographs_are_named_and_left_out(bench: Bench, tmp_path: Path) -> None:
    images = _broken(tmp_path / "photos [new]", 11, 1)
    assert bench.start("--budget-db", "0.02", images=images, precision="fp16") == 0
    captured = bench.capsys.readouterr()
    message = "".join(captured.err.split())  # a long path is broken somewhere
    assert "leftout:" + "".join(str(images / "broken0.png").split()) in message
    assert "notareadableimage" in message
    assert "calibration: 8 of 12 photographs" in captured.out
    assert "loss: 3 of 12 photographs" in captured.out
    report = Finished(bench.output, "").report
    assert report["photographs"] == 3
    assert report["calibration"]["images_sha256"] != report["proof"]["images_sha256"]


def test_only_as_many_photographs_as_asked_for(bench: Bench) -> None:
    options = ("--target", "cpu", "--budget-db", "1", "--photographs", "2")
    assert bench.start(*options) == 0
    assert Finished(bench.output, "").report["photographs"] == 2
    assert "WARNING: 2 different of 2 photographs" in bench.capsys.readouterr().err


def test_artefacts_that_show_are_refused(bench: Bench, tmp_path: Path) -> None:
    """A planted convolution that INT8 breaks, under a budget that lets it."""
    source = _changed(tmp_path, lambda network: plant_offset(network, 1, 6000))
    images = write_crops(tmp_path / "images", count=2)
    assert bench.start("--target", "cpu", "--budget-db", "3", source=source, images=images) == 1
    captured = bench.capsys.readouterr()
    assert "adadm quantize: the lowered model has visible artefacts" in captured.err
    assert "flat level is" in captured.err and "FAILED" in captured.out
    assert files(bench.output.parent) == set()


@pytest.mark.parametrize("taken", ["x2.onnx", "x2.json", "x2.sensitivity.svg"])
def test_a_name_that_a_folder_has(bench: Bench, taken: str) -> None:
    (bench.output.parent / taken).mkdir(parents=True)
    assert f"{bench.output.parent / taken}: Is a directory" in bench.fail("--target", "cpu")


def test_a_folder_that_is_a_file(bench: Bench) -> None:
    bench.output.parent.write_text("")
    bench.fail("--target", "cpu", "--budget-db", "1")
    assert bench.output.parent.read_text() == ""


# Interrupted


@dataclass
class Counted:
    """Runs of ONNX Runtime; the one after `allowed` is a Ctrl-C."""

    allowed: float = float("inf")
    runs: int = 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    state = Counted()
    original = OnnxRuntimeSession._run

    def counting(self: OnnxRuntimeSession, feed: Any) -> Any:
        if state.runs >= state.allowed:
            raise KeyboardInterrupt
        state.runs += 1
        return original(self, feed)

    monkeypatch.setattr(OnnxRuntimeSession, "_run", counting)
    return state


def _content(record: Path) -> Any:
    return json.loads(record.read_text())["content"]


def _known(cache: Path) -> tuple[int, int]:
    """How many inputs were observed, and how many losses measured, as the cache has them."""
    observed = [_content(path)["done"] for path in cache.glob("statistics-*.json")]
    measured = [len(_content(path)) for path in cache.glob("evaluations-*.json")]
    return sum(observed), sum(measured)


@pytest.mark.parametrize(
    "part", slow_unless(lambda part: part == "search", ["ranges", "search", "ledger", "gates"])
)
def test_what_is_interrupted_goes_on(
    part: str,
    project: Project,
    tmp_path: Path,
    counted: Counted,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = write_crops(tmp_path / "images", count=2)
    options = ("--target", "cpu")

    def started(name: str) -> int:
        return quantize(
            project.unfolded,
            images,
            tmp_path / name / "out" / "x2.onnx",
            *options,
            cache=tmp_path / name / "cache",
        )

    assert started("whole") == 0
    total = counted.runs
    observed, measured = _known(tmp_path / "whole" / "cache")
    assert observed == 17 + len(images) and measured >= 8 and total > 60

    until_the_ledger = observed + 2 * (1 + measured)
    counted.runs = 0
    counted.allowed = {
        "ranges": 5,
        "search": observed + 7,
        "ledger": until_the_ledger + 3,
        "gates": total - 3,
    }[part]
    assert started("parts") == 1
    assert capsys.readouterr().err.strip().endswith("adadm quantize: stopped")
    assert files(tmp_path / "parts" / "out") == set()
    assert not any(file.startswith(".") for file in files(tmp_path / "parts" / "cache"))
    known = _known(tmp_path / "parts" / "cache")
    if part == "ranges":
        assert 0 < known[0] < observed and known[1] == 0
    elif part == "search":
        assert known[0] == observed and 0 < known[1] < measured
    else:
        assert known == (observed, measured)

    counted.runs, counted.allowed = 0, float("inf")
    assert started("parts") == 0
    assert _known(tmp_path / "parts" / "cache") == (observed, measured)
    # The reference is measured again by a search that goes on, and the rest was not kept.
    assert counted.runs <= total - known[0] - (len(images) * known[1])
    for path in (tmp_path / "whole" / "out").iterdir():
        found = tmp_path / "parts" / "out" / path.name
        assert found.read_bytes() == path.read_bytes(), path.name


# What a budget spares, and what overflows


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crops")
    write_crops(folder, count=2)
    return folder


def _changed(folder: Path, change: Callable[[Network], None]) -> Path:
    """A network to which something was done that changes nothing of what it computes."""
    network = enlarging_edsr()
    change(network)
    lr = photograph_like((1, 30, 40))
    plain = run_network(enlarging_edsr(), lr)
    assert np.abs(run_network(network, lr) - plain).max() < 2e-3
    return write_checkpoint(folder / "edsr.safetensors", network).with_suffix(".onnx")


def parity_of(model: onnx.ModelProto) -> float:
    """Against the network to which nothing was done, in dB."""
    lr = photograph_like((1, 30, 40))
    sr = run(model, lr)
    assert np.isfinite(sr).all()
    return parity_db(sr, run_network(enlarging_edsr(), lr))


@pytest.mark.parametrize(
    ("block", "offset"), slow_unless(lambda block, _: block == 1, [(0, 4500), (1, 2500)])
)
def test_a_convolution_that_int8_does_not_suit_is_spared(
    bench: Bench, tmp_path: Path, crops: Path, block: int, offset: float
) -> None:
    source = _changed(tmp_path, lambda network: plant_offset(network, block, offset))
    options = ("--target", "cpu", "--budget-db", "0.06", "--accept", "mean shift")
    report = bench.finish(*options, source=source, images=crops).report
    assert report["int8"]["spared"] == [f"body.{block}.conv2"]
    worst, second = report["sensitivities"][:2]
    assert worst["convolution"]["name"] == f"body.{block}.conv2"
    assert worst["alone"]["noise_db"] > 3 * second["alone"]["noise_db"]
    assert report["lost_db"] <= 0.06


@pytest.mark.parametrize(
    ("precision", "times"),
    slow_unless(
        lambda precision, times: times == 128,
        [("fp16", 1024), ("fp16", 128), ("int8", 1024)],
    ),
)
def test_a_trunk_that_float16_does_not_hold_is_scaled(
    bench: Bench, tmp_path: Path, crops: Path, precision: str, times: int
) -> None:
    """Factors are compared whatever it was multiplied by."""
    source = _changed(tmp_path, lambda network: plant_large_trunk(network, times))
    found = bench.finish(source=source, images=crops, precision=precision)
    report = found.report
    assert f"trunk: multiplied by 2^{report['trunk_exponent']}, exactly" in found.printed
    assert 2**8 < report["float16"][0]["peak"] < 2**12
    assert not any(entry["wide"] for entry in report["float16"])
    assert report["lost_db"] < (0.005 if precision == "fp16" else 0.02)
    assert parity_of(found.model) > 45
    if (precision, times) == ("fp16", 128):
        assert all((stage["factor_error"] or 0) < 0.1 for stage in report["stages"])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_float16_does_not_hold_inside_a_branch_stays_float32(
    bench: Bench, tmp_path: Path, crops: Path, precision: str
) -> None:
    source = _changed(tmp_path, lambda network: plant_large_branch(network, 0, 4e4))
    given = {"source": source, "images": crops, "precision": precision}
    found = bench.finish("--budget-db", "0.2", **given)
    report = found.report
    wide = {entry["name"] for entry in report["float16"] if entry["wide"]}
    assert wide and all(name.startswith("body.0.") for name in wide)
    assert all(entry["peak"] > 65504 / 4 for entry in report["float16"] if entry["wide"])
    assert "stays float32" in found.printed
    assert report["trunk_exponent"] == 0
    if precision == "int8":
        assert not {"body.0.conv1", "body.0.conv2"} & set(report["int8"]["convolutions"])
        _, share = int8_of(found.model)
        assert report["int8"]["share_of_multiply_adds"] == pytest.approx(share)
    assert parity_of(found.model) > 45
