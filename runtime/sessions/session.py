"""Interface of every backend: a loaded model that checks its inputs."""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy.typing as npt

from adadm.runtime.errors import SessionError
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.models.tensor_spec import TensorSpec

FloatArray = npt.NDArray[Any]

_UNBOUNDED = sys.maxsize
_LONGEST_REASON = 300
_PLACES = "|".join(
    (
        r"\[ONNXRuntimeError\] : \d+ : \w+ : ",
        r"/onnxruntime_src/\S+ .*?\)\s(?=[A-Z\[])",  # with the signature of a function
        r"Exception from \S+:\d+:",
        r"Check '.*?' failed at \S+:\d+:",
        r"FrontEnd API failed with \w+:",
    )
)
"""Kinds of errors and places in the source code of backends."""
_Length = TypeVar("_Length")
_Self = TypeVar("_Self", bound="Session")  # typing.Self needs Python 3.11


@dataclass(frozen=True)
class SizeRange:
    """Range of the image sizes (H, W) that a model takes, px; by default any."""

    least: tuple[int, int] = (1, 1)
    most: tuple[int, int] = (_UNBOUNDED, _UNBOUNDED)

    def holds(self, size: tuple[int, int]) -> bool:
        """True if an image of this H and W is in the range."""
        return self.nearest(size) == size

    def nearest(self, size: tuple[int, int]) -> tuple[int, int]:
        """The nearest size in the range."""
        height, width = (
            max(least, min(length, most))
            for least, length, most in zip(self.least, size, self.most, strict=True)
        )
        return height, width

    @property
    def is_fixed(self) -> bool:
        """True if the range is a single size."""
        return self.least == self.most

    @property
    def is_bounded(self) -> bool:
        """True if there is a largest size, which the memory was planned for."""
        return _UNBOUNDED not in self.most

    def __str__(self) -> str:
        (least_h, least_w), (most_h, most_w) = (
            ("any" if length == _UNBOUNDED else str(length) for length in size)
            for size in (self.least, self.most)
        )
        least = "" if self.is_fixed else f"{least_w}x{least_h} to "
        return f"{least}{most_w}x{most_h} px"


class Session(ABC):
    """A model loaded into a backend; also a context manager that closes it.

    For one thread at a time: some backends do not allow more.

    Attributes:
        inputs, outputs: tensors that `run` takes and returns.
        metadata: metadata of the model.
        backend: name of the backend, set by `open_session`.
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    metadata: ModelMetadata
    backend = ""
    _closed = False

    def run(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Run the model on arrays by input name; return arrays by output name.

        Raises:
            SessionError: the session is closed; names, data types or shapes do not match; or the
                backend fails.
        """
        self._check(feed)
        return self._run(feed)

    def run_shared(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Run the model like `run`, without copying the results if the backend can.

        The next run of any shape may overwrite the results. They must not be used after the session
        is closed.

        Raises:
            SessionError: as for `run`.
        """
        return self.run(feed)

    @property
    def sizes(self) -> list[SizeRange]:
        """Sizes accepted for a single image; empty if the model takes only batches."""
        (shape,) = (spec.shape for spec in self.inputs if spec.name == "lr")
        if isinstance(shape[0], int) and shape[0] != 1:
            return []
        (least_h, most_h), (least_w, most_w) = map(_bounds, self._height_and_width(shape))
        return [SizeRange((least_h, least_w), (most_h, most_w))]

    def close(self) -> None:
        """Release the backend's memory. Idempotent."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def _run(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Run on checked arrays; the caller owns the results."""

    @abstractmethod
    def _release(self) -> None:
        """Drop the objects that hold the backend's memory."""

    def _height_and_width(self, shape: Sequence[_Length]) -> tuple[_Length, _Length]:
        """H and W of the shape of `lr`: images are (N, H, W, 3), planes (N, 3, H, W)."""
        first = 1 if self.metadata.is_uint8 else 2
        return shape[first], shape[first + 1]

    def _check(self, feed: Mapping[str, FloatArray]) -> None:
        if self._closed:
            raise SessionError("the session is closed; open the model again")
        expected = {spec.name: spec for spec in self.inputs}
        if feed.keys() != expected.keys():
            raise SessionError(f"expected inputs {sorted(expected)}, got {sorted(feed)}")
        least = self.metadata.smallest_area or 1
        for name, array in feed.items():
            spec = expected[name]
            fits = len(array.shape) == len(spec.shape) and all(
                not isinstance(wanted, int) or wanted == length
                for length, wanted in zip(array.shape, spec.shape, strict=True)
            )
            if array.dtype != spec.dtype or not fits:
                raise SessionError(
                    f"{name}: expected {spec.dtype} {spec.shape}, got {array.dtype} {array.shape}"
                )
            if name == "lr":
                height, width = self._height_and_width(array.shape)
                if height * width < least:
                    raise SessionError(
                        f"{name}: expected at least {least} px in all, got {height}x{width}"
                    )


def reason_of(error: Exception) -> str:
    """What a backend says of an error, in one line, without places in its source code."""
    said = re.sub(_PLACES, "", str(error))
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if not line.endswith(":")), len(lines))
    line = " ".join(lines[: first + 1]) or type(error).__name__
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."


def _bounds(length: int | str | None) -> tuple[int, int]:
    """Least and largest length of a dimension."""
    return (length, length) if isinstance(length, int) else (1, _UNBOUNDED)
