"""What every backend offers: a loaded model that checks what it is fed."""

from __future__ import annotations

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
_Length = TypeVar("_Length")
_Self = TypeVar("_Self", bound="Session")  # typing.Self needs Python 3.11


@dataclass(frozen=True)
class SizeRange:
    """H and W of an image that a model takes, px, from `least` to `most`; by default any."""

    least: tuple[int, int] = (1, 1)
    most: tuple[int, int] = (_UNBOUNDED, _UNBOUNDED)

    def holds(self, size: tuple[int, int]) -> bool:
        """Whether an image of H and W can be run."""
        return self.nearest(size) == size

    def nearest(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size of the range that is nearest."""
        height, width = (
            max(least, min(length, most))
            for least, length, most in zip(self.least, size, self.most, strict=True)
        )
        return height, width

    @property
    def is_fixed(self) -> bool:
        """Whether it is one size."""
        return self.least == self.most

    @property
    def is_bounded(self) -> bool:
        """Whether there is a largest size, which the memory was planned for."""
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

    For one thread at a time: backends differ in what they allow besides.

    Attributes:
        inputs, outputs: what `run` takes and returns.
        metadata: of the model.
        backend: the name under which `open_session` opened it.
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    metadata: ModelMetadata
    backend = ""
    _closed = False

    def run(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Run the model on arrays by input name; returns arrays by output name.

        Raises:
            SessionError: the session is closed; names, data types or shapes do not fit; or the
                backend fails.
        """
        self._check(feed)
        return self._run(feed)

    def run_shared(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """As `run`, for a loop that is done with the results before it runs again.

        A backend may save a copy: then the next run overwrites them, of whatever shape, and they
        must not be touched once the session is closed.

        Raises:
            SessionError: as `run` does.
        """
        return self.run(feed)

    @property
    def sizes(self) -> list[SizeRange]:
        """Of the one image that `lr` may be; none where it is several images or nothing."""
        (shape,) = (spec.shape for spec in self.inputs if spec.name == "lr")
        if isinstance(shape[0], int) and shape[0] != 1:
            return []
        (least_h, most_h), (least_w, most_w) = map(_bounds, self._height_and_width(shape))
        return [SizeRange((least_h, least_w), (most_h, most_w))]

    def close(self) -> None:
        """Give the backend's memory back. Twice is as good as once."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def _run(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Run on arrays that are checked; the results belong to the caller."""

    @abstractmethod
    def _release(self) -> None:
        """Drop what holds the backend's memory."""

    def _height_and_width(self, shape: Sequence[_Length]) -> tuple[_Length, _Length]:
        """Of the shape of `lr`: images are (N, H, W, 3), planes (N, 3, H, W)."""
        first = 1 if self.metadata.is_uint8 else 2
        return shape[first], shape[first + 1]

    def _check(self, feed: Mapping[str, FloatArray]) -> None:
        if self._closed:
            raise SessionError("the session is closed; open the model again")
        expected = {spec.name: spec for spec in self.inputs}
        if feed.keys() != expected.keys():
            raise SessionError(f"fed {sorted(feed)}, the model reads {sorted(expected)}")
        least = self.metadata.smallest_area or 1
        for name, array in feed.items():
            spec = expected[name]
            fits = len(array.shape) == len(spec.shape) and all(
                not isinstance(wanted, int) or wanted == length
                for length, wanted in zip(array.shape, spec.shape, strict=True)
            )
            if array.dtype != spec.dtype or not fits:
                raise SessionError(
                    f"{name} is {array.dtype} {array.shape}, expected {spec.dtype} {spec.shape}"
                )
            if name == "lr":
                height, width = self._height_and_width(array.shape)
                if height * width < least:
                    raise SessionError(
                        f"{name} has {height}x{width} px, the network needs at least {least} in all"
                    )


def _bounds(length: int | str | None) -> tuple[int, int]:
    """The least and the most of a dimension."""
    return (length, length) if isinstance(length, int) else (1, _UNBOUNDED)
