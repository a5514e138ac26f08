"""Command lines for `trtexec`, NVIDIA's program that builds, times and runs engines.

Its options differ between versions, and an unknown option is an error. `trtexec_options.json` lists
the options of each version, read from the sources by scripts/update_trtexec_options.py. Facts about
their meaning below are from the same sources.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources

from adadm.runtime.engines.tensorrt_api import DEFAULTS, Profiles, Settings, Shape
from adadm.runtime.errors import EngineError
from adadm.runtime.json_format import parse_json
from adadm.runtime.targets import Target

Version = tuple[int, ...]

_ALIKE = ("--noDataTransfers", "--useCudaGraph", "--useSpinWait", "--separateProfileRun")
"""Options for comparable times. TensorRT 11 does this by default and warns of the options."""
_TIMED = ("--warmUp=1000", "--duration=10", "--iterations=50", "--percentile=99")
"""Milliseconds, seconds, and least number of inferences; the median is always shown."""
_ONCE = ("--warmUp=0", "--duration=0", "--iterations=1")


def options_of(tensorrt: str) -> frozenset[str]:
    """Options of trtexec, from the newest known version that is not newer than `tensorrt`.

    Args:
        tensorrt: a version, such as `10.3`.

    Raises:
        EngineError: no such version of the same major version is known.
    """
    wanted, table = _numbers(tensorrt), _table()
    older = [version for version in table if version[0] == wanted[0] and version <= wanted]
    if not older:
        versions = ", ".join(".".join(map(str, version)) for version in sorted(table))
        raise EngineError(
            f"expected a trtexec whose options are known ({versions}), got {tensorrt}; add the "
            "version to scripts/update_trtexec_options.py and run it"
        )
    return table[max(older)]


def build_command(
    model: str,
    engine: str,
    target: Target,
    profiles: Profiles,
    *,
    settings: Settings = DEFAULTS,
    timing_cache: str | None = None,
) -> list[str]:
    """Command that builds an engine as `adadm build` does on the device, without measuring.

    Args:
        profiles: optimization profiles; empty for a model of one size.
        settings: builder settings, as of `adadm build`.

    Raises:
        EngineError: the target has no trtexec, or its trtexec lacks an option for this.
    """
    options = _options(target)
    argv = ["trtexec", f"--onnx={model}", f"--saveEngine={engine}"]
    if settings.weak_typing is not None:
        argv += settings.weak_typing.trtexec_options(_pairs)
    elif "--fp16" in options:  # weak typing exists and is the default
        argv.append("--stronglyTyped")
    argv.append("--noTF32")  # as in `adadm build`, for comparable outputs
    argv.append("--skipInference" if "--skipInference" in options else "--buildOnly")
    if settings.workspace_bytes is not None:
        # All versions read MiB without a unit, with fractions; suffixes need 10 or later.
        argv.append(f"--memPoolSize=workspace:{settings.workspace_bytes / 2**20:.17g}")
    if timing_cache is not None:
        argv.append(f"--timingCacheFile={timing_cache}")
    return argv + _shape_ranges(profiles, target, options)


def timing_command(engine: str, target: Target, shapes: Mapping[str, Shape]) -> list[str]:
    """Command that times an engine, with comparable numbers between versions.

    Args:
        shapes: shapes inside the first profile; empty for a model of one size.

    Raises:
        EngineError: the target has no trtexec, or trtexec cannot read a name.
    """
    alike = () if "--includeDataTransfers" in _options(target) else _ALIKE
    return ["trtexec", f"--loadEngine={engine}", *_shapes(shapes), *alike, *_TIMED]


def output_command(
    engine: str,
    target: Target,
    inputs: Mapping[str, str],
    shapes: Mapping[str, Shape],
    output: str,
) -> list[str]:
    """Command that runs one inference on given inputs and writes the outputs.

    Args:
        inputs: file by input name, with raw values in C order, in the data type of the input and
            exactly as long as its shape.
        shapes: shapes inside the first profile; empty for a model of one size.
        output: JSON file to write: a list of `{"name": "sr", "dimensions": "1x3x64x64", "values":
            [...]}`, flat in C order. Values have 6 significant digits, such as 123.456. Not valid
            JSON are nan and inf, spelled as in C++, and uint8 before 10.16, in raw characters.

    Raises:
        EngineError: the target has no trtexec, or trtexec cannot read a name or path.
    """
    _options(target)
    loaded = [_pairs("loadInputs", inputs), *_shapes(shapes), f"--exportOutput={output}"]
    return ["trtexec", f"--loadEngine={engine}", *loaded, *_ONCE]


def shell_line(argv: Sequence[str]) -> str:
    """Format a command for a POSIX shell, one option a line."""
    return " \\\n    ".join(map(shlex.quote, argv))


def _shape_ranges(profiles: Profiles, target: Target, options: frozenset[str]) -> list[str]:
    if len(profiles) > 1 and "--profile" not in options:
        raise EngineError(
            f"trtexec {target.tensorrt} builds engines of one profile, got {len(profiles)}; "
            "build an engine for each, or one profile that holds all sizes"
            + (f"; or run `adadm build` on the device ({target.description})" * target.runs_runtime)
        )
    argv = []
    for index, profile in enumerate(profiles):
        if len(profiles) > 1:  # its shapes must follow directly
            argv.append(f"--profile={index}")
        argv += _shapes({name: shape.minimum for name, shape in profile.items()}, "minShapes")
        argv += _shapes({name: shape.optimum for name, shape in profile.items()}, "optShapes")
        argv += _shapes({name: shape.maximum for name, shape in profile.items()}, "maxShapes")
    return argv


def _shapes(shapes: Mapping[str, Shape], option: str = "shapes") -> list[str]:
    written = {name: "x".join(map(str, shape)) for name, shape in shapes.items()}
    return [_pairs(option, written)] if written else []


def _pairs(option: str, values: Mapping[str, str]) -> str:
    """Format `--option=NAME:VALUE,...`.

    trtexec splits at each comma first, removes apostrophes as quotes, and splits a pair at its
    last colon, so a name may have colons. The name `*` means all layers.
    """
    for name, value in values.items():
        if name in ("", "*") or not value or set(name) & set(",'") or set(value) & set(",':"):
            raise EngineError(
                f"trtexec cannot read {name!r}:{value!r} in --{option}: expected a name without "
                "comma or apostrophe that is not an asterisk, and a value without comma, "
                "apostrophe or colon, both not empty; rename it, or run `adadm build` on the "
                "device, which takes any"
            )
    return f"--{option}=" + ",".join(f"{name}:{value}" for name, value in values.items())


def _options(target: Target) -> frozenset[str]:
    if target.tensorrt is None:
        raise EngineError(
            f"{target.name} has no trtexec and needs no engine: ONNX Runtime or OpenVINO run the "
            "model"
        )
    if target.is_rtx:
        raise EngineError(f"{target.name} has no trtexec; build the engine with `adadm build`")
    return options_of(target.tensorrt)


@functools.cache
def _table() -> dict[Version, frozenset[str]]:
    options = resources.files("adadm.runtime.engines") / "trtexec_options.json"
    table = parse_json(options.read_text("utf-8"))
    return {_numbers(version): frozenset(entry["options"]) for version, entry in table.items()}


def _numbers(version: str) -> Version:
    return tuple(map(int, version.split(".")))
