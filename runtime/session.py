"""What every backend offers: a loaded model that checks what it is fed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from adadm.runtime.errors import SessionError

__all__ = ["Array", "Session", "TensorSpec"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output; a string or None in the shape is a free dimension."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype[Any]


class Session(ABC):
    """A model loaded into a backend; also a context manager that closes it.

    For one thread at a time: backends differ in what they allow besides.

    Attributes:
        inputs, outputs: what `run` takes and returns.
        metadata: of the model, such as `adadm.rgb_range`.
        backend: the name under which `open_session` opened it.
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    metadata: dict[str, str]
    backend = ""
    _closed = False

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model on arrays by input name; returns arrays by output name.

        Raises:
            SessionError: the session is closed; names, data types or shapes do not fit; or the
                backend fails.
        """
        if self._closed:
            raise SessionError("the session is closed; open the model again")
        self._check(feed)
        return self._run(feed)

    def close(self) -> None:
        """Give the backend's memory back. Twice is as good as once."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run on arrays that are checked; the results belong to the caller."""

    @abstractmethod
    def _release(self) -> None:
        """Drop what holds the backend's memory."""

    def _check(self, feed: Mapping[str, Array]) -> None:
        expected = {spec.name: spec for spec in self.inputs}
        if feed.keys() != expected.keys():
            raise SessionError(f"fed {sorted(feed)}, the model reads {sorted(expected)}")
        least = int(self.metadata.get("adadm.smallest_area", 1))
        for name, array in feed.items():
            spec = expected[name]
            fits = len(array.shape) == len(spec.shape) and all(
                not isinstance(wanted, int) or wanted == found
                for found, wanted in zip(array.shape, spec.shape, strict=True)
            )
            if array.dtype != spec.dtype or not fits:
                raise SessionError(
                    f"{name} is {array.dtype} {array.shape}, expected {spec.dtype} {spec.shape}"
                )
            if name == "lr":
                is_image = self.metadata.get("adadm.io") == "uint8"  # (N, H, W, 3)
                height, width = array.shape[1:3] if is_image else array.shape[2:]
                if height * width < least:
                    raise SessionError(
                        f"{name} has {height}x{width} px, the network needs at least {least} in all"
                    )
