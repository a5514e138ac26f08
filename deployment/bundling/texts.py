"""What a bundle says: the script that builds its engines, and its README."""

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
"""Files that a README speaks of where they are."""


def build_script(recipes: Mapping[Variant, Recipe], references: Sequence[RecordedCase]) -> str:
    """`build.sh`, for `sh`.

    Where the device's Python runs `adadm.runtime`, it checks the machine first, and writes the
    manifests that `adadm build` would; elsewhere trtexec runs the references, and their raw
    outputs are compared.

    Raises:
        EngineError: trtexec cannot build it so, or its outputs cannot be compared.
    """
    target = recipes["whole"].target
    if target.runs_runtime:
        check, suffix = "--check-machine", ".plan"
        proof = [
            'run "$python" verify.py --record',
            'echo "to prove it: $python verify.py --json result.json"',
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
    """For a device whose Python is too old for `adadm.runtime` (JetPack 5 has 3.8)."""
    target = recipes["whole"].target
    for spec in recipes["whole"].model.outputs:
        if spec.dtype == np.uint8:
            raise EngineError(
                f"trtexec {target.tensorrt} writes {spec.name} of uint8 as characters, which "
                "nothing can compare: bundle a model with --io float32"
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
    """`README.md`: what to do, and what it takes; times are for the reader to fill in.

    Args:
        memories: of each profile; empty where nobody knows.
        files: what is in the folder.
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
    """One for each profile, or for the one size that there is."""
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
            "Activations are not known: TensorRT for RTX, which plans them for the nearest GPU\n"
            "that it knows, was not installed, or cannot build this model for that GPU."
        )
    most = ", in float32, which is the most" if target.is_weakly_typed else ""
    how = (
        "Activations are what the builder of TensorRT for RTX plans for the nearest GPU that it\n"
        f"knows{most}: the builder on the device may choose otherwise."
    )
    if target.memory_gib is None:
        return how
    smallest, largest = target.memory_gib
    fits = needed < smallest * _GIB / 2
    said = "fits" if fits else "DOES NOT FIT, or hardly: give a smaller --max"
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
