"""Texts of a bundle: the script that builds its engines, and its README."""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources

import numpy as np
import onnx_ir as ir

from adadm.calibration.ranges.int8_ranges import COUNTED_AT, multiply_adds
from adadm.calibration.target_forms.target_model import TargetModel
from adadm.deployment.bundling.references import RecordedCase, factor_tolerance
from adadm.runtime.engines import trtexec
from adadm.runtime.engines.recipe import Recipe
from adadm.runtime.engines.tensorrt_api import Shape
from adadm.runtime.errors import EngineError
from adadm.runtime.models.bundled import Variant

_GIB = 2**30
_OPTIONAL = ("model.factors.patch", "model.json", "wheels")
"""Files that the README mentions only if they exist."""


def build_script(recipes: Mapping[Variant, Recipe], references: Sequence[RecordedCase]) -> str:
    """Write `build.sh`, a script for `sh`.

    If the device's Python runs `adadm.runtime`, the script checks the machine first, and writes the
    same manifests as `adadm build`. Otherwise trtexec runs the references, and their raw outputs
    are compared.

    Raises:
        EngineError: trtexec lacks a required option, or its outputs cannot be compared.
    """
    target = recipes["whole"].target
    if target.runs_runtime:
        check, suffix = "--check-machine", ".plan"
        proof = [
            'run "$python" verify.py --record',
            'echo "to verify the engines: $python verify.py --json result.json"',
        ]
    else:
        check, suffix = "--check-files", ""
        proof = list(_compared_outputs(recipes, references))
    steps = [f'run "$python" verify.py {check}']  # before trtexec sees a byte
    for recipe in recipes.values():
        engine, model = _engine(recipe), recipe.model.path.name
        command = trtexec.build_command(
            model, f"{engine}{suffix}", target, recipe.profiles, settings=recipe.settings
        )
        steps.append(_logged(f"{engine}.log", command))
    return _filled("build.sh", description=target.description, steps="\n\n".join([*steps, *proof]))


def _compared_outputs(
    recipes: Mapping[Variant, Recipe], references: Sequence[RecordedCase]
) -> Iterator[str]:
    """Steps for a device whose Python is too old for `adadm.runtime` (JetPack 5 has 3.8)."""
    target = recipes["whole"].target
    for spec in recipes["whole"].model.outputs:
        if spec.dtype == np.uint8:
            raise EngineError(
                f"trtexec {target.tensorrt} writes uint8 {spec.name} as characters, which cannot "
                "be compared; bundle a model with --io float32"
            )
    yield "run mkdir -p outputs"
    for found in references:
        recipe, case = recipes[found.variant], f"{found.variant}.{found.name}"
        shapes = {name: array.shape for name, array in found.inputs.items()}
        command = trtexec.output_command(
            _engine(recipe),
            target,
            {name: f"reference/{case}.{name}.bin" for name in found.inputs},
            shapes if recipe.profiles else {},
            f"outputs/{case}.json",
        )
        yield _logged(f"outputs/{case}.log", command)
    yield 'run "$python" verify.py --json result.json'


def readme(
    recipes: Mapping[Variant, Recipe],
    deployed: Mapping[Variant, TargetModel],
    memories: Mapping[Variant, tuple[int, ...]],
    references: Sequence[RecordedCase],
    files: Sequence[str],
) -> str:
    """Write `README.md`: instructions and costs; the reader fills in the times.

    Args:
        memories: bytes of activations of each profile; empty if unknown.
        files: names in the folder.
    """
    whole = recipes["whole"]
    target = whole.target
    rows = [
        row
        for variant, recipe in recipes.items()
        for row in _rows(variant, recipe, deployed[variant], memories[variant])
    ]
    least_db = min(min(c.psnr_db.values()) for c in references if c.variant == "whole")
    timing = trtexec.timing_command("model.engine", target, whole.usual_shapes)
    python = _filled(
        "README.runtime.md" if target.runs_runtime else "README.trtexec.md",
        factor_tolerance=f"{factor_tolerance(references):.2%}",
        python=target.python,
    )
    text = _filled(
        "README.md",
        description=target.description,
        target=target.name,
        precision=whole.precision,
        trtexec_version=target.tensorrt,
        rows="\n".join(rows),
        memory=_memory_line(whole, max((m for ms in memories.values() for m in ms), default=None)),
        python=python.rstrip("\n"),
        least_db=f"{least_db:g}",
        timing=trtexec.shell_line(timing),
    )
    missing = tuple(f"| `{name}` |" for name in _OPTIONAL if name not in files)
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(missing))


def _rows(
    variant: Variant, recipe: Recipe, deployed: TargetModel, memories: tuple[int, ...]
) -> Iterator[str]:
    """Rows of the table: one for each profile, or for the one fixed size."""
    lr = next(spec for spec in recipe.model.inputs if spec.name == "lr")
    largest: list[Shape] = [profile["lr"].maximum for profile in recipe.profiles] or [
        tuple(int(size or 0) for size in lr.shape)
    ]
    work = sum(multiply_adds(ir.from_proto(deployed.model)).values())
    per_pixel = work / math.prod(COUNTED_AT[2:])
    upscale = recipe.model.metadata.network.upscale
    for index, shape in enumerate(largest):
        values = math.prod(shape)
        images_bytes = lr.dtype.itemsize * values * (1 if variant == "moments" else 1 + upscale**2)
        activations = f"{memories[index] / 1e6:.0f} MB" if memories else "not known"
        yield (
            f"| `{recipe.model.path.name}` | {'x'.join(map(str, shape))} | "
            f"{per_pixel * values / 3 / 1e9:.1f} G | {len(recipe.model.content) / 1e6:.2f} MB | "
            f"{images_bytes / 1e6:.1f} MB | {activations} | |"
        )


def _memory_line(whole: Recipe, needed: int | None) -> str:
    target = whole.target
    if needed is None:
        return (
            "Activations are unknown: TensorRT for RTX, which plans them for the nearest GPU that\n"
            "it supports, was not installed, or cannot build this model for that GPU."
        )
    most = " in float32, which is the upper bound" if target.is_weakly_typed else ""
    how = (
        "Activations are planned by the builder of TensorRT for RTX for the nearest GPU that it\n"
        f"supports{most}; the builder on the device may choose otherwise."
    )
    if target.memory_gib is None:
        return how
    smallest, largest = target.memory_gib
    fits = needed < smallest * _GIB / 2
    said = "fits" if fits else "DOES NOT FIT, or only just: give a smaller --max"
    return (
        f"{how}\nBoards have {smallest} to {largest} GiB for CPU and GPU: on the smallest, it "
        f"{said}."
    )


def _engine(recipe: Recipe) -> str:
    return recipe.model.path.with_suffix(".engine").name


def _logged(log: str, command: Sequence[str]) -> str:
    line = trtexec.shell_line(command)
    return f'run_logged {log} "$trtexec"{line.removeprefix("trtexec")}'


def _filled(template: str, **values: object) -> str:
    files = resources.files("adadm.deployment.bundling.device_files")
    return string.Template((files / template).read_text(encoding="utf-8")).substitute(values)
