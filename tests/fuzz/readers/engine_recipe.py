"""The recipe of an engine from a model, for a target."""

from __future__ import annotations

import random
from pathlib import Path

from adadm.runtime.engines.recipe import default_bounds, make_recipe
from adadm.runtime.engines.trtexec import build_command
from adadm.runtime.models.onnx_reader import read_onnx
from adadm.runtime.targets import TARGETS
from fuzz.models import MODEL, mutate_case, seed_models
from fuzz.reader import Fault, Files, Reader

_TARGET = "target.txt"


def _seeds() -> dict[str, Files]:
    fitting = {
        "whole": "tensorrt10",
        "tiles": "tensorrt-rtx",
        "inlined": "jetson-xavier-jp51",
        "images": "tensorrt11",
        "static": "tensorrt10",
        "fp16": "tensorrt10",
        "int8": "tensorrt10",
        "weak": "jetson-orin-jp60",
    }
    models = seed_models()
    return {name: {**models[name], _TARGET: target.encode()} for name, target in fitting.items()}


def _mutate(files: Files, rng: random.Random) -> Files:
    target = rng.choice([files[_TARGET].decode()] * 8 + sorted(TARGETS)).encode()
    models = {name: content for name, content in files.items() if name != _TARGET}
    return {**mutate_case(models, rng), _TARGET: target}


def _read(folder: Path, _: Files) -> None:
    target = TARGETS[(folder / _TARGET).read_text()]
    for path in sorted(folder.glob("*.onnx")):
        bounds = [default_bounds((1, 24, 28))]
        file = read_onnx(path)
        recipe = make_recipe(file, target, bounds if path.name == MODEL else ())
        first, sizes = recipe.first_bounds, recipe.usual_shapes
        if not all(low >= 1 for low in first.minimum):
            raise Fault(f"expected sizes from 1 on, got {first}")
        if sizes and set(sizes) != {spec.name for spec in file.inputs}:
            raise Fault(f"expected shapes of all inputs, got {sizes}")
        repr((recipe.quantization, recipe.precision, recipe.flavour))
        if not target.is_rtx:
            build_command("x.onnx", "x.engine", target, recipe.profiles, settings=recipe.settings)


READER = Reader(_seeds, _mutate, _read)
