"""Files of a model: the whole one, the two for tiles beside it, and the bundled ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from adadm.runtime.errors import SessionError
from adadm.runtime.files import check_readable

Variant = Literal["whole", "tile", "moments"]
"""Variant of a network: for whole images, for tiles, or for the moments of tiles."""

BUNDLED = {f"x{upscale}": f"edsr_adadm_x{upscale}.onnx" for upscale in (2, 3, 4)}
"""Models in the package, by factor."""

FOR_TILES: tuple[Variant, ...] = ("tile", "moments")
"""Variants whose files lie beside the model for whole images."""

VARIANTS: tuple[Variant, ...] = ("whole", *FOR_TILES)

_FOLDER = Path(__file__).parent
_ENGINES = (".engine", ".plan")


def is_engine(model: str | os.PathLike[str]) -> bool:
    """True if the name of a file is that of a TensorRT engine."""
    return Path(model).suffix.lower() in _ENGINES


def is_onnx(model: str | os.PathLike[str]) -> bool:
    """True if the name of a file is that of an ONNX model."""
    return Path(model).suffix.lower() == ".onnx"


def variant_path(model: Path, variant: Variant) -> Path:
    """Path of a variant of a model: `x2.tile.onnx` and `x2.moments.onnx` for `x2.onnx`.

    Their engines are named likewise: `x2.engine`, `x2.tile.engine`.
    """
    if variant == "whole":
        return model
    return model.with_suffix(f".{variant}{model.suffix if is_engine(model) else '.onnx'}")


def report_path(model: Path) -> Path:
    """Path of the report of `adadm quantize` on a model: how it was lowered, and the cost."""
    return model.with_suffix(".json")


def companion_files(model: str | os.PathLike[str]) -> list[Path]:
    """The file of a model, and the existing files beside it that belong to it.

    These are the models for tiles, the report of `adadm quantize`, and the manifests of engines.
    """
    name = os.fspath(model)
    path = _FOLDER / BUNDLED[name] if name in BUNDLED else Path(name)
    models = [variant_path(path, variant) for variant in VARIANTS]
    more = [report_path(path), *(p.with_name(f"{p.name}.json") for p in models)]
    return [path, *(companion for companion in (*models[1:], *more) if companion.exists())]


def bundled_path(model: str | os.PathLike[str]) -> Path:
    """Path of a model given by a name in `BUNDLED` or by its path.

    Raises:
        SessionError: there is no such file.
        OSError: as for `check_readable`.
    """
    name = os.fspath(model)
    if name in BUNDLED:
        return _FOLDER / BUNDLED[name]
    path = Path(name)
    check_readable(path)
    if not path.is_file():
        raise SessionError(
            f"{path}: no such model; expected {', '.join(BUNDLED)}, or the path of an exported "
            "model or an engine"
        )
    return path
