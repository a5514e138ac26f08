"""Interface of every backend: a loaded model that checks its inputs."""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from adadm.runtime.errors import SessionError
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.models.tensor_spec import Shape, TensorSpec

FloatArray = npt.NDArray[Any]

_RANK = 4
_IMAGE_TYPES = (np.float32, np.uint8)
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


@dataclass(frozen=True)
class Timing:
    """Times of a model on the backends of this machine.

    Attributes:
        height, width: size of the image, px.
        seconds: of the fastest of some inferences, by backend.
    """

    height: int
    width: int
    seconds: Mapping[str, float]

    @property
    def fastest(self) -> str:
        """Name of the fastest backend."""
        return min(self.seconds, key=lambda name: self.seconds[name])

    def __str__(self) -> str:
        times = (f"{name} {1000 * self.seconds[name]:.3g} ms" for name in sorted(self.seconds))
        return f"{', '.join(times)} for {self.width}x{self.height} px"


class Session(ABC):
    """A model loaded into a backend; also a context manager that closes it.

    For one thread at a time: some backends do not allow more.

    Attributes:
        inputs, outputs: tensors that `run` takes and returns.
        metadata: metadata of the model.
        backend: name of the backend, set by `open_session`.
        timing: why `auto` chose it; None if it did not time.
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    metadata: ModelMetadata
    backend = ""
    timing: Timing | None = None
    _closed = False

    def run(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Run the model on arrays by input name; return arrays by output name.

        Raises:
            SessionError: the session is closed; names, data types or shapes do not match; the
                backend fails; or `sr` is not `upscale` times as large as `lr`.
        """
        self._check(feed)
        return self._checked(self._run(feed), feed)

    def run_shared(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Run the model like `run`, without copying the results if the backend can.

        The next run of any shape may overwrite the results. They must not be used after the session
        is closed.

        Raises:
            SessionError: as for `run`.
        """
        self._check(feed)
        return self._checked(self._run_shared(feed), feed)

    @property
    def sizes(self) -> list[SizeRange]:
        """Sizes accepted for a single image; empty if the model takes only batches.

        Raises:
            SessionError: the model does not read `lr` of four dimensions.
        """
        shape = self._lr_shape()
        if isinstance(shape[0], int) and shape[0] != 1:
            return []
        (least_h, most_h), (least_w, most_w) = map(_bounds, self._height_and_width(shape))
        return [SizeRange((least_h, least_w), (most_h, most_w))]

    def expect(self, reads: Collection[str], returns: str, model: object) -> None:
        """Check that the model is one for images.

        Args:
            reads: names of its inputs.
            returns: name that must be among its outputs.
            model: path of the model, for messages.

        Raises:
            SessionError: it has other inputs, or lacks the output; or `lr` is not a batch of
                float32 or uint8.
        """
        inputs = {spec.name: spec for spec in self.inputs}
        if (
            inputs.keys() != set(reads)
            or returns not in {spec.name for spec in self.outputs}
            or inputs["lr"].dtype not in _IMAGE_TYPES
            or len(inputs["lr"].shape) != _RANK
        ):
            raise SessionError(
                f"{model}: expected a model that reads {', '.join(reads)}, with lr (N, 3, H, W) in "
                f"float32 or (N, H, W, 3) in uint8, and returns {returns}, got one that reads "
                f"{', '.join(map(str, self.inputs))}, and returns "
                f"{', '.join(map(str, self.outputs))}; export the network with 'adadm export'"
            )

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

    def _run_shared(self, feed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Run on checked arrays like `_run`, for `run_shared`."""
        return self._run(feed)

    @abstractmethod
    def _release(self) -> None:
        """Drop the objects that hold the backend's memory."""

    def _describe(
        self,
        inputs: list[TensorSpec],
        outputs: list[TensorSpec],
        metadata: Mapping[str, str],
        model: object,
    ) -> None:
        """Set what the backend says of a model, and compare it with the model's metadata.

        Raises:
            EngineError: as for `ModelMetadata.from_props` and `check_tensors`.
        """
        self.inputs, self.outputs = inputs, outputs
        self.metadata = ModelMetadata.from_props(metadata, model)
        self.metadata.check_tensors(inputs, outputs, model)

    def _lr_shape(self) -> Shape:
        shape = next((spec.shape for spec in self.inputs if spec.name == "lr"), ())
        if len(shape) != _RANK:
            raise SessionError(
                "expected a model that reads lr of four dimensions, got one that reads "
                f"{', '.join(map(str, self.inputs))}"
            )
        return shape

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
            if not spec.fits(array.shape, array.dtype):
                raise SessionError(
                    f"{name}: expected {spec.dtype} {spec.shape}, got {array.dtype} {array.shape}"
                )
            if name == "lr":
                self._lr_shape()  # raises where it is no batch of images
                height, width = self._height_and_width(array.shape)
                if height * width < least:
                    raise SessionError(
                        f"{name}: expected at least {least} px in all, got {height}x{width}"
                    )

    def _checked(
        self, results: dict[str, FloatArray], feed: Mapping[str, FloatArray]
    ) -> dict[str, FloatArray]:
        """Results, if `sr` has the size that the metadata says."""
        if self.metadata.upscale is not None and "lr" in feed and "sr" in results:
            expected, found = self.metadata.enlarged(feed["lr"].shape), results["sr"].shape
            if found != expected:
                raise SessionError(
                    f"expected sr {expected} for lr {feed['lr'].shape}, as the model's metadata "
                    f"says upscale {self.metadata.upscale}, got {found}; export it again"
                )
        return results


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
