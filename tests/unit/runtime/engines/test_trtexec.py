from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence

import pytest

from adadm.runtime.engines.tensorrt_api import Profile, Profiles, Settings
from adadm.runtime.engines.trtexec import (
    build_command,
    options_of,
    output_command,
    shell_line,
    timing_command,
)
from adadm.runtime.engines.weak_typing import WeakTyping
from adadm.runtime.errors import EngineError
from adadm.runtime.targets import TARGETS, Target

SMALL = {"lr": Profile((1, 3, 64, 64), (1, 3, 256, 256), (1, 3, 512, 512))}
LARGE = {"lr": Profile((1, 3, 512, 512), (2, 3, 720, 1280), (4, 3, 1080, 1920))}
WITH_FACTORS = {**SMALL, "factors": Profile((1, 16), (2, 16), (4, 16))}
LR = {"lr": (1, 3, 256, 256)}
FLOAT32, FP16 = WeakTyping(()), WeakTyping(("FP16",))
PINNED = WeakTyping(("FP16", "INT8"), ("body.0/mean", "/a:1"))
WITH_TRTEXEC = [
    name
    for name, target in TARGETS.items()
    if target.tensorrt is not None and name != "tensorrt-rtx"
]
VERSIONS = ("8.5", "8.6", "10.3", "10.13", "10.16", "11.0", "11.1")

# Read by hand in the sources: one column a version, as above.
HAND_CHECKED = {
    "1111111": (
        "onnx saveEngine loadEngine minShapes optShapes maxShapes shapes timingCacheFile noTF32 "
        "profilingVerbosity dumpLayerInfo exportLayerInfo exportOutput exportTimes loadInputs "
        "memPoolSize inputIOFormats outputIOFormats useDLACore allowGPUFallback percentile "
        "iterations duration warmUp noDataTransfers useCudaGraph useSpinWait separateProfileRun"
    ),
    "1111100": "fp16 int8 best calib precisionConstraints layerPrecisions layerOutputTypes",
    "1100000": "buildOnly workspace explicitBatch batch",  # 8.6 warns that --buildOnly is old
    "0111111": (
        "skipInference builderOptimizationLevel versionCompatible hardwareCompatibilityLevel "
        "staticPlugins dynamicPlugins setPluginsToSerialize"
    ),
    "0011111": "stronglyTyped profile useProfile",
    "0001111": "monitorMemory",
    "0000111": "enablePluginOverride",
    "0000011": "includeDataTransfers noCudaGraph noSpinWait",
    "0000001": "refPair loadRefOutputs setBuildRoute",
    "0000000": "std serialized safetyPlugins",  # of trtSafeExec, and of a build that is not usual
}


def names(argv: Sequence[str]) -> set[str]:
    return {argument.split("=")[0] for argument in argv[1:]}


def test_the_table_has_what_was_read_by_hand() -> None:
    for expected, listed in HAND_CHECKED.items():
        for name in listed.split():
            found = [f"--{name}" in options_of(version) for version in VERSIONS]
            assert found == [digit == "1" for digit in expected], name


@pytest.mark.parametrize(
    ("asked", "known"),
    [("8.5", "8.5"), ("8.6.2", "8.6"), ("10.9", "10.3"), ("10.13.3.9", "10.13"), ("11.4", "11.1")],
)
def test_a_version_in_between_has_the_options_of_the_one_before(asked: str, known: str) -> None:
    assert options_of(asked) == options_of(known)


@pytest.mark.parametrize("version", ["8.4", "9.3", "10.0", "12.0"])
def test_options_are_not_guessed_across_major_versions(version: str) -> None:
    with pytest.raises(EngineError, match=rf"known \(8\.5, 8\.6, .*\), got {version}; add"):
        options_of(version)


@pytest.mark.parametrize("weak", [FLOAT32, FP16, PINNED])
@pytest.mark.parametrize("name", WITH_TRTEXEC)
def test_each_option_is_known_to_the_version(name: str, weak: WeakTyping) -> None:
    target = TARGETS[name]
    assert target.tensorrt is not None
    several = [] if target.is_weakly_typed else [[SMALL, LARGE]]
    settings = Settings(
        weak_typing=weak if target.is_weakly_typed else None, workspace_bytes=1 << 30
    )
    commands = [
        build_command("m", "e", target, profiles, settings=settings, timing_cache="cache")
        for profiles in ([], [SMALL], [WITH_FACTORS], *several)
    ]
    commands += [
        timing_command("m.engine", target, LR),
        output_command("m.engine", target, {"lr": "lr.bin"}, LR, "sr.json"),
    ]
    # A target that means a version and all that follow it says so.
    later = [v for v in VERSIONS if v.split(".")[0] == target.tensorrt.split(".")[0]]
    later = later[later.index(target.tensorrt) :]
    for version in later if target.jetpack is None else [target.tensorrt]:
        for command in commands:
            assert names(command) <= options_of(version)


@pytest.mark.parametrize(
    ("name", "profiles", "settings", "options"),
    [
        (
            "jetson-orin-jp51",
            [WITH_FACTORS],
            Settings(weak_typing=PINNED, workspace_bytes=3 << 29),
            "--fp16 --int8 --precisionConstraints=obey "
            "--layerPrecisions=body.0/mean:fp32,/a:1:fp32 --noTF32 --buildOnly "
            "--memPoolSize=workspace:1536 --minShapes=lr:1x3x64x64,factors:1x16 "
            "--optShapes=lr:1x3x256x256,factors:2x16 --maxShapes=lr:1x3x512x512,factors:4x16",
        ),
        ("jetson-orin-jp60", [], Settings(weak_typing=FP16), "--fp16 --noTF32 --skipInference"),
        ("jetson-orin-jp60", [], Settings(weak_typing=FLOAT32), "--noTF32 --skipInference"),
        (
            "jetson-orin-jp62",
            [SMALL, LARGE],
            Settings(),
            "--stronglyTyped --noTF32 --skipInference --profile=0 --minShapes=lr:1x3x64x64 "
            "--optShapes=lr:1x3x256x256 --maxShapes=lr:1x3x512x512 --profile=1 "
            "--minShapes=lr:1x3x512x512 --optShapes=lr:2x3x720x1280 --maxShapes=lr:4x3x1080x1920",
        ),
        (  # which is always strongly typed
            "tensorrt11",
            [SMALL],
            Settings(),
            "--noTF32 --skipInference --minShapes=lr:1x3x64x64 --optShapes=lr:1x3x256x256 "
            "--maxShapes=lr:1x3x512x512",
        ),
    ],
)
def test_how_an_engine_is_built(
    name: str, profiles: Profiles, settings: Settings, options: str
) -> None:
    command = build_command("x2.onnx", "x2.engine", TARGETS[name], profiles, settings=settings)
    assert command == ["trtexec", "--onnx=x2.onnx", "--saveEngine=x2.engine", *options.split()]


def test_times_compare_between_versions() -> None:
    measured = ["--warmUp=1000", "--duration=10", "--iterations=50", "--percentile=99"]
    alike = ["--noDataTransfers", "--useCudaGraph", "--useSpinWait", "--separateProfileRun"]
    begin = ["trtexec", "--loadEngine=x2.engine"]
    thor, eleven = (TARGETS[name] for name in ("jetson-thor-jp72", "tensorrt11"))
    assert timing_command("x2.engine", thor, LR) == [
        *begin,
        "--shapes=lr:1x3x256x256",
        *alike,
        *measured,
    ]
    assert timing_command("x2.engine", eleven, {}) == [*begin, *measured]


def test_outputs_of_one_inference() -> None:
    files = {"lr": "reference/a.lr.bin", "factors": "reference/a.factors.bin"}
    shapes = {"lr": (1, 3, 64, 64), "factors": (1, 16)}
    command = output_command("x2.engine", TARGETS["jetson-orin-jp60"], files, shapes, "sr.json")
    assert " ".join(command) == (
        "trtexec --loadEngine=x2.engine "
        "--loadInputs=lr:reference/a.lr.bin,factors:reference/a.factors.bin "
        "--shapes=lr:1x3x64x64,factors:1x16 --exportOutput=sr.json "
        "--warmUp=0 --duration=0 --iterations=1"
    )


@pytest.mark.parametrize(
    ("size", "written"), [(1 << 30, "1024"), (1_000_000_000, "953.67431640625"), (1 << 19, "0.5")]
)
def test_the_workspace_is_written_in_mebibytes(size: int, written: str) -> None:
    settings = Settings(workspace_bytes=size)
    command = build_command("m", "e", TARGETS["tensorrt10"], [SMALL], settings=settings)
    assert f"--memPoolSize=workspace:{written}" in command
    assert float(written) * 2**20 == size  # what trtexec computes


def test_a_shell_reads_the_line_as_it_was() -> None:
    argv = ["trtexec", "--onnx=my model's.onnx", "--saveEngine=$(id)`id`\\\n*", "--noTF32"]
    line = shell_line(argv)
    assert line.startswith("trtexec \\\n    '--onnx=") and line.endswith(" \\\n    --noTF32")
    script = f"trtexec() {{ printf '%s\\0' \"$@\"; }}\n{line}\n"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[:-1] == argv[1:]


@pytest.mark.parametrize("name", ["jetson-xavier-jp51", "jetson-orin-jp60"])
def test_several_profiles_need_tensorrt_10(name: str) -> None:
    version = TARGETS[name].tensorrt
    with pytest.raises(
        EngineError, match=rf"trtexec {version} .* one profile, got 2; .*engine for each"
    ):
        build_command("m", "e", TARGETS[name], [SMALL, LARGE])


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("cpu", "ONNX Runtime or OpenVINO run the model"), ("tensorrt-rtx", "with `adadm build`")],
)
@pytest.mark.parametrize(
    "command",
    [
        lambda target: build_command("m", "e", target, [SMALL]),
        lambda target: timing_command("e", target, LR),
        lambda target: output_command("e", target, {"lr": "a.bin"}, LR, "o.json"),
    ],
    ids=["build", "timing", "output"],
)
def test_targets_without_trtexec_say_what_to_do(
    command: Callable[[Target], object], name: str, remedy: str
) -> None:
    with pytest.raises(EngineError, match=f"{name} has no trtexec.*{remedy}"):
        command(TARGETS[name])


@pytest.mark.parametrize("layer", ["a,b", "it's", "", "*"])
def test_a_layer_whose_name_would_be_split_is_refused(layer: str) -> None:
    settings = Settings(weak_typing=WeakTyping(("FP16",), ("ok", layer)))
    with pytest.raises(EngineError, match=r"cannot read .*:'fp32' in --layerPrecisions.*rename"):
        build_command("m", "e", TARGETS["jetson-orin-jp51"], [SMALL], settings=settings)


@pytest.mark.parametrize(
    "files", [{"lr": "a:b.bin"}, {"lr": "a,b.bin"}, {"lr": "it's.bin"}, {"lr": ""}, {"l,r": "a"}]
)
def test_a_path_that_would_be_split_is_refused(files: Mapping[str, str]) -> None:
    with pytest.raises(EngineError, match=r"cannot read .* in --loadInputs"):
        output_command("e", TARGETS["tensorrt11"], files, LR, "o.json")


def test_a_shape_without_dimensions_is_refused() -> None:
    with pytest.raises(EngineError, match=r"cannot read 'count':'' in --shapes"):
        timing_command("e", TARGETS["tensorrt10"], {"count": ()})
