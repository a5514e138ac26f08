"""All errors that the toolkit raises on purpose.

Below `AdadmError`: `MissingDependencyError`, `OutputError`, `ImageError`, `CheckpointError`,
`ExportError`, `CalibrationError`, `ParityError`, `SessionError` with
`RefusedModelError`, `TilingError`, `EngineError`, `SignatureError`.

A message says what was found, what was expected, and what to do.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class AdadmError(Exception):
    """The root of the tree; the command line prints it and exits 1."""


class MissingDependencyError(AdadmError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        name = package.replace("_", "-")
        super().__init__(
            f"{name} is not installed, but required: pip install 'adadm-deploy[{extra}]'"
        )


class OutputError(AdadmError):
    """An output would replace an input or another output, or is not a regular file."""


class ImageError(AdadmError):
    """An image cannot be read, or has the wrong shape or type."""


class CheckpointError(AdadmError):
    """A checkpoint cannot be read, or does not fit a network."""


class ExportError(AdadmError):
    """A network cannot become the required ONNX file."""


class CalibrationError(AdadmError):
    """Calibration images are missing or unreadable, or a lowered model misses its quality."""


class ParityError(AdadmError):
    """Two backends disagree by more than the tolerance."""


class SessionError(AdadmError):
    """A backend refuses a model or a feed, or a result is not its input enlarged."""


class RefusedModelError(SessionError):
    """A backend is here, and refuses the model."""


class TilingError(AdadmError):
    """An image cannot be cut into the required tiles."""


class EngineError(AdadmError):
    """A model, engine, manifest or bundle is damaged or mismatched, or cannot be used here."""


class SignatureError(AdadmError):
    """A key cannot be used, or a signature is missing, damaged, or not of this file and key."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module.

    Raises:
        MissingDependencyError: the module is not installed; the message has the install line.
        SessionError: the module is installed, but a library that it needs is missing or unfit.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != module.split(".")[0]:
            raise
        raise MissingDependencyError(module.split(".")[0], extra) from error
    except ImportError as error:
        raise SessionError(f"{module} is installed, but cannot be loaded: {error}") from error
