"""Which file a model is in, and the two for tiles beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from adadm.runtime.errors import SessionError

Variant = Literal["whole", "tile", "moments"]
"""Of one network: for whole images, for tiles, and for the moments of tiles."""

BUNDLED = {f"x{upscale}": f"edsr_adadm_x{upscale}.onnx" for upscale in (2, 4)}
"""The models that come with the package, by factor."""

FOR_TILES: tuple[Variant, ...] = ("tile", "moments")
"""Those that lie beside the model for whole images."""

VARIANTS: tuple[Variant, ...] = ("whole", *FOR_TILES)

_FOLDER = Path(__file__).parent
_ENGINES = (".engine", ".plan")


def is_engine(model: str | os.PathLike[str]) -> bool:
    """Whether a file is an engine of TensorRT, by its name."""
    return Path(model).suffix in _ENGINES


def variant_path(model: Path, variant: Variant) -> Path:
    """Where a variant of a model is: `x2.onnx` has `x2.tile.onnx` and `x2.moments.onnx`.

    The engines that are built of them are named alike: `x2.engine`, `x2.tile.engine`.
    """
    if variant == "whole":
        return model
    return model.with_suffix(f".{variant}{model.suffix if is_engine(model) else '.onnx'}")


def report_path(model: Path) -> Path:
    """Where `adadm quantize` says of a model how it was lowered, and what that costs."""
    return model.with_suffix(".json")


def companion_files(model: str | os.PathLike[str]) -> list[Path]:
    """The file of a model, and those beside it that belong to it.

    The models for tiles; what says how it was lowered; and the manifest of an engine.
    """
    name = os.fspath(model)
    path = _FOLDER / BUNDLED[name] if name in BUNDLED else Path(name)
    models = [variant_path(path, variant) for variant in VARIANTS]
    more = [report_path(path), *(p.with_name(f"{p.name}.json") for p in models)]
    return [path, *(companion for companion in (*models[1:], *more) if companion.exists())]


def bundled_path(model: str | os.PathLike[str]) -> Path:
    """The file of a model that is named as in `BUNDLED`, or by its path.

    Raises:
        SessionError: there is no such file.
    """
    name = os.fspath(model)
    if name in BUNDLED:
        return _FOLDER / BUNDLED[name]
    path = Path(name)
    if not path.is_file():
        raise SessionError(
            f"{path}: no such model; expected {', '.join(BUNDLED)} or the path of an exported one, "
            "or of an engine"
        )
    return path
