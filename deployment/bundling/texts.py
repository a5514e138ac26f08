"""What a bundle says: the script that builds its engines, and its README."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template

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

__all__ = ["build_script", "readme"]

_GIB = 2**30


def build_script(recipes: Mapping[Variant, Recipe], references: Sequence[RecordedCase]) -> str:
    """`build.sh`, for `sh`.

    Where the device's Python runs `adadm.runtime`, it checks the machine first, and writes the
    manifests that `adadm build` would; elsewhere trtexec runs the references, and their raw
    outputs are compared.

    Raises:
        EngineError: trtexec cannot build it so, or its outputs cannot be compared.
    """
    target = recipes["whole"].target
    images = [spec for spec in recipes["whole"].model.outputs if spec.dtype == np.uint8]
    if images and not target.runs_runtime:
        raise EngineError(
            f"trtexec {target.tensorrt} writes {images[0].name} of uint8 as characters, which "
            "nothing can compare: bundle a model with --io float32"
        )
    steps = []
    check = "--check-machine" if target.runs_runtime else "--check-files"
    steps.append(f'run "$python" verify.py {check}')  # before trtexec sees a byte
    for recipe in recipes.values():
        engine = recipe.model.path.with_suffix(".engine").name
        plan = f"{engine}.plan" if target.runs_runtime else engine
        command = trtexec.build_command(
            recipe.model.path.name, plan, target, recipe.profiles, settings=recipe.settings
        )
        steps.append(_logged(f"{engine}.log", command))
    if target.runs_runtime:
        steps.append('run "$python" verify.py --record')
        steps.append('echo "to prove it: $python verify.py --json result.json"')
    else:
        steps.append("run mkdir -p outputs")
        for found in references:
            engine = recipes[found.variant].model.path.with_suffix(".engine").name
            case = f"{found.variant}.{found.name}"
            shapes = {name: array.shape for name, array in found.inputs.items()}
            command = trtexec.output_command(
                engine,
                target,
                {name: f"reference/{case}.{name}.bin" for name in found.inputs},
                shapes if recipes[found.variant].profiles else {},
                f"outputs/{case}.json",
            )
            steps.append(_logged(f"outputs/{case}.log", command))
        steps.append('run "$python" verify.py --json result.json')
    return _template("build.sh").substitute(
        description=target.description, steps="\n\n".join(steps)
    )


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
    needed = max((size for sizes in memories.values() for size in sizes), default=None)
    rows = [
        row
        for variant, recipe in recipes.items()
        for row in _rows(variant, recipe, deployed[variant], memories[variant])
    ]
    least = min(
        (db for found in references if found.variant == "whole" for db in found.psnr_db.values()),
    )
    return _template("README.md").substitute(
        description=target.description,
        target=target.name,
        precision=whole.precision,
        trtexec_version=target.tensorrt,
        rows="\n".join(rows),
        memory=_memory_line(whole, needed),
        python=_PYTHON.format(f"{factor_tolerance(references):.2%}")
        if target.runs_runtime
        else _OLD_PYTHON.format(target.python),
        least_db=f"{least:g}",
        files="\n".join(f"| `{name}` | {what} |" for name, what in _FILES.items() if name in files),
        timing=trtexec.shell_line(
            trtexec.timing_command("model.engine", target, whole.usual_shapes)
        ),
    )


_FILES = {
    "model.factors.patch": "appended to `model.onnx`, it returns the modulation factors too",
    "model.json": "what quantization cost, stage by stage",
    "reference": "inputs and outputs, as `.npz` and raw, for `trtexec --loadInputs`",
    "wheels": "Python packages for this device",
}

_PYTHON = """\
Where
one does not, `verify.py` names the first block that differs, by its modulation factor ({} allowed).
`result.json` has the figures, latencies, clocks, power mode and versions: send it back.

`verify.py` uses `adadm-deploy` where it is installed, else it unpacks the wheels of this folder to
`lib-*`; nothing is installed, and no network is needed. To install it instead, for Python
of your own:

```sh
python3 -m pip install --no-index --find-links wheels 'adadm-deploy[jetson]'
```"""

_OLD_PYTHON = """\
`result.json`
has the figures: send it back.

This JetPack has Python {}, and `adadm-deploy` needs 3.10: `build.sh` lets trtexec run the
references, and `verify.py`, which needs Python alone, compares the raw outputs. There is no
manifest of the engine, and no session of ours."""


def _rows(
    variant: Variant, recipe: Recipe, deployed: TargetModel, memories: tuple[int, ...]
) -> list[str]:
    """One for each profile, or for the one size that there is."""
    lr = next(spec for spec in recipe.model.inputs if spec.name == "lr")
    largest: list[Shape] = [profile["lr"].maximum for profile in recipe.profiles] or [
        tuple(int(size or 0) for size in lr.shape)
    ]
    per_pixel = sum(multiply_adds(ir.from_proto(deployed.model)).values()) / math.prod(
        COUNTED_AT[2:]
    )
    upscale = int(recipe.model.metadata["adadm.upscale"])
    rows = []
    for index, shape in enumerate(largest):
        values = math.prod(shape)
        images_bytes = lr.dtype.itemsize * values * (1 if variant == "moments" else 1 + upscale**2)
        activations = f"{memories[index] / 1e6:.0f} MB" if memories else "not known"
        rows.append(
            f"| `{recipe.model.path.name}` | {'x'.join(map(str, shape))} | "
            f"{per_pixel * values / 3 / 1e9:.1f} G | {len(recipe.model.content) / 1e6:.2f} MB | "
            f"{images_bytes / 1e6:.1f} MB | {activations} | |"
        )
    return rows


def _memory_line(whole: Recipe, needed: int | None) -> str:
    target = whole.target
    how = (
        "Activations are what the builder of TensorRT for RTX plans for the nearest GPU that it\n"
        "knows"
        + (", in float32, which is the most" if target.typing == "weak" else "")
        + ": the builder on the device may choose otherwise."
    )
    if needed is None:
        return (
            "Activations are not known: TensorRT for RTX, which plans them for the nearest GPU\n"
            "that it knows, was not installed, or cannot build this model for that GPU."
        )
    if target.memory_gib is None:
        return how
    least, most = target.memory_gib
    fits = "fits" if needed < least * _GIB / 2 else "DOES NOT FIT, or hardly: give a smaller --max"
    return f"{how}\nBoards have {least} to {most} GiB for CPU and GPU: on the smallest, it {fits}."


def _logged(log: str, command: Sequence[str]) -> str:
    line = trtexec.shell_line(command)
    return f'run_logged {log} "$trtexec"{line.removeprefix("trtexec")}'


def _template(name: str) -> Template:
    files = resources.files("adadm.deployment.bundling.device_files")
    return Template((files / name).read_text(encoding="utf-8"))
