"""Which file a model is in, and the two for tiles beside it."""

from __future__ import annotations

import os
from pathlib import Path

from adadm.runtime.errors import SessionError

__all__ = ["BUNDLED", "beside", "is_engine", "path_of"]

BUNDLED = {f"x{upscale}": f"edsr_adadm_x{upscale}.onnx" for upscale in (2, 4)}
"""The models that come with the package, by factor."""


_ENGINES = (".engine", ".plan")


def is_engine(model: str | os.PathLike[str]) -> bool:
    """Whether a file is an engine of TensorRT, by its name."""
    return Path(model).suffix in _ENGINES


def beside(model: Path, form: str) -> Path:
    """Where a form of a model is: `x2.onnx` has `x2.tile.onnx` and `x2.moments.onnx`.

    The engines that are built of them are named alike: `x2.engine`, `x2.tile.engine`.
    """
    return model.with_suffix(f".{form}{model.suffix if is_engine(model) else '.onnx'}")


def path_of(model: str | os.PathLike[str]) -> Path:
    """The file of a model that is named as in `BUNDLED`, or by its path.

    Raises:
        SessionError: there is no such file.
    """
    name = os.fspath(model)
    if name in BUNDLED:
        return Path(__file__).parent / "models" / BUNDLED[name]
    path = Path(name)
    if not path.is_file():
        raise SessionError(
            f"{path}: no such model; expected {', '.join(BUNDLED)} or the path of an exported one, "
            "or of an engine"
        )
    return path
